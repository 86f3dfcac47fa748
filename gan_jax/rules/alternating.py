"""Alternating gradient steps: the discriminator moves, then the generator answers."""

import chex
import jax
import optax

from gan_jax.base import Batch, Game, Key, Metrics, Pair, Point, UpdateRule
from gan_jax.rules import gradients


def alternating(optimisers: Pair[optax.GradientTransformation], *, d_steps: int = 1, lazy: int = 1) -> UpdateRule:
    """Move the discriminator `d_steps` times, each on its own batch, then the generator on the last of them.

    Goodfellow et al. 2014 (arXiv 1406.2661), algorithm 1.

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player.
        d_steps: how many steps of the discriminator precede one of the generator. They are unrolled.
        lazy: penalties are added on every `lazy`-th move of their player, times `lazy`.

    Raises:
        ValueError: if `optimisers` is no pair of them, or `d_steps` or `lazy` is not a whole number of at least 1.
    """
    gradients.check_optimisers(optimisers)
    gradients.check(lazy=lazy, d_steps=d_steps)
    schedule = [("discriminator", index) for index in range(d_steps)] + [("generator", d_steps - 1)]

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        # An index past the end would be clamped in silence, and every move see the same batch.
        chex.assert_tree_shape_prefix(batch, (d_steps,))
        merged = {}
        for move, (player, index) in enumerate(schedule):
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
            point = gradients.move(optimisers, player, point, slope, new)
            merged |= metrics
        return point, merged

    return UpdateRule(d_steps, lambda params: gradients.init(optimisers, params), step)
