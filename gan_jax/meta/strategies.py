"""Agents that learn a task by rules of a person's: the baselines of bandits and of tabular MDPs.

They act in trials, `trial(bandits(arms), pulls)` and `trial(mdps(...), episodes)`, know the distributions from which
tasks are drawn, and remember a task's posterior: an arm's under Beta(1, 1), an MDP's under the flat Dirichlet and
N(prior, 1) with unit noise. Which are compared follows Duan et al. 2016 (arXiv 1611.02779).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float, Int

from gan_jax.arithmetic import Scalar, allowed, require_counts
from gan_jax.base import Key
from gan_jax.meta.environments import MDP, Agent, Seen


class Counts(NamedTuple):
    """What a bandit's arms have paid so far: successes and failures, [arms]."""

    successes: Float[Array, " arms"]
    failures: Float[Array, " arms"]

    def mean(self) -> Float[Array, " arms"]:
        """The posterior's mean under a Beta(1, 1) prior."""
        return (self.successes + 1) / (self.successes + self.failures + 2)


class Belief(NamedTuple):
    """What is known of a tabular MDP, and what is made of it.

    rewards: sums of the rewards, [S, A]; visits: how many these are.
    moves: counts of the next states, [S, A, S]. The move that ends an episode is not seen.
    state: the last one, int32.
    values: of each step of an episode, state and action, as planned when the episode began; [horizon, S, A].
    """

    rewards: Float[Array, "S A"]
    visits: Float[Array, "S A"]
    moves: Float[Array, "S A S"]
    state: Int[Array, ""]
    values: Float[Array, "horizon S A"]


def uniform(choices: tuple[int, ...]) -> Agent:
    """Act at random, each head independently and uniformly; `choices` are the environment's.

    Raises:
        ValueError: there is no head, or one without a choice.
    """
    if not choices or min(choices) < 1:
        raise ValueError(f"choices={choices}: give a number of at least 1 for each head")
    highest = np.array(choices)

    def act(key: Key, memory: tuple[()], seen: Seen) -> tuple[tuple[()], Array]:
        return (), jax.random.randint(key, highest.shape, 0, highest)

    return Agent(lambda: (), act)


def epsilon_greedy(arms: int, epsilon: Scalar = 0.0) -> Agent:
    """Pull the arm of the highest posterior mean, and with probability `epsilon` any arm.

    Raises:
        ValueError: `arms` is less than 1, or `epsilon` a Python number outside of [0, 1].
    """
    _check_probability(epsilon)

    def choose(key: Key, counts: Counts, step: Array) -> Array:
        return _explored(key, counts.mean(), epsilon)

    return _bandit(arms, choose)


def thompson(arms: int, *, samples: int = 1, optimistic: bool = False) -> Agent:
    """Pull the arm whose mean is highest in a sample of the posterior.

    Of several `samples` the arm that is the best in most is pulled, the first of those where they are equal: the more
    there are, the less is explored. Where it is `optimistic`, a sample below the posterior's mean is replaced by the
    mean (May et al. 2012, JMLR 13).

    Raises:
        ValueError: `arms` or `samples` is less than 1.
    """
    require_counts(samples=samples)

    def choose(key: Key, counts: Counts, step: Array) -> Array:
        drawn = jax.random.beta(key, counts.successes + 1, counts.failures + 1, (samples, arms))
        drawn = jnp.maximum(drawn, counts.mean()[None]) if optimistic else drawn
        return jnp.argmax(jax.nn.one_hot(jnp.argmax(drawn, axis=1), arms).sum(axis=0))

    return _bandit(arms, choose)


def ucb1(arms: int, width: Scalar = 1.0) -> Agent:
    """Pull the arm of the highest bound: mean + width · √(2 log t / T) at the t-th pull, of T of the arm's.

    Mean and T begin as if each arm had been pulled twice, with one success. The original has a width of 1 (Auer et
    al. 2002, Machine Learning 47).

    Raises:
        ValueError: `arms` is less than 1, or `width` a Python number below 0 or not finite.
    """
    if not allowed(width, lambda size: 0 <= size < math.inf):
        raise ValueError(f"width={width} is not finite and at least 0: 1 is the original's, 0.2 does well here")

    def choose(key: Key, counts: Counts, step: Array) -> Array:
        pulled = counts.successes + counts.failures + 2
        return jnp.argmax(counts.mean() + width * jnp.sqrt(2 * jnp.log(step + 1.0) / pulled))

    return _bandit(arms, choose)


