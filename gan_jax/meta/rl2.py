"""RL²: fast reinforcement learning via slow reinforcement learning (Duan et al. 2016, arXiv 1611.02779).

A recurrent policy plays trials, several episodes in one task, and its memory lives for a trial: what it remembers when
an episode ends is what it has learned of the task. Its weights are learned across tasks, by proximal policy
optimisation (Schulman et al. 2017, arXiv 1707.06347) with generalised advantages (Schulman et al. 2016, arXiv
1506.02438) where the paper has trust regions.

All is written for one trial, and vmapped over trials: one matrix product then serves them all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from gan_jax.arithmetic import Scalar, require_counts, require_nonnegative
from gan_jax.base import Environment, Key, Metrics, Program
from gan_jax.meta.environments import Agent, Moment, Seen, play, total
from gan_jax.meta.tasks import NOTHING


@dataclass(frozen=True, kw_only=True)
class Config:
    """How a recurrent policy is built and learned."""

    hidden: int = 64
    """Width of the memory."""
    trials: int = 1024
    """Trials played in a step, at the same time."""
    epochs: int = 4
    """Times that a step's trials are learned from."""
    minibatches: int = 4
    """Parts of the trials that make an update each."""
    discount: float = 0.99
    """Of rewards within a trial, for each step."""
    trace: float = 0.95
    """The lambda of generalised advantages."""
    clip: float = 0.2
    """How far from 1 an importance ratio is followed."""
    value_weight: float = 0.5
    """Weight of the value's error in the loss. The error is in units of a whole trial's worth, as rewards are, and so
    the smaller the longer trials are."""
    entropy_weight: float | optax.Schedule = 0.01
    """Weight of the policy's entropy in the loss: a number, or a function of the steps done."""
    truncation: int | None = None
    """Steps through which gradients are propagated back; None is the whole trial."""
    span: int | None = None
    """Steps for which the longest-lived units of the memory keep what they hold before anything is learned; None is the
    whole trial. At 2 all of them lose half at each step."""


class Weights(NamedTuple):
    """A gated recurrent unit and the heads of policy and value.

    inputs: [F, 3H] and recurrent: [H, 3H] and bias: [3H], of the gates "reset" and "update" and of the candidate.
    policy: [H, C], bias [C], the logits of all heads of an action side by side. value: [H], bias scalar.
    """

    inputs: Float[Array, "F 3H"]
    recurrent: Float[Array, "H 3H"]
    bias: Float[Array, " 3H"]
    policy: Float[Array, "H C"]
    policy_bias: Float[Array, " C"]
    value: Float[Array, " H"]
    value_bias: Float[Array, ""]


class RL2State(NamedTuple):
    """Where learning stands: the weights, their optimiser's state, and the steps done (int32 scalar)."""

    params: Weights
    optimiser: Any
    step: Int[Array, ""]


class Lesson(NamedTuple):
    """What is learned from a trial, [L]: its moments, and what the policy that played them says of each.

    log_prob: of the action. advantage: of the action. target: what the value is to be.
    """

    moments: Moment
    log_prob: Float[Array, " L"]
    advantage: Float[Array, " L"]
    target: Float[Array, " L"]


class RL2(NamedTuple):
    """A learner across the tasks of an environment.

    init: `key -> state`.
    step: `(key, state, batch={}) -> (state, metrics)`: trials are played, and learned from; it takes no data.
    act: `(params, memory, seen, key) -> (memory, action)`. A memory is [H]; where `seen.step` is 0 it begins anew.
    agent: `params -> Agent`, for `environments.play`.
    """

    init: Callable[[Key], RL2State]
    step: Callable[..., tuple[RL2State, Metrics]]
    act: Callable[[Weights, Array, Seen, Key], tuple[Array, Array]]
    agent: Callable[[Weights], Agent]


