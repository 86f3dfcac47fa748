"""Outer loops: what meta-learners share that learn where the inner loop begins, by a mean over tasks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Key, MetaLearner, Metrics, State, Task
from gan_jax.meta.adaptation import Inner, Learned


class MetaState(NamedTuple):
    """Where an outer loop stands: what it has learned, and its optimiser's state."""

    learned: Learned
    optimiser: Any


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
        require_counts(at_once=at_once)

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
