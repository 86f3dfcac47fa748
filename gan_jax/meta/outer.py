"""Outer loops: what meta-learners share that learn where the inner loop begins, by a mean over tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan_jax.base import Batch, Hyper, Key, Learner, MetaLearner, Metrics, Params, State, Task
from gan_jax.meta import hyper as hypers
from gan_jax.meta import inner
from gan_jax.meta.hyper import Space
from gan_jax.meta.inner import At, Feed
from gan_jax.rules.gradients import check


class Learned(NamedTuple):
    """What an outer loop moves.

    params: the initialisation; None where each task begins at fresh parameters.
    hyper: coordinates of hyperparameters (see `meta.hyper`); None where these are fixed.
    """

    params: Params | None
    hyper: Any = None


class MetaState(NamedTuple):
    """Where an outer loop stands: what it has learned, and its optimiser's state."""

    learned: Learned
    optimiser: Any


class Inner(NamedTuple):
    """An inner loop, and where it begins.

    start: `key -> learned`, before the first outer step.
    adapt: `(key, learned, support, steps) -> state of the learner`.
    loss: `(key, learned, state, query) -> scalar`, of an adapted state.
    """

    start: Callable[[Key], Learned]
    adapt: Callable[..., State]
    loss: Callable[[Key, Learned, State, Batch], Any]


def inner_loop(
    learner: Learner,
    *,
    steps: int,
    feed: Feed,
    space: Space | None = None,
    at: At = inner.same,
    levels: int = 1,
    unroll: int = 1,
) -> Inner:
    """Make an inner loop of a learner that begins at what is learned; the arguments are those of `maml`.

    Statistics, such as those of batch normalisation, begin anew with each task, and so do optimisers.
    """
    options: dict[str, Any] = {"feed": feed, "at": at, "levels": levels, "unroll": unroll}
    inner.loop(learner, steps, **options)  # so that it is refused here, if it is

    def hyper(learned: Learned) -> Hyper:
        return learner.hyper if space is None else hypers.hyper(space, learned.hyper)

    def start(key: Key) -> Learned:
        default = learner.hyper if space is None else space.default
        params = learner.get_params(learner.init(at(default, 0), key))
        return Learned(params, None if space is None else hypers.coordinates(space))

    def adapt(key: Key, learned: Learned, support: Batch, steps: int = steps) -> State:
        begin_key, loop_key = jax.random.split(key)
        now = hyper(learned)
        begun = learner.init(at(now, 0), begin_key, learned.params)
        return inner.loop(learner, steps, **options)(now, loop_key, begun, support)[0]

    def loss(key: Key, learned: Learned, state: State, query: Batch) -> Any:
        return learner.loss(at(hyper(learned), steps), key, state, query)

    return Inner(start, adapt, loss)


def mapped(function: Callable[..., Any], *stacked: Any, at_once: int | None) -> Any:
    """Map a function over the leading axis of its arguments, so many at once, one batch after another; all if None."""
    if at_once is None:
        return jax.vmap(function)(*stacked)
    # A batch of one is none: batched products are slower.
    return jax.lax.map(lambda each: function(*each), stacked, batch_size=at_once if at_once > 1 else None)


def outer(
    inner: Inner,
    gradient: Callable[[Key, Learned, Task], tuple[Learned, Metrics]],
    optimiser: optax.GradientTransformation,
    *,
    at_once: int | None = None,
) -> MetaLearner:
    """Make a meta-learner of the gradient that one task gives.

    Args:
        inner: where an adaptation begins, and how it goes on.
        gradient: `(key, learned, task) -> (gradient, metrics)` of one task. It is mapped over tasks, each with a key
            of its own, and the mean is what the optimiser is given. A task whose inner loop diverged has no gradient:
            one that is not finite is left out, and "meta/diverged" counts it.
        optimiser: of the outer loop.
        at_once: how many tasks are computed side by side, under one vmap, while the others wait; all if None. Numbers
            stay the same up to rounding, and memory grows with it.

    Raises:
        ValueError: if `at_once` is no whole number of at least 1.

    Metrics: those of the tasks, averaged, "meta/slope", the norm of the mean gradient, and "meta/diverged", the share
    of the tasks that are in none of these means.
    """
    if at_once is not None:
        check(at_once=at_once)

    def init(key: Key) -> MetaState:
        learned: Any = inner.start(key)
        return MetaState(learned, optimiser.init(learned))

    def meta_step(key: Key, state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        keys = jax.random.split(key, len(jax.tree.leaves(tasks)[0]))
        result = mapped(lambda key, task: gradient(key, state.learned, task), keys, tasks, at_once=at_once)
        stay = jnp.stack([jnp.isfinite(leaf).all(axis=range(1, leaf.ndim)) for leaf in jax.tree.leaves(result)]).all(0)

        def mean(x: Array) -> Array:
            kept = stay.reshape(-1, *(1,) * (x.ndim - 1))
            return jnp.where(kept, x, 0).sum(axis=0) / jnp.maximum(stay.sum(), 1)

        slope, metrics = jax.tree.map(mean, result)
        now: Any = state.learned  # optax's annotations know no NamedTuples
        updates, moved = optimiser.update(slope, state.optimiser, now)
        learned: Any = optax.apply_updates(now, updates)
        return MetaState(learned, moved), {
            **metrics,
            "meta/slope": optax.tree.norm(slope),
            "meta/diverged": 1.0 - stay.mean(),
        }

    def adapt(key: Key, state: MetaState, support: Batch, **options: Any) -> State:
        return inner.adapt(key, state.learned, support, **options)

    return MetaLearner(init, meta_step, adapt)