def rl2(environment: Environment, optimiser: optax.GradientTransformation, config: Config | None = None) -> RL2:
    """Make a learner across the tasks of an environment whose episode is a trial (`environments.trial`).

    A step plays `config.trials` whole trials in as many tasks, and makes `epochs * minibatches` updates.

    Metrics: "rl2/reward", the mean total reward of the trials; "rl2/policy", "rl2/value" and "rl2/entropy", the parts
        of the loss, and "rl2/clipped", the share of ratios beyond the clip, averaged over the updates; "rl2/slope", the
        norm of the gradient.

    Raises:
        ValueError: a size that is none, a share or weight out of its range, trials that do not divide into the
            minibatches, or steps of a trial that do not divide into the truncation.
    """
    config = Config() if config is None else config
    _check(environment, config)
    choices = environment.choices
    # In units of a whole trial's worth, so that values are of one size however long a trial is.
    unit = sum(config.discount**step for step in range(environment.horizon))

    def init(key: Key) -> RL2State:
        params = weights(key, environment, config.hidden, config.span)
        return RL2State(params, optimiser.init(params), jnp.int32(0))

    def act(params: Weights, memory: Array, seen: Seen, key: Key) -> tuple[Array, Array]:
        memory = recall(params, memory, seen.step, features(choices, seen))
        return memory, sample(key, choices, heads(params, memory)[0])

    def agent(params: Weights) -> Agent:
        return Agent(lambda: fresh(params), lambda key, memory, seen: act(params, memory, seen, key))

    def lesson(params: Weights, moments: Moment) -> Lesson:
        logits, values = replay(params, choices, moments.seen, None)
        rewards = moments.reward / unit
        # No trial goes on past the horizon: nothing is left to be bootstrapped.
        advantage = gae(rewards, jnp.append(values, 0), ~moments.done, config.discount, config.trace)
        return Lesson(moments, log_prob(choices, logits, moments.action), advantage, advantage + values)

    def step(key: Key, state: RL2State, batch: Mapping[str, Array] = {}) -> tuple[RL2State, Metrics]:  # read only
        keys = jax.random.split(key, config.trials)
        # Trials lie along the second axis, where a scan over steps leaves them.
        moments = jax.vmap(partial(play, environment, agent(state.params)), out_axes=1)(keys)
        lessons = jax.vmap(partial(lesson, state.params), in_axes=1, out_axes=1)(moments)
        lessons = lessons._replace(advantage=standardised(lessons.advantage, moments.ongoing))
        # Trials are exchangeable: these parts are as random as any.
        parts = jax.tree.map(lambda x: jnp.stack(jnp.split(x, config.minibatches, axis=1)), lessons)

        weight = config.entropy_weight(state.step) if callable(config.entropy_weight) else config.entropy_weight

        def update(state: RL2State, part: Lesson) -> tuple[RL2State, Metrics]:
            slope, metrics = jax.grad(partial(loss, config, choices), has_aux=True)(state.params, part, weight)
            now: Any = state.params  # optax's annotations know no NamedTuples
            updates, moved = optimiser.update(slope, state.optimiser, now)
            params: Any = optax.apply_updates(now, updates)
            return state._replace(params=params, optimiser=moved), {**metrics, "rl2/slope": optax.tree.norm(slope)}

        def epoch(state: RL2State, _: None) -> tuple[RL2State, Metrics]:
            return lax.scan(update, state, parts)

        state, metrics = lax.scan(epoch, state, length=config.epochs)
        reward = jax.vmap(total, in_axes=1)(moments).mean()
        return state._replace(step=state.step + 1), {"rl2/reward": reward, **jax.tree.map(jnp.mean, metrics)}

    return RL2(init, step, act, agent)


def program(learner: RL2, *, steps: int, chunk: int = 1) -> Program:
    """Return a learner as what the training loop runs, fed with nothing; `steps` and `chunk` are Program's fields."""
    return Program(learner.init, learner.step, NOTHING, lambda key, state: {}, steps=steps, chunk=chunk)


