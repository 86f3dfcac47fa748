"""Ways to tune the training of a learner, in the environments of `control` and all by one loop, so that they compare.

A tuner turns dials by actions, as an agent does, or sets the numbers itself. Schedules and controllers see one run;
`search` and `population` pay for many. What each costs in updates of the learner is said where it is.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from gan_jax.arithmetic import require_counts
from gan_jax.base import Environment, Key, Metrics, Pair, Program
from gan_jax.meta import control, evolution, rl2
from gan_jax.meta.control import CHOICES, KEEP, Episode, Panel, Start, anywhere, at, turned
from gan_jax.meta.environments import Agent, Seen, play, total
from gan_jax.meta.tasks import NOTHING


class Tuner(NamedTuple):
    """What tunes a run.

    init: `numbers -> memory`, at the numbers where the first episode begins.
    act: `(key, memory, seen, episode) -> (memory, numbers [heads], action int32 [heads])`: the numbers are written on
        the dials, and the action turns them from there. Both are clipped to the dials' bounds.
    """

    init: Callable[[Array], Any]
    act: Callable[[Key, Any, Seen, Episode], tuple[Any, Array, Array]]


class Course(NamedTuple):
    """What a tuner did, E episodes of L steps.

    numbers: at which the learner was trained. score: before the first step and after each; after a collapse it stays.
    reward: of each step, 0 where there is none. ongoing: whether the step is part of its episode.
    clipped: how often each dial was turned beyond a bound.
    """

    numbers: Float[Array, "E L heads"]
    score: Float[Array, "E L+1"]
    reward: Float[Array, "E L"]
    ongoing: Bool[Array, "E L"]
    clipped: Int[Array, "E heads"]


class Found(NamedTuple):
    """What a search found: the best numbers [heads], and the score [n] of each candidate."""

    numbers: Float[Array, " heads"]
    score: Float[Array, " n"]


class Generations(NamedTuple):
    """A population's training.

    numbers: at which each member was trained, [L, size, heads]. score: before the first step and after each,
        [L+1, size]. donor: whose state each member went on with after a step, [L, size].
    final: where the members stand at the end, stacked.
    """

    numbers: Float[Array, "L size heads"]
    score: Float[Array, "L+1 size"]
    donor: Int[Array, "L size"]
    final: Episode


class Linear(NamedTuple):
    """A policy without memory: logits of all heads, linear in the observation. kernel [D, C], bias [C]."""

    kernel: Float[Array, "D C"]
    bias: Float[Array, " C"]


def follow(environment: Environment, tuner: Tuner, key: Key, start: Start, episodes: int = 1) -> Course:
    """Let a tuner train the learner for some episodes in one task, and write down what it does.

    What it remembers, its last action and reward are carried from episode to episode, as `environments.trial` does for
    agents; nothing happens between a collapse and the end of an episode. It costs `horizon` times the environment's
    `updates` in each.

    Raises:
        ValueError: `episodes` is less than 1.
    """
    require_counts(episodes=episodes)
    reset_key, act_key = jax.random.split(key)
    heads = len(environment.choices)

    def episode(carry: Any, index: Array) -> tuple[Any, Course]:
        observation, state = environment.reset(jax.random.fold_in(reset_key, index), start)

        def one(now: Any, _: None) -> tuple[Any, tuple[Array, ...]]:
            (memory, action, reward, count), observation, state, ongoing = now
            seen = Seen(observation, action, reward, count)
            mine = jax.random.fold_in(act_key, count)
            memory, numbers, action = tuner.act(mine, memory, seen, state)
            observation, state, reward, done = environment.step(mine, start, state._replace(numbers=numbers), action)
            after = (memory, action, reward, count + 1), observation, state, ongoing & ~done
            after = jax.tree.map(partial(jnp.where, ongoing), after, now)
            return after, (after[2].numbers, after[2].score, jnp.where(ongoing, reward, 0), ongoing)

        begun = (carry, observation, state, jnp.bool_(True))
        (carry, _, last, _), (numbers, score, reward, ongoing) = lax.scan(one, begun, length=environment.horizon)
        return carry, Course(numbers, jnp.append(state.score, score), reward, ongoing, last.clipped)

    none = jnp.full(heads, -1, jnp.int32)
    carry = tuner.init(start.numbers), none, jnp.zeros((), start.numbers.dtype), jnp.int32(0)
    return lax.scan(episode, carry, jnp.arange(episodes))[1]


def of_agent(agent: Agent, *, trial: bool = False) -> Tuner:
    """Return an agent as a tuner.

    trial: whether it was trained in an `environments.trial`, whose flag it is then given.
    """

    def act(key: Key, memory: Any, seen: Seen, episode: Episode) -> tuple[Any, Array, Array]:
        if trial:
            ended = (episode.step == 0) & (seen.step > 0)
            seen = seen._replace(observation=jnp.append(seen.observation, ended))
        memory, action = agent.act(key, memory, seen)
        return memory, episode.numbers, action

    return Tuner(lambda numbers: agent.init(), act)


def setting(change: Callable[[Array, Episode], Array]) -> Tuner:
    """Return the tuner that sets the numbers at each step by `change`, `(those of the start, episode) -> numbers`."""

    def act(key: Key, first: Array, seen: Seen, episode: Episode) -> tuple[Array, Array, Array]:
        numbers = change(first, episode)
        return first, numbers, jnp.full(numbers.shape, KEEP, jnp.int32)

    return Tuner(lambda numbers: numbers, act)


def constant(numbers: Float[Array, " heads"] | None = None) -> Tuner:
    """Train at these numbers, such as learned ones; at those of the start, which are the defaults, if None."""
    return setting(lambda first, episode: first if numbers is None else numbers)


def cosine(panel: Panel, names: Sequence[str], horizon: int, final: float = 0.0) -> Tuner:
    """Let the numbers of these names fall from where they start, to `final` times that, along a cosine.

    Before step t of an episode the factor is final + (1 − final)(1 + cos(πt/horizon))/2 (Loshchilov and Hutter 2017,
    arXiv 1608.03983, without restarts). It holds for all updates of a step.

    Raises:
        ValueError: a name that no dial has, a horizon of none, or a `final` outside of [0, 1].
    """
    require_counts(horizon=horizon)
    if not 0 <= final <= 1:
        raise ValueError(f"final={final} is not in [0, 1]: 0 lets a rate fall to its dial's lower bound")
    mine, schedule = _mask(panel, names), optax.cosine_decay_schedule(1.0, horizon, final)
    return setting(lambda first, episode: jnp.where(mine, first * schedule(episode.step), first))


def balance(panel: Panel, name: str, losses: Pair[str], gain: float) -> Tuner:
    """Multiply one number, the discriminator's rate, by exp(gain · gap) before each step, for losses that stay level.

    The gap is the discriminator's loss minus the generator's, averaged over the last updates and clipped to [-1, 1]: a
    discriminator that loses by more learns faster. From FSCO (arXiv 2504.15099) come what is moved, the discriminator's
    rate alone, and that the gap between the losses is to vanish; there a policy is learned for it, here is a
    proportional controller, which is learned from nothing.

    Args:
        losses: the names of both players' losses among the metrics.
        gain: of the controller; at most e^gain a step.

    Raises:
        ValueError: a name that no dial has, or a gain that is not positive and finite.
    """
    if not 0 < gain < math.inf:
        raise ValueError(f"gain={gain} is not positive and finite: 0.3 changes a rate by a third at most")
    mine = _mask(panel, [name])

    def change(first: Array, episode: Episode) -> Array:
        gap = jnp.clip(episode.metrics[losses.discriminator] - episode.metrics[losses.generator], -1, 1)
        return episode.numbers * jnp.where(mine, jnp.exp(gain * gap), 1.0)

    return setting(change)


def grid(panel: Panel, points: Mapping[str, int]) -> Float[Array, "n heads"]:
    """Return all combinations of so many numbers of each name, evenly spaced between its bounds and off them.

    Of n numbers the i-th lies at (i + ½)/n of the way, on the dial's scale; a dial that is not named stays at its
    default.

    Raises:
        ValueError: a name that no dial has, or fewer than 1 point.
    """
    require_counts(**{f"points of {name}": count for name, count in points.items()})
    mine = _mask(panel, list(points))
    counts = [points.get(name, 1) for name in panel.names]
    along = [(np.arange(count) + 0.5) / count * 2 - 1 for count in counts]
    combined = np.stack([axis.ravel() for axis in np.meshgrid(*along, indexing="ij")], axis=1)
    found = jax.vmap(partial(at, panel))(jnp.asarray(combined, float))
    return jnp.where(mine[None], found, control.numbers(panel)[None])


def random(panel: Panel, key: Key, count: int) -> Float[Array, "n heads"]:
    """Draw `count` candidates between the dials' bounds, independently."""
    return jax.vmap(partial(anywhere, panel))(jax.random.split(key, count))