def gittins(arms: int, pulls: int) -> Agent:
    """Pull the arm of the highest index over the pulls that are left: Bayes-optimal for one arm against a known one.

    With several unknown arms and a finite horizon it is no longer optimal, but close.

    Raises:
        ValueError: `arms` or `pulls` is less than 1.
    """
    table = jnp.asarray(gittins_index(pulls))

    def choose(key: Key, counts: Counts, step: Array) -> Array:
        indices = table[pulls - 1 - step]
        return jnp.argmax(indices[counts.successes.astype(jnp.int32), counts.failures.astype(jnp.int32)])

    return _bandit(arms, choose)


def gittins_index(pulls: int, *, prices: int = 257) -> Float[np.ndarray, "pulls pulls pulls"]:
    """Return the index of a Bernoulli arm under a Beta(1, 1) prior: [pulls left - 1, successes, failures].

    The index is the price of a pull at which an arm that may be given up at any time is just worth its first pull:
    the largest ratio of expected reward to expected pulls over all times of giving up. The arm's worth at each of
    evenly spaced prices is computed by induction over the pulls left, and the root is interpolated: exact for one
    pull, and else within a spacing. Where more pulls are left than successes and failures leave of `pulls`, it is NaN.
    Memory and time grow with the third power of `pulls`.

    Raises:
        ValueError: `pulls` is less than 1, or `prices` less than 2.
    """
    require_counts(pulls=pulls)
    if prices < 2:
        raise ValueError(f"prices={prices}: it takes 2 or more to interpolate between")
    price = np.linspace(0.0, 1.0, prices)[:, None, None]
    count = np.arange(pulls)
    table = np.full((pulls, pulls, pulls), np.nan, np.float32)
    worth = np.zeros((prices, pulls + 1, pulls + 1))  # with no pull left
    for left in range(1, pulls + 1):
        size = pulls - left + 1
        successes, failures = count[:size, None], count[:size]
        mean = (successes + 1) / (successes + failures + 2)
        pulled = mean - price + mean * worth[:, 1:, :-1] + (1 - mean) * worth[:, :-1, 1:]
        # It falls with the price, from above 0 at price 0 to below at price 1.
        below = np.argmax(pulled <= 0, axis=0)[None]
        high, low = (np.take_along_axis(pulled, at, axis=0)[0] for at in (below - 1, below))
        root = (below[0] - 1 + high / (high - low)) / (prices - 1)
        table[left - 1, :size, :size] = np.where(successes + failures <= pulls - left, root, np.nan)
        worth = np.maximum(pulled, 0)
    return table


def certainty_equivalent(
    states: int, actions: int, horizon: int, epsilon: Scalar = 0.0, *, prior: Scalar = 1.0
) -> Agent:
    """Plan each episode in the mean of the posterior, and with probability `epsilon` take any action.

    There are so many `states` and `actions`, and an episode has `horizon` steps. The prior mean of the rewards is 1
    where `mdps` are drawn; below, what is unknown is shunned.

    Raises:
        ValueError: a size is less than 1, or `epsilon` a Python number outside of [0, 1].
    """
    _check_probability(epsilon)

    def planned(key: Key, belief: Belief) -> Array:
        return plan(mean(belief, prior), horizon)

    return _tabular(states, actions, horizon, planned, epsilon)


def psrl(states: int, actions: int, horizon: int, *, samples: int = 1, prior: Scalar = 1.0) -> Agent:
    """Plan each episode, of `horizon` steps, in an MDP that is sampled from the posterior.

    With several samples it is optimistic: the value of a state and an action is the highest among the samples, after
    Osband and Van Roy 2016 (arXiv 1607.00215). The prior mean of the rewards is 1 where `mdps` are drawn. Osband et
    al. 2013 (arXiv 1306.0940).

    Raises:
        ValueError: a size or `samples` is less than 1.
    """
    require_counts(samples=samples)

    def planned(key: Key, belief: Belief) -> Array:
        def one(key: Key) -> Array:
            return plan(sample(key, belief, prior), horizon)

        return jax.vmap(one)(jax.random.split(key, samples)).max(axis=0)

    return _tabular(states, actions, horizon, planned, 0.0)