def gae(
    rewards: Float[Array, " L"],
    values: Float[Array, " L+1"],
    goes_on: Bool[Array, " L"],
    discount: float,
    trace: float,
) -> Float[Array, " L"]:
    """Return generalised advantages: Σ (γλ)ⁱ δ_{t+i}, where δ_t = r_t + γ v_{t+1} − v_t (arXiv 1506.02438, eq. 16).

    Args:
        rewards: after each step.
        values: before each step, and after the last: what is still to come where the trial is cut off there.
        goes_on: whether the trial goes on after the step; no sum reaches past its end.
        discount, trace: γ and λ, in [0, 1]. At λ = 1 it is the return minus the value, at λ = 0 the error δ.
    """
    errors = rewards + discount * jnp.where(goes_on, values[1:], 0) - values[:-1]

    def back(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        error, on = now
        advantage = error + discount * trace * jnp.where(on, later, 0)
        return advantage, advantage

    return lax.scan(back, jnp.zeros_like(errors[0]), (errors, goes_on), reverse=True)[1]


def ppo_loss(
    log_prob: Float[Array, "..."], played: Float[Array, "..."], advantage: Float[Array, "..."], clip: float
) -> Float[Array, "..."]:
    """Return −min(ρA, clip(ρ, 1 ± c)A) of each action, with ρ its probability over that with which it was played.

    Schulman et al. 2017 (arXiv 1707.06347), equation 7. Where ρ = 1 its slope is that of −A log π.
    """
    ratio = jnp.exp(log_prob - played)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def loss(
    config: Config, choices: tuple[int, ...], params: Weights, lessons: Lesson, entropy_weight: Scalar
) -> tuple[Array, Metrics]:
    """Return the mean loss over the steps of a batch of lessons [L, B], and its parts.

    Actions are of these `choices`, as the environment has them. `entropy_weight` is an argument beside `config`, as it
    may be another at each step.
    """
    moments = lessons.moments

    def read(moments: Moment) -> tuple[Array, Array, Array]:
        logits, values = replay(params, choices, moments.seen, config.truncation)
        return log_prob(choices, logits, moments.action), entropy(choices, logits), values

    found, uncertain, values = jax.vmap(read, in_axes=1, out_axes=1)(moments)
    mean = partial(jnp.mean, where=moments.ongoing)
    policy = mean(ppo_loss(found, lessons.log_prob, lessons.advantage, config.clip))
    value, uncertain = mean(0.5 * (values - lessons.target) ** 2), mean(uncertain)
    clipped = mean(jnp.abs(jnp.exp(found - lessons.log_prob) - 1) > config.clip)
    metrics = {"rl2/policy": policy, "rl2/value": value, "rl2/entropy": uncertain, "rl2/clipped": clipped}
    return policy + config.value_weight * value - entropy_weight * uncertain, metrics


def standardised(advantage: Float[Array, "L B"], ongoing: Bool[Array, "L B"]) -> Float[Array, "L B"]:
    """Return advantages of mean 0 and deviation 1 over the steps that are part of their trials."""
    mean, deviation = jnp.mean(advantage, where=ongoing), jnp.std(advantage, where=ongoing)
    return (advantage - mean) / (deviation + 1e-8)


def weights(key: Key, environment: Environment, hidden: int, span: int | None = None) -> Weights:
    """Draw a policy that is almost uniform, with a memory of width `hidden`.

    The recurrent maps are orthogonal, the policy's head begins near zero, and the value's at zero. Undriven, a unit of
    the memory keeps 1 − 1/t of what it holds at each step, with t drawn between 2 and `span`, as `Config` has it: what
    Tallec and Ollivier 2018 (arXiv 1804.11188), equation 16, do to a forget gate. Where all forget half at each step,
    nothing of a trial's beginning comes down to its end, nor of the end's gradient to the beginning.
    """
    span = environment.horizon if span is None else span
    inputs = environment.observation + sum(environment.choices) + 1
    outputs = sum(environment.choices)
    input_key, recurrent_key, policy_key, span_key = jax.random.split(key, 4)
    orthogonal = jax.vmap(lambda key: jax.nn.initializers.orthogonal()(key, (hidden, hidden)))
    kept = jnp.log(jax.random.uniform(span_key, (hidden,), minval=1, maxval=max(span - 1, 1)))
    return Weights(
        inputs=jax.nn.initializers.glorot_uniform()(input_key, (inputs, 3 * hidden)),
        recurrent=jnp.concatenate(list(orthogonal(jax.random.split(recurrent_key, 3))), axis=1),
        bias=jnp.zeros(3 * hidden).at[hidden : 2 * hidden].set(kept),
        policy=jax.nn.initializers.orthogonal(0.01)(policy_key, (hidden, outputs)),
        policy_bias=jnp.zeros(outputs),
        value=jnp.zeros(hidden),
        value_bias=jnp.zeros(()),
    )


def features(choices: tuple[int, ...], seen: Seen) -> Float[Array, " F"]:
    """Return what the network reads: the observation, the last action one-hot by its `choices`, the last reward."""
    return jnp.concatenate([seen.observation, *_one_hot(choices, seen.action), seen.reward[None]])


def fresh(params: Weights) -> Float[Array, " H"]:
    """Return the memory of nothing."""
    return jnp.zeros_like(params.value)


def recall(params: Weights, memory: Float[Array, " H"], step: Array, inputs: Float[Array, " F"]) -> Float[Array, " H"]:
    """Return the memory after a step of a gated recurrent unit; at step 0 of a trial it begins anew.

    The reset gate acts on the candidate's product, so that one product serves both gates and the candidate.
    """
    memory = jnp.where(step == 0, fresh(params), memory)
    driven = jnp.split(inputs @ params.inputs + params.bias, 3)
    recurrent = jnp.split(memory @ params.recurrent, 3)
    reset, update = (jax.nn.sigmoid(x + h) for x, h in zip(driven[:2], recurrent[:2], strict=True))
    candidate = jnp.tanh(driven[2] + reset * recurrent[2])
    return update * memory + (1 - update) * candidate


def heads(params: Weights, memory: Float[Array, " H"]) -> tuple[Float[Array, " C"], Float[Array, ""]]:
    """Return the logits of all heads of an action, and the value."""
    return memory @ params.policy + params.policy_bias, memory @ params.value + params.value_bias


def replay(
    params: Weights, choices: tuple[int, ...], seen: Seen, truncation: int | None
) -> tuple[Float[Array, "L C"], Float[Array, " L"]]:
    """Return logits and values along a trial [L] that was seen, of actions of these `choices`.

    Gradients stop at each multiple of the truncation, if there is one.
    """
    length = len(seen.step)
    truncation = length if truncation is None else truncation
    inputs = jax.vmap(partial(features, choices))(seen)
    parts = jax.tree.map(lambda x: x.reshape(-1, truncation, *x.shape[1:]), (seen.step, inputs))

    def one(memory: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        memory = recall(params, memory, *now)
        return memory, memory

    def part(memory: Array, steps: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.scan(one, lax.stop_gradient(memory), steps)

    memories = lax.scan(part, fresh(params), parts)[1].reshape(length, -1)
    return jax.vmap(partial(heads, params))(memories)


def log_prob(choices: tuple[int, ...], logits: Float[Array, "L C"], action: Array) -> Float[Array, " L"]:
    """Return the log-probabilities of actions [L, heads], whose heads, each of so many `choices`, are independent."""
    chosen = jnp.concatenate(_one_hot(choices, action), axis=-1)
    return (chosen * _log_softmax(choices, logits)).sum(axis=-1)


def entropy(choices: tuple[int, ...], logits: Float[Array, "L C"]) -> Float[Array, " L"]:
    """Return the entropies of the policy, in nats, summed over the heads of an action, each of so many `choices`."""
    log = _log_softmax(choices, logits)
    return -(jnp.exp(log) * log).sum(axis=-1)


def sample(key: Key, choices: tuple[int, ...], logits: Float[Array, " C"]) -> Array:
    """Draw an action, int32 [heads], each head of so many `choices`."""
    keys = jax.random.split(key, len(choices))
    drawn = map(jax.random.categorical, keys, _split(choices, logits))
    return jnp.stack(list(drawn)).astype(jnp.int32)


def _split(choices: tuple[int, ...], logits: Array) -> list[Array]:
    ends = [sum(choices[: head + 1]) for head in range(len(choices))]
    return jnp.split(logits, ends[:-1], axis=-1)


def _log_softmax(choices: tuple[int, ...], logits: Array) -> Array:
    """The log-probabilities of all choices, [..., C], normalised head by head."""
    return jnp.concatenate([jax.nn.log_softmax(mine) for mine in _split(choices, logits)], axis=-1)


def _one_hot(choices: tuple[int, ...], action: Array) -> list[Array]:
    """Actions [..., heads] one-hot, a list of heads."""
    return [jax.nn.one_hot(action[..., head], count) for head, count in enumerate(choices)]


def _check(environment: Environment, config: Config) -> None:
    require_counts(hidden=config.hidden, trials=config.trials, epochs=config.epochs, minibatches=config.minibatches)
    for name in ("discount", "trace"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name}={getattr(config, name)} is not in [0, 1]: 0.99 and 0.95 are usual")
    if not 0 < config.clip < math.inf:
        raise ValueError(f"clip={config.clip} must be positive and finite: 0.2 is usual")
    require_nonnegative(value_weight=config.value_weight)
    if not callable(config.entropy_weight):
        require_nonnegative(entropy_weight=config.entropy_weight)
    if config.trials % config.minibatches:
        raise ValueError(f"{config.trials} trials do not divide into {config.minibatches} minibatches: give a multiple")
    if config.span is not None and not config.span >= 2:
        raise ValueError(f"span={config.span}: a memory lasts 2 steps or more")
    if config.truncation is not None:
        require_counts(truncation=config.truncation)
        if environment.horizon % config.truncation:
            raise ValueError(
                f"a trial of {environment.horizon} steps does not divide into truncations of {config.truncation}"
            )
