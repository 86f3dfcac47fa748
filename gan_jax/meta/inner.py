"""Inner loops: as many steps of a learner on a task's support, differentiable from end to end.

A step is whatever the learner's step is: any update rule, any of optax's optimisers, several steps of a
discriminator. An inner loop runs in one program on one device; tasks are the caller's `vmap`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Hyper, Key, Learner, Metrics, State

Feed = Callable[[Key, Batch, Array], Batch]  # (key, support, step) -> what a step takes
At = Callable[[Hyper, int | Array], Hyper]  # (hyper, step) -> what holds at a step
Run = Callable[..., tuple[State, Metrics]]


def whole(batches: int | None = None) -> Feed:
    """Feed each step the whole support, [K, ...]; or as many copies of it, [batches, K, ...], as a GAN's rule takes.

    Raises:
        ValueError: `batches` is less than 1.
    """
    if batches is None:
        return lambda key, support, step: support
    require_counts(batches=batches)
    return lambda key, support, step: jax.tree.map(lambda x: jnp.broadcast_to(x, (batches, *x.shape)), support)


def resampled(batches: int, size: int) -> Feed:
    """Feed each step batches of `size` examples of the support, drawn with replacement: [batches, size, ...].

    Raises:
        ValueError: `batches` or `size` is less than 1.
    """
    require_counts(batches=batches, size=size)

    def feed(key: Key, support: Batch, step: Array) -> Batch:
        few = len(next(iter(support.values())))
        index = jax.random.randint(key, (batches, size), 0, few)
        return jax.tree.map(lambda x: x[index], support)

    return feed


def same(hyper: Hyper, step: int | Array) -> Hyper:
    """What holds at every step: the hyperparameters as they are."""
    return hyper


def per_step(hyper: Hyper, step: int | Array) -> Hyper:
    """What holds at a step of hyperparameters that have a leading axis of steps; past its end, the last of them.

    A plain number holds at each step.
    """
    return jax.tree.map(lambda x: x[jnp.minimum(step, len(x) - 1)] if jnp.ndim(x) else x, hyper)


def loop(learner: Learner, steps: int, *, feed: Feed, at: At = same, levels: int = 1, unroll: int = 1) -> Run:
    """Make `(hyper, key, state, support, start=0) -> (state, metrics)`: `steps` steps of a learner.

    Args:
        learner: what takes the steps.
        steps: how many; 0 leaves the state as it is. Metrics have this leading axis.
        feed: what a step is given of the support: `whole` or `resampled`.
        at: which hyperparameters hold at a step, counted from `start`.
        levels: of rematerialisation, when the loop is differentiated. 0 keeps what every step computes. 1 keeps the
            states between steps and computes each step a second time. With n levels, about n steps^(1/n) states are
            kept, and each step is computed n times more: memory then hardly grows with the steps (Griewank & Walther
            2000, ACM TOMS 26(1), on such schedules).
        unroll: how many steps the compiler sees at once, within a block where there are levels: for convolutions that
            are slow inside of loops.

    Raises:
        ValueError: `steps` or `levels` is negative, or `unroll` is less than 1.

    The key of a step is a function of (key, step), so that a loop from `start` on goes on where one of `start` steps
    ended.
    """
    for name, value in (("steps", steps), ("levels", levels)):
        if value < 0:
            raise ValueError(f"{name} is {value}: it is at least 0")
    require_counts(unroll=unroll)

    def run(hyper: Hyper, key: Key, state: State, support: Batch, start: int | Array = 0) -> tuple[State, Metrics]:
        def body(state: State, step: Array) -> tuple[State, Metrics]:
            feed_key, step_key = jax.random.split(jax.random.fold_in(key, step))
            return learner.step(at(hyper, step), step_key, state, feed(feed_key, support, step))

        return _scan(body, state, start + jnp.arange(steps), levels, unroll)

    return run


def _scan(body: Callable[[Any, Array], Any], state: State, steps: Array, levels: int, unroll: int) -> Any:
    if levels <= 1:
        # Where a loop is unrolled, the compiler would see the same work twice and undo the rematerialisation.
        again = jax.checkpoint(body, prevent_cse=unroll > 1) if levels else body
        return lax.scan(again, state, steps, unroll=unroll)
    total = len(steps)
    # As many blocks as a block has states at each of the levels within it.
    size = max(1, math.ceil(total ** ((levels - 1) / levels)))
    blocks = total // size
    state, metrics = lax.scan(
        jax.checkpoint(lambda state, block: _scan(body, state, block, levels - 1, unroll), prevent_cse=False),
        state,
        steps[: blocks * size].reshape(blocks, size),
    )
    metrics = jax.tree.map(lambda x: x.reshape(blocks * size, *x.shape[2:]), metrics)
    if blocks * size == total:
        return state, metrics
    state, rest = _scan(body, state, steps[blocks * size :], levels - 1, unroll)
    return state, jax.tree.map(lambda x, y: jnp.concatenate([x, y]), metrics, rest)