def plan(mdp: MDP, horizon: int) -> Float[Array, "horizon S A"]:
    """Return what is expected from each of the `horizon` steps of an episode on, by state and action.

    All actions that follow are the best.
    """

    def back(value: Array, _: None) -> tuple[Array, Array]:
        values = mdp.rewards + mdp.transitions @ value
        return values.max(axis=-1), values

    return lax.scan(back, jnp.zeros_like(mdp.rewards[:, 0]), length=horizon, reverse=True)[1]


def mean(belief: Belief, prior: Scalar = 1.0) -> MDP:
    """Return the posterior's mean, where the prior mean of the rewards is as given."""
    moves = belief.moves + 1
    return MDP((prior + belief.rewards) / (1 + belief.visits), moves / moves.sum(axis=-1, keepdims=True))


def sample(key: Key, belief: Belief, prior: Scalar = 1.0) -> MDP:
    """Sample the posterior, where the prior mean of the rewards is as given."""
    reward_key, move_key = jax.random.split(key)
    noise = jax.random.normal(reward_key, belief.rewards.shape) / jnp.sqrt(1 + belief.visits)
    return MDP(mean(belief, prior).rewards + noise, jax.random.dirichlet(move_key, belief.moves + 1))


def _bandit(arms: int, choose: Callable[[Key, Counts, Array], Array]) -> Agent:
    """Make an agent of `(key, counts, pulls done) -> arm`."""
    require_counts(arms=arms)

    def act(key: Key, counts: Counts, seen: Seen) -> tuple[Counts, Array]:
        last = jax.nn.one_hot(seen.action[0], arms)  # of no action: zeros
        counts = Counts(counts.successes + last * seen.reward, counts.failures + last * (1 - seen.reward))
        counts = jax.tree.map(lambda count: jnp.where(seen.step == 0, 0, count), counts)
        return counts, choose(key, counts, seen.step).astype(jnp.int32)[None]

    return Agent(lambda: Counts(jnp.zeros(arms), jnp.zeros(arms)), act)


def _tabular(
    states: int, actions: int, horizon: int, planned: Callable[[Key, Belief], Array], epsilon: Scalar
) -> Agent:
    """Make an agent of `(key, belief) -> values [horizon, S, A]`, which is called as an episode begins."""
    require_counts(states=states, actions=actions, horizon=horizon)

    def init() -> Belief:
        table = jnp.zeros((states, actions))
        return Belief(
            table, table, jnp.zeros((states, actions, states)), jnp.int32(0), jnp.zeros((horizon, states, actions))
        )

    def act(key: Key, belief: Belief, seen: Seen) -> tuple[Belief, Array]:
        plan_key, act_key = jax.random.split(key)
        state, ended = jnp.argmax(seen.observation[:-1]), seen.observation[-1]
        at = (belief.state, seen.action[0])
        belief = belief._replace(
            rewards=belief.rewards.at[at].add(seen.reward),
            visits=belief.visits.at[at].add(1),
            moves=belief.moves.at[(*at, state)].add(1 - ended),
        )
        belief = jax.tree.map(lambda new, now: jnp.where(seen.step == 0, new, now), init(), belief)
        step = seen.step % horizon
        values = lax.cond(step == 0, planned, lambda key, belief: belief.values, plan_key, belief)
        belief = belief._replace(state=state.astype(jnp.int32), values=values)
        return belief, _explored(act_key, values[step, state], epsilon).astype(jnp.int32)[None]

    return Agent(init, act)


def _explored(key: Key, values: Array, epsilon: Scalar) -> Array:
    """The best choice, or with probability `epsilon` any of them."""
    whether_key, which_key = jax.random.split(key)
    anything = jax.random.randint(which_key, (), 0, len(values))
    return jnp.where(jax.random.bernoulli(whether_key, epsilon), anything, jnp.argmax(values))


def _check_probability(epsilon: Scalar) -> None:
    if not allowed(epsilon, lambda share: 0 <= share <= 1):
        raise ValueError(f"epsilon={epsilon} is no probability: 0.1 is usual")
