"""The training of a learner as an environment: what is watched is observed, and hyperparameters are what is done.

An episode trains one learner on one task. An action turns dials, each a hyperparameter between its bounds, and the
learner then takes some updates; what it is rewarded for is the improvement of a score. Any `Learner` can be controlled.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from gan_jax.arithmetic import all_finite, require_counts, require_positive
from gan_jax.base import Batch, Environment, Hyper, Key, Learner, Metrics, State, Task
from gan_jax.meta import inner
from gan_jax.meta.environments import Agent
from gan_jax.meta.tasks import Tasks
from gan_jax.rules.gradients import is_number

CHOICES = 3  # of each head: down, keep, up
KEEP = 1

Score = Callable[[Hyper, Key, State, Batch], Array]  # of a state on a task's query, lower is better
Reward = Callable[[Array, Array, Metrics], Array]  # (score before, score after, metrics) -> reward


class Dial(NamedTuple):
    """How an action changes a number.

    low, high: what it is clipped to, low < high, finite.
    by: what it is divided or multiplied by, above 1; or, not `log`, what is taken away or added, above 0.
    log: which of the two. Low is positive where it is logarithmic.
    """

    low: float
    high: float
    by: float = 2.0
    log: bool = True


class Panel(NamedTuple):
    """Which hyperparameters have a dial; made by `panel`. There is a head of an action for each, in this order.

    default: all hyperparameters, those that stay fixed as well.
    tree: a Dial, or None for what stays fixed, in the place of each number of `default`.
    names: of the dials, such as "rates.generator".
    dials: those of the tree, side by side.
    """

    default: Hyper
    tree: Any
    names: tuple[str, ...]
    dials: tuple[Dial, ...]


class Start(NamedTuple):
    """The parameters of the environment: what is learned, and from where.

    task: its support is trained on, its query scores.
    key: begins the learner, alike in each episode of a trial.
    numbers: on the dials, where an episode begins.
    """

    task: Task
    key: Key
    numbers: Float[Array, " heads"]


class Episode(NamedTuple):
    """Where an episode stands.

    key: all of its randomness; two actions never differ by luck.
    learner: the state of what is trained; the last finite one where it has collapsed.
    numbers: on the dials.
    metrics: of the learner, averaged over the last updates; zero before the first.
    score: the last one, within its limits. first: that of the beginning.
    step: actions done, int32. clipped: how often each dial was turned beyond a bound, int32.
    """

    key: Key
    learner: State
    numbers: Float[Array, " heads"]
    metrics: Metrics
    score: Float[Array, ""]
    first: Float[Array, ""]
    step: Int[Array, ""]
    clipped: Int[Array, " heads"]


class Controller(NamedTuple):
    """An agent that has learned to control, and what it must be given to control the training of something else.

    agent: it acts in trials, see `environments.trial`.
    panel: the dials that it turns, and where they stood when its episodes began.
    watch: how each metric is observed.
    span: of the score, the logarithm of the ratio of its limits.
    horizon: actions in a training.
    """

    agent: Agent
    panel: Panel
    watch: Mapping[str, Callable[[Array], Array]]
    span: float
    horizon: int


class Signature(NamedTuple):
    """What a controller was trained for: the names of what it observes, and what its actions do, in their order."""

    observed: tuple[str, ...]
    actions: tuple[str, ...]


def panel(default: Hyper, tree: Any) -> Panel:
    """Return the panel of the hyperparameters that have a dial.

    Args:
        default: all hyperparameters.
        tree: of the structure of `default`: a Dial in the place of a number, or None.

    Raises:
        ValueError: the structures do not fit, there is no dial, one is none, or a default lies outside of its bounds.
            Traced defaults pass.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_dial)
    try:
        values = structure.flatten_up_to(default)
    except ValueError as error:
        raise ValueError(f"dials are in the place of hyperparameters: {' '.join(str(error).split())}") from error
    turned = [(path, dial, value) for (path, dial), value in zip(leaves, values, strict=True) if dial is not None]
    if not turned:
        raise ValueError("there is no dial: give a Dial in the place of a hyperparameter")
    for path, dial, value in turned:
        _check(dotted(path), dial, value)
    return Panel(default, tree, tuple(dotted(path) for path, _, _ in turned), tuple(dial for _, dial, _ in turned))