def search(
    environment: Environment, candidates: Float[Array, "n heads"], key: Key, start: Start, seeds: int = 1
) -> Found:
    """Train at each of n candidates in a task, and return the one whose final score is best.

    Each is trained from `seeds` beginnings, the same for all, and has the mean of the scores. That of the best is
    better than it will be again: run `constant` at it with another key, and from another beginning, to know. It costs
    n · seeds episodes.

    Raises:
        ValueError: `seeds` is less than 1.
    """
    require_counts(seeds=seeds)

    def final(key: Key, numbers: Array) -> Array:
        begin_key, follow_key = jax.random.split(key)
        mine = start._replace(key=begin_key)
        return follow(environment, constant(numbers), follow_key, mine).score[-1, -1]

    each = jax.vmap(jax.vmap(final, (0, None)), (None, 0))
    score = each(jax.random.split(key, seeds), candidates).mean(axis=1)
    return Found(candidates[jnp.argmin(score)], score)


def population(
    environment: Environment, panel: Panel, key: Key, start: Start, size: int, *, share: float = 0.25
) -> Generations:
    """Train a population in a task: after each step the worst go on as copies of the best, with their dials turned.

    Members begin anew and at numbers drawn between the bounds, each by itself. After a step each of the worst `share`
    takes the state and the numbers of one of the best `share`, drawn uniformly (truncation selection), and each of its
    dials is turned up or down (perturbation, by what the dial is turned by in an action); who has collapsed is among
    the worst, and where more have it stays so. After the last step nobody is copied. The result is the best member at
    the end. As it is chosen by its score, that flatters it: score it again with another key. It costs `size` episodes.
    Jaderberg et al. 2017 (arXiv 1711.09846), with a step for its interval.

    Raises:
        ValueError: a share of the members that is none or more than half.
    """
    few = int(share * size)
    if few < 1 or share > 0.5:
        raise ValueError(f"size={size} and share={share}: give a share of one member to half of them")
    number_key, begin_key, reset_key, run_key = jax.random.split(key, 4)
    members = Start(start.task, jax.random.split(begin_key, size), random(panel, number_key, size))
    axes: Any = (None, 0, 0)  # all share the task
    each = Start(*axes)
    _, state = jax.vmap(environment.reset, (0, each))(jax.random.split(reset_key, size), members)
    keep = jnp.full(len(environment.choices), KEEP, jnp.int32)

    def trained(key: Key, start: Start, state: Episode, over: Array) -> tuple[Episode, Array]:
        _, after, _, done = environment.step(key, start, state, keep)
        return jax.tree.map(partial(jnp.where, over), state, after), over | done

    def step(now: tuple[Episode, Array, Episode], key: Key) -> tuple[Any, tuple[Array, Array, Array]]:
        state, over, _ = now
        state, over = jax.vmap(trained, (None, each, 0, 0))(key, members, state, over)
        donor_key, turn_key = jax.random.split(key)
        order = jnp.argsort(state.score)
        donors = order[jax.random.randint(donor_key, (few,), 0, few)]
        donor = jnp.arange(size).at[order[-few:]].set(donors)
        replaced = jnp.zeros(size, bool).at[order[-few:]].set(True)
        copied = jax.tree.map(lambda leaf: leaf[donor], state)._replace(key=state.key)
        action = (CHOICES - 1) * jax.random.bernoulli(turn_key, shape=copied.numbers.shape).astype(jnp.int32)
        moved, _ = jax.vmap(partial(turned, panel))(copied.numbers, action)
        numbers = jnp.where(replaced[:, None], moved, copied.numbers)
        return (copied._replace(numbers=numbers), over[donor], state), (state.numbers, state.score, donor)

    begun = (state, jnp.zeros(size, bool), state)
    (*_, final), (numbers, score, donor) = lax.scan(step, begun, jax.random.split(run_key, environment.horizon))
    return Generations(numbers, jnp.concatenate([state.score[None], score]), donor, final)


