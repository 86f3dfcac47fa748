"""What is acted in: Bernoulli bandits, tabular MDPs, trials of several episodes in one task; and how agents are judged.

An agent sees what RL² sees: the observation, its own last action, the last reward, and, in a trial, whether an episode
has just ended. `play` is one loop for all agents, learned or not.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from gan_jax.arithmetic import require_counts
from gan_jax.base import Environment, Key


class MDP(NamedTuple):
    """A tabular MDP: mean rewards [S, A], and probabilities of the next state [S, A, S]."""

    rewards: Float[Array, "S A"]
    transitions: Float[Array, "S A S"]


class Place(NamedTuple):
    """Where an episode in a tabular MDP stands: the state, and the steps done; int32 scalars."""

    state: Int[Array, ""]
    step: Int[Array, ""]


class TrialState(NamedTuple):
    """Where a trial stands: the state of the inner environment, and the episodes done (int32 scalar)."""

    inner: Any
    episode: Int[Array, ""]


class Seen(NamedTuple):
    """What an agent is given before it acts.

    observation: [D]. action: the last one, int32 [heads], -1 where there is none. reward: the last one, or 0.
    step: how many steps of the trial are done, int32; at 0 an agent forgets all that it has seen.
    """

    observation: Float[Array, " D"]
    action: Int[Array, " heads"]
    reward: Float[Array, ""]
    step: Int[Array, ""]


class Agent(NamedTuple):
    """What acts.

    init: `() -> memory`.
    act: `(key, memory, seen) -> (memory, action int32 [heads])`.
    """

    init: Callable[[], Any]
    act: Callable[[Key, Any, Seen], tuple[Any, Array]]


class Moment(NamedTuple):
    """One step as it was played; a trial has a leading axis [L] of its environment's horizon.

    seen: before the action. reward: after it. done: whether the trial ended with it.
    ongoing: whether the step is part of the trial; what comes after the end is to be left out of everything.
    """

    seen: Seen
    action: Int[Array, " heads"]
    reward: Float[Array, ""]
    done: Bool[Array, ""]
    ongoing: Bool[Array, ""]


class Estimate(NamedTuple):
    """A mean, and the half width of its 95 % interval."""

    mean: Float[Array, ""]
    interval: Float[Array, ""]


def bandits(arms: int) -> Environment:
    """Return Bernoulli bandits whose arms pay 1 with probabilities p ~ U(0, 1), drawn once for each task.

    An episode is one pull, and nothing is observed but its reward. Parameters are p [arms].

    Raises:
        ValueError: `arms` is less than 1.
    """
    require_counts(arms=arms)
    nothing = jnp.zeros(0)

    def draw(key: Key) -> Array:
        return jax.random.uniform(key, (arms,))

    def reset(key: Key, p: Array) -> tuple[Array, tuple[()]]:
        return nothing, ()

    def step(key: Key, p: Array, state: tuple[()], action: Array) -> tuple[Array, tuple[()], Array, Array]:
        return nothing, (), jax.random.bernoulli(key, p[action[0]]).astype(p.dtype), jnp.bool_(True)

    return Environment(draw, reset, step, choices=(arms,), observation=0, horizon=1)


def mdps(states: int = 10, actions: int = 5, horizon: int = 10) -> Environment:
    """Return tabular MDPs with mean rewards N(1, 1), unit noise on each reward, and flat Dirichlet transitions.

    Each has so many `states` and, in each of them, so many `actions`. An episode begins in state 0 and has `horizon`
    steps; the state is observed, one-hot. Parameters are an `MDP`.
    Duan et al. 2016 (arXiv 1611.02779), as in Osband et al. 2013 (arXiv 1306.0940).

    Raises:
        ValueError: a size is less than 1.
    """
    require_counts(states=states, actions=actions, horizon=horizon)

    def observed(state: Array) -> Array:
        return jax.nn.one_hot(state, states)

    def draw(key: Key) -> MDP:
        reward_key, transition_key = jax.random.split(key)
        # A flat Dirichlet is exponentials over their sum.
        weights = jax.random.exponential(transition_key, (states, actions, states))
        return MDP(1 + jax.random.normal(reward_key, (states, actions)), weights / weights.sum(axis=-1, keepdims=True))

    def reset(key: Key, mdp: MDP) -> tuple[Array, Place]:
        return observed(jnp.int32(0)), Place(jnp.int32(0), jnp.int32(0))

    def step(key: Key, mdp: MDP, place: Place, action: Array) -> tuple[Array, Place, Array, Array]:
        reward_key, state_key = jax.random.split(key)
        at = (place.state, action[0])
        reward = mdp.rewards[at] + jax.random.normal(reward_key)
        state = jax.random.choice(state_key, states, p=mdp.transitions[at]).astype(jnp.int32)
        return observed(state), Place(state, place.step + 1), reward, place.step + 1 == horizon

    return Environment(draw, reset, step, choices=(actions,), observation=states, horizon=horizon)


def trial(environment: Environment, episodes: int) -> Environment:
    """Return the environment whose episode is a trial: several episodes in the same task.

    When an inner episode ends, what is observed next is the beginning of another, and only the end of the last one is
    an end. A last number is appended to what is observed: 1 where an episode has just ended, else 0.

    Raises:
        ValueError: `episodes` is less than 1.
    """
    require_counts(episodes=episodes)

    def flagged(observation: Array, ended: Array) -> Array:
        return jnp.append(observation, ended.astype(observation.dtype))

    def reset(key: Key, parameters: Any) -> tuple[Array, TrialState]:
        observation, inner = environment.reset(key, parameters)
        return flagged(observation, jnp.bool_(False)), TrialState(inner, jnp.int32(0))

    def step(key: Key, parameters: Any, state: TrialState, action: Array) -> tuple[Array, TrialState, Array, Array]:
        step_key, reset_key = jax.random.split(key)
        observation, inner, reward, ended = environment.step(step_key, parameters, state.inner, action)
        again = environment.reset(reset_key, parameters)
        observation, inner = jax.tree.map(partial(jnp.where, ended), again, (observation, inner))
        episode = state.episode + ended
        return flagged(observation, ended), TrialState(inner, episode), reward, episode == episodes

    return environment._replace(
        reset=reset,
        step=step,
        observation=environment.observation + 1,
        horizon=episodes * environment.horizon,
    )


def play(environment: Environment, agent: Agent, key: Key) -> Moment:
    """Play one episode, which of a `trial` is a whole trial, in a task that is drawn; moments [L].

    The task depends on the key alone: agents that are given the same key act in the same one.
    """
    draw_key, reset_key, step_key = jax.random.split(key, 3)
    parameters = environment.draw(draw_key)
    observation, state = environment.reset(reset_key, parameters)
    none = jnp.full(len(environment.choices), -1, jnp.int32)
    first = Seen(observation, none, jnp.zeros((), observation.dtype), jnp.int32(0))

    def one(carry: tuple[Any, Any, Seen, Array], step: Array) -> tuple[tuple[Any, Any, Seen, Array], Moment]:
        memory, state, seen, ongoing = carry
        # The counter of the loop is the same for all trials of a vmap: an agent that plans now and then branches on it.
        seen = seen._replace(step=step)
        act_key, move_key = jax.random.split(jax.random.fold_in(step_key, step))
        memory, action = agent.act(act_key, memory, seen)
        observation, state, reward, done = environment.step(move_key, parameters, state, action)
        moment = Moment(seen, action, reward, done, ongoing)
        return (memory, state, Seen(observation, action, reward, step), ongoing & ~done), moment

    steps = jnp.arange(environment.horizon, dtype=jnp.int32)
    return lax.scan(one, (agent.init(), state, first, jnp.bool_(True)), steps)[1]


def total(moments: Moment) -> Float[Array, ""]:
    """Return the reward of a trial."""
    return jnp.where(moments.ongoing, moments.reward, 0).sum()


def evaluate(environment: Environment, agent: Agent, key: Key, trials: int) -> Estimate:
    """Estimate the expected total reward of an agent over tasks, by as many independent trials under one vmap.

    Raises:
        ValueError: `trials` is less than 2, which leaves no interval.
    """
    if trials < 2:
        raise ValueError(f"trials={trials}: an interval takes 2 or more")
    rewards = jax.vmap(lambda key: total(play(environment, agent, key)))(jax.random.split(key, trials))
    return Estimate(rewards.mean(), 1.96 * rewards.std(ddof=1) / math.sqrt(trials))