def dotted(path: tuple) -> str:
    """Return the name of the hyperparameter at a path of `jax.tree_util`, such as "rates.generator"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def numbers(panel: Panel, hyper: Hyper | None = None) -> Float[Array, " heads"]:
    """Return the numbers of hyperparameters, the default ones if left out, that have a dial."""
    leaves, structure = jax.tree.flatten(panel.tree, is_leaf=_is_dial)
    values = structure.flatten_up_to(panel.default if hyper is None else hyper)
    return jnp.stack([jnp.asarray(x, float) for x, dial in zip(values, leaves, strict=True) if dial is not None])


def hyper(panel: Panel, numbers: Float[Array, " heads"]) -> Hyper:
    """Return all hyperparameters, with these numbers where there are dials."""
    leaves, structure = jax.tree.flatten(panel.tree, is_leaf=_is_dial)
    given = iter(numbers)
    fixed = structure.flatten_up_to(panel.default)
    return structure.unflatten([x if dial is None else next(given) for x, dial in zip(fixed, leaves, strict=True)])


def turned(
    panel: Panel, numbers: Float[Array, " heads"], action: Int[Array, " heads"]
) -> tuple[Float[Array, " heads"], Bool[Array, " heads"]]:
    """Return the numbers after an action, 0 down, 1 keep and 2 up, and which of them, or of the choices, were clipped.

    A number within its bounds that is kept stays as it is, bit for bit.
    """
    low, high, by, log = (jnp.asarray(column) for column in zip(*panel.dials, strict=True))
    choice = jnp.clip(action, 0, CHOICES - 1)
    logarithmic = jnp.where(choice == KEEP, numbers, jnp.where(choice > KEEP, numbers * by, numbers / by))
    wanted = jnp.where(log, logarithmic, numbers + (choice - KEEP) * by).astype(numbers.dtype)
    clipped = jnp.clip(wanted, low.astype(wanted.dtype), high.astype(wanted.dtype))
    return clipped, (clipped != wanted) | (choice != action)


def places(panel: Panel, numbers: Float[Array, " heads"]) -> Float[Array, " heads"]:
    """Return where numbers lie between their bounds, in [-1, 1], on the scale of each dial."""
    low, high, log = _scales(panel)
    return 2 * (jnp.where(log, jnp.log(numbers), numbers) - low) / (high - low) - 1


def at(panel: Panel, places: Float[Array, " heads"]) -> Float[Array, " heads"]:
    """Return the numbers at places in [-1, 1] between their bounds. The inverse of `places`."""
    low, high, log = _scales(panel)
    along = low + (high - low) * (places + 1) / 2
    found = jnp.where(log, jnp.exp(along), along)
    return jnp.clip(found, *(jnp.asarray([getattr(dial, end) for dial in panel.dials]) for end in ("low", "high")))


def anywhere(panel: Panel, key: Key) -> Float[Array, " heads"]:
    """Draw numbers uniformly between their bounds, on a logarithmic dial log-uniformly."""
    return at(panel, jax.random.uniform(key, (len(panel.dials),), minval=-1))


def difference(before: Array, after: Array, metrics: Metrics) -> Array:
    """Reward what the score has fallen by, `before - after`.

    The rewards of an episode sum to its first score minus its last.
    """
    return before - after


def log_ratio(before: Array, after: Array, metrics: Metrics) -> Array:
    """Reward what the logarithm of the score has fallen by, `log(before) - log(after)`.

    So halving it is worth the same at any level.
    """
    return jnp.log(before) - jnp.log(after)


def error(accuracy: str) -> Reward:
    """Reward the discriminator's error, 1 minus the accuracy that is the metric of this name: in [0, 1], ½ undecided.

    It asks for no samples; but a discriminator that never learns earns it too, so that it says less than a score.
    """
    return lambda before, after, metrics: 1 - metrics[accuracy]


def observation(
    panel: Panel,
    watch: Mapping[str, Callable[[Array], Array]],
    metrics: Metrics,
    numbers: Float[Array, " heads"],
    score: Float[Array, ""],
    progress: Float[Array, ""],
) -> Float[Array, " D"]:
    """Return what is observed, in the order of `observed`; zeros for the metrics where the progress is none.

    watch: how each metric is shown, by its name: a function to [-1, 1].
    score: relative to the first one and on a logarithmic scale, so that it means the same whatever is scored, and how.
    """
    seen = [jnp.where(progress > 0, show(metrics[name]), 0.0) for name, show in watch.items()]
    return jnp.stack([*seen, *places(panel, numbers), score, progress])


def observed(panel: Panel, watch: Iterable[str]) -> tuple[str, ...]:
    """Return the names of what is observed, in its order: what is watched, the dials, the score, the progress."""
    return (*watch, *panel.names, "score", "progress")


def signature(panel: Panel, watch: Iterable[str]) -> Signature:
    """Return what a controller of this panel, that watches these metrics, is trained for."""
    actions = (
        f"{name} {'×' if dial.log else '+'} {dial.by:g} in [{dial.low:g}, {dial.high:g}]"  # noqa: RUF001
        for name, dial in zip(panel.names, panel.dials, strict=True)
    )
    return Signature(observed(panel, watch), tuple(actions))


def require_same(trained: Signature, here: Signature) -> None:
    """Refuse a controller that was trained for something else.

    Raises:
        ValueError: it was; the difference is named.
    """
    for kind, mine, theirs in zip(Signature._fields, trained, here, strict=True):
        missing, more = ([name for name in one if name not in other] for one, other in ((mine, theirs), (theirs, mine)))
        if missing or more:
            named = {"it needs": missing, "here is": more}
            differs = "; ".join(f"{what} {', '.join(names)}" for what, names in named.items() if names)
            raise ValueError(f"the controller was trained for other {kind}: {differs}")
        if tuple(mine) != tuple(theirs):
            raise ValueError(f"the controller was trained for {kind} in another order: {', '.join(mine)}")


def control(
    learner: Learner,
    tasks: Tasks,
    score: Score,
    watch: Mapping[str, Callable[[Array], Array]],
    actions: Panel,
    *,
    updates: int,
    horizon: int,
    feed: inner.Feed,
    limits: tuple[float, float],
    reward: Reward = difference,
    penalty: float = 0.0,
    start: Callable[[Key], Float[Array, " heads"]] | None = None,
    begin: Callable[[Hyper, Key, Task], State] | None = None,
    probe: Callable[[Hyper, Key, State, Batch], Metrics] | None = None,
) -> Environment:
    """Return the environment in which a learner is trained; its parameters are a `Start`, its state an `Episode`.

    `reset` begins the learner. `step` turns the dials, lets the learner take its updates, and scores it. An action that
    keeps everything is plain training: a whole episode of them is the inner loop of `updates * horizon` steps at the
    first of the two keys into which the episode's splits. The key of a step is not read.

    Observed are the watched metrics (zero at first), the dials' `places`, the logarithm of the score over the first one
    as a share of that of its limits, and the progress of the episode, all in [-1, 1] if what is watched is: `observed`
    has the names.

    A run collapses where a state, metric or score is not finite or the score reaches its upper limit. That ends its
    episode: the score becomes the upper limit, the reward is what that earns, at most 0, less a penalty, and learner
    and metrics stay the last finite ones, so that nothing that is not finite leaves a step.

    Args:
        learner: what is trained, at the panel's hyperparameters.
        tasks: which are drawn.
        score: of a state on the task's query, lower is better. It sees the same key throughout an episode, so that
            the noise of its samples cancels in differences.
        watch: how each metric is observed: a function to [-1, 1], by the metric's name.
        actions: the dials.
        updates: how many the learner takes in a step.
        horizon: steps of an episode.
        feed: what an update is given of the support.
        limits: of the score, 0 < low < high. What lies below the lower counts as the lower.
        reward: of the score before and after, and the metrics. Within the limits, `difference` is bounded by high - low
            and `log_ratio` by log(high/low).
        penalty: taken off the reward of a collapse besides, at least 0. For `error`, which does not look at the score.
        start: draws the numbers at which an episode begins; the default ones if None.
        begin: `(hyper, key, task) -> state`, where the learner begins differently in each task, as a network whose
            width the task says; its `init` if None.
        probe: `(hyper, key, state, batch) -> metrics` that are measured once after the updates, for what is too dear
            for each, on what an update is fed.

    Raises:
        ValueError: sizes that are none, limits or a penalty out of range, or a watched metric that there is not.
    """
    require_counts(updates=updates, horizon=horizon)
    low, high = limits
    if not 0 < low < high < math.inf:
        raise ValueError(f"limits={limits} of the score: give 0 < low < high, finite")
    if not 0 <= penalty < math.inf:
        raise ValueError(f"penalty={penalty} is not finite and at least 0")
    loop, first = inner.loop(learner, updates, feed=feed), numbers(actions)

    def draw(key: Key) -> Start:
        task_key, learner_key, start_key = jax.random.split(key, 3)
        begins = first if start is None else start(start_key)
        return Start(tasks.draw(tasks.arrays, task_key), learner_key, begins)

    def begun(start: Start) -> State:
        now = hyper(actions, start.numbers)
        return learner.init(now, start.key) if begin is None else begin(now, start.key, start.task)

    def trained(start: Start, episode: Episode, numbers: Array, key: Key) -> tuple[State, Metrics]:
        now, step = hyper(actions, numbers), episode.step * updates
        state, metrics = loop(now, key, episode.learner, start.task.support, step)
        metrics = jax.tree.map(lambda x: x.mean(axis=0), dict(metrics))
        if probe is not None:
            # The key of the next update, on whose batch it is a look ahead.
            probe_key, feed_key = jax.random.split(jax.random.fold_in(key, step + updates))
            batch = feed(feed_key, start.task.support, step + updates)
            metrics |= probe(now, probe_key, state, batch)
        return state, metrics

    def judged(start: Start, numbers: Array, key: Key, state: State) -> Array:
        return score(hyper(actions, numbers), key, state, start.task.query)

    def observe(episode: Episode) -> Array:
        along = jnp.log(episode.score / episode.first) / math.log(high / low)
        return observation(actions, watch, episode.metrics, episode.numbers, along, episode.step / horizon)

    def reset(key: Key, start: Start) -> tuple[Array, Episode]:
        state = begun(start)
        found = judged(start, start.numbers, jax.random.split(key)[1], state)
        found = jnp.where(jnp.isfinite(found), jnp.clip(found, low, high), high)
        metrics = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        clipped = jnp.zeros(len(actions.dials), jnp.int32)
        episode = Episode(key, state, start.numbers, metrics, found, found, jnp.int32(0), clipped)
        return observe(episode), episode

    def step(key: Key, start: Start, episode: Episode, action: Array) -> tuple[Array, Episode, Array, Array]:
        train_key, judge_key = jax.random.split(episode.key)
        now, clipped = turned(actions, episode.numbers, action)
        state, metrics = trained(start, episode, now, train_key)
        found = judged(start, now, judge_key, state)
        lives = all_finite((state, metrics, found)) & (found < high)
        keep = partial(jnp.where, lives)
        state, metrics = jax.tree.map(keep, (state, metrics), (episode.learner, episode.metrics))
        found = keep(jnp.maximum(found, low), high)
        earned = reward(episode.score, found, metrics)
        paid = keep(earned, jnp.minimum(earned, 0) - penalty)
        after = Episode(
            episode.key,
            state,
            now,
            metrics,
            found,
            episode.first,
            episode.step + 1,
            episode.clipped + clipped.astype(jnp.int32),
        )
        return observe(after), after, paid, ~lives | (after.step == horizon)

    def measured(key: Key) -> Metrics:
        drawn = draw(key)
        none = jnp.zeros(())
        episode = Episode(key, begun(drawn), drawn.numbers, {}, none, none, jnp.int32(0), jnp.int32(0))
        return trained(drawn, episode, drawn.numbers, key)[1]

    shapes = jax.eval_shape(measured, jax.random.key(0))
    for name in watch:
        if name not in shapes:
            raise ValueError(f"there is no metric {name!r} to watch: there is {', '.join(shapes)}")
    choices = (CHOICES,) * len(actions.dials)
    return Environment(draw, reset, step, choices, len(observed(actions, watch)), horizon)


def _scales(panel: Panel) -> tuple[Array, Array, Array]:
    """Return the bounds of each dial on its own scale, and which are logarithmic."""
    ends = [[math.log(end) if dial.log else end for end in dial[:2]] for dial in panel.dials]
    low, high = np.array(ends).T
    return jnp.asarray(low, float), jnp.asarray(high, float), jnp.asarray([dial.log for dial in panel.dials])


def _check(name: str, dial: Any, value: Any) -> None:
    if not isinstance(dial, Dial):
        raise ValueError(f"the dial of {name} is {dial!r}: give a Dial, or None if it stays fixed")
    low, high, by, log = dial
    if not -math.inf < low < high < math.inf or (log and not low > 0):
        raise ValueError(f"low={low} and high={high} of {name}: give finite ones, low < high, and 0 < low if log")
    require_positive(by=by)
    if log and by <= 1:
        raise ValueError(f"by={by} of {name} is what it is multiplied by: give more than 1")
    if not is_number(value):
        raise ValueError(f"{name} is no number but a {type(value).__name__}: give each number a dial of its own")
    if not isinstance(value, jax.core.Tracer) and not low <= value <= high:
        raise ValueError(f"{name}={value:g} is not between {low:g} and {high:g}, its dial's bounds")


def _is_dial(node: Any) -> bool:
    return node is None or isinstance(node, Dial)