def linear(environment: Environment) -> Linear:
    """Return the weights of the linear policy that acts at random, where `schedule` begins."""
    outputs = sum(environment.choices)
    return Linear(jnp.zeros((environment.observation, outputs)), jnp.zeros(outputs))


def linear_agent(environment: Environment, weights: Linear) -> Agent:
    """Return the agent that samples each head of an action from a softmax that is linear in the observation."""

    def act(key: Key, memory: tuple[()], seen: Seen) -> tuple[tuple[()], Array]:
        logits = seen.observation @ weights.kernel + weights.bias
        return memory, rl2.sample(key, environment.choices, logits)

    return Agent(lambda: (), act)


def schedule(
    environment: Environment,
    optimiser: optax.GradientTransformation,
    *,
    pairs: int,
    steps: int,
    sigma: float = 0.1,
    chunk: int = 1,
) -> Program:
    """Return the program that learns a linear policy's weights across tasks, in the manner of AutoLoss.

    Its state is `(Linear, the optimiser's)`. As there, a small controller without memory is learned from the reward of
    whole trainings (Xu et al. 2019, arXiv 1810.02442); unlike there, it turns all dials instead of choosing which loss
    is minimised next, sees what all controllers here see, and is learned by evolution strategies. A step costs
    2 · pairs episodes.

    `sigma`, the deviation of the weights' perturbations, is that of `evolution.es`; `steps` and `chunk` are Program's
    fields.

    Raises:
        ValueError: as `evolution.es` does.
    """

    def loss(weights: Linear, key: Key) -> Array:
        return -total(play(environment, linear_agent(environment, weights), key))

    estimate = evolution.es(loss, sigma=sigma, pairs=pairs)

    def init(key: Key) -> tuple[Linear, Any]:
        weights: Any = linear(environment)
        return weights, optimiser.init(weights)

    def step(key: Key, state: tuple[Linear, Any], batch: Any) -> tuple[tuple[Linear, Any], Metrics]:
        weights: Any
        weights, moments = state
        slope, metrics = estimate(weights, key)
        updates, moments = optimiser.update(slope, moments, weights)
        moved: Any = optax.apply_updates(weights, updates)
        return (moved, moments), {"schedule/reward": -metrics["loss"]}

    return Program(init, step, NOTHING, lambda key, state: {}, steps=steps, chunk=chunk)


def _mask(panel: Panel, names: Sequence[str]) -> Bool[np.ndarray, " heads"]:
    for name in names:
        if name not in panel.names:
            raise ValueError(f"there is no dial {name!r}: there is {', '.join(panel.names)}")
    return np.isin(panel.names, names)
