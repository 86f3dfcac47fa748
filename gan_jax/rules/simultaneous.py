"""Simultaneous gradient steps: both players move from the same point."""

import chex
import jax
import optax

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Point, UpdateRule
from gan_jax.rules import gradients


def simultaneous(optimisers: Pair[optax.GradientTransformation], *, lazy: int = 1, reuse: bool = False) -> UpdateRule:
    """Move both players at once, each along its own gradient at the present point.

    Under plain gradient steps of rate h the linearised step is I + hA (Mescheder et al. 2017, arXiv 1705.10461).

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player.
        lazy: penalties are added every `lazy`-th step, times `lazy`.
        reuse: whether both players meet the same fakes. One forward pass then serves both, which is cheaper.

    Raises:
        ValueError: if `optimisers` is no pair of them, or `lazy` is not a whole number of at least 1.
    """
    gradients.check_optimisers(optimisers)
    require_counts(lazy=lazy)

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        chex.assert_tree_shape_prefix(batch, (1,))
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        slopes, stats, metrics = gradients.field(game, key, point, batch, lazy, reuse=reuse)
        return gradients.move_both(optimisers, point, slopes, stats), metrics

    return UpdateRule(1, lambda params: gradients.init(optimisers, params), step)
