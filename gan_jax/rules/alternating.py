"""Alternating gradient steps: the discriminator moves, then the generator answers."""

from functools import partial
from numbers import Real

import chex
import jax
import jax.numpy as jnp
import optax

from gan_jax.arithmetic import Scalar, require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Point, UpdateRule
from gan_jax.rules import gradients


def alternating(
    optimisers: Pair[optax.GradientTransformation],
    *,
    d_steps: int = 1,
    lazy: int = 1,
    active: Scalar | None = None,
    reuse: bool = False,
) -> UpdateRule:
    """Move the discriminator `d_steps` times, each on its own batch, then the generator on the last of them.

    Goodfellow et al. 2014 (arXiv 1406.2661), algorithm 1.

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player.
        d_steps: how many steps of the discriminator precede one of the generator. They are unrolled.
        lazy: penalties are added on every `lazy`-th move of their player, times `lazy`.
        active: how many of the `d_steps` count, all if None; it may be traced, and is then rounded, and clipped to
            1...`d_steps`. What follows them changes nothing, though it is computed, and the generator moves on the
            last batch that counted: the step is that of `d_steps=active` on the first batches.
        reuse: whether the generator moves with the key of the discriminator's last move, and so answers to the very
            fakes that it was just judged by. They are then made once, which is how most code does it; by default they
            are drawn anew, as in the paper.

    Raises:
        ValueError: if `optimisers` is no pair of them, `d_steps` or `lazy` is not a whole number of at least 1, or
            `active` a Python number that is none of 1...`d_steps`.
    """
    gradients.check_optimisers(optimisers)
    require_counts(lazy=lazy, d_steps=d_steps)
    if isinstance(active, Real) and active not in range(1, d_steps + 1):
        raise ValueError(f"active={active} of d_steps={d_steps}: give a whole number of 1...{d_steps}")
    schedule = [("discriminator", index) for index in range(d_steps)] + [("generator", d_steps - 1)]

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        # An index past the end would be clamped in silence, and every move see the same batch.
        chex.assert_tree_shape_prefix(batch, (d_steps,))
        merged = {}
        count = d_steps if active is None else jnp.clip(jnp.round(active), 1, d_steps).astype(jnp.int32)
        for move, (player, index) in enumerate(schedule):
            if player == "generator":
                move, index = count - reuse, count - 1
            slope, new, metrics = gradients.gradient(
                game,
                player,
                jax.random.fold_in(key, move),
                point.params,
                point.stats,
                jax.tree.map(lambda leaf, index=index: leaf[index], batch),
                getattr(point.rule.count, player),
                lazy,
            )
            moved = gradients.move(optimisers, player, point, slope, new)
            if active is not None and player == "discriminator" and index > 0:
                before = point, {name: merged[name] for name in metrics}
                moved, metrics = jax.tree.map(partial(jnp.where, index < count), (moved, metrics), before)
            point = moved
            merged |= metrics
        return point, merged

    return UpdateRule(d_steps, lambda params: gradients.init(optimisers, params), step)
