"""Extragradient: look one step ahead, and step from here with the gradients found there."""

import chex
import jax
import optax

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Point, UpdateRule
from gan_jax.rules import gradients


def extragradient(
    optimisers: Pair[optax.GradientTransformation], *, fresh: bool = False, lazy: int = 1, reuse: bool = False
) -> UpdateRule:
    """Move both players at once, each along its gradient at the point to which a simultaneous step would lead.

    With F the joint field of the players' gradients and s the rate,

        ahead = w − s F(w),    w⁺ = w − s F(ahead)

    (Korpelevich 1976; for GANs Gidel et al. 2019, arXiv 1802.10551). Under plain gradient steps the linearised
    step is I + HA(I + HA), with H the diagonal matrix of the players' rates. For other optimisers it is Gidel's
    algorithm 4 ("Extra-Adam"): extrapolation and step are both updates of the optimiser, hence its moments and its
    own counter, which corrects their bias and drives a schedule, see two gradients a step.

    Both gradients are of one game: they are computed from the stats that the step was given. The stats that are
    kept and the metrics are those of the first, at `w` and on the first batch: what the simultaneous rule reports.

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player.
        fresh: if true, the gradient ahead has a second batch and other keys, as in Gidel's algorithm; if false, it
            has the batch and the keys of the first, and a step is the extragradient of one sampled game.
        lazy: penalties are added every `lazy`-th step, to both of its gradients, times `lazy`.
        reuse: whether both players meet the same fakes. One forward pass then serves both, which is cheaper.

    Raises:
        ValueError: if `optimisers` is no pair of them, or `lazy` is not a whole number of at least 1.
    """
    gradients.check_optimisers(optimisers)
    require_counts(lazy=lazy)
    batches = 2 if fresh else 1

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        chex.assert_tree_shape_prefix(batch, (batches,))
        first, last = (jax.tree.map(lambda leaf, index=index: leaf[index], batch) for index in (0, batches - 1))
        slopes, stats, metrics = gradients.field(game, key, point, first, lazy, reuse=reuse)
        ahead = gradients.move_both(optimisers, point, slopes, stats)

        # Past the players' own numbers, which the first gradients folded in.
        key = jax.random.fold_in(key, len(Pair._fields)) if fresh else key
        slopes, _, _ = gradients.field(game, key, point._replace(params=ahead.params), last, lazy, reuse=reuse)
        # Back where it stood, with optimisers that have seen the extrapolation: the two make one counted step.
        back = point._replace(rule=ahead.rule._replace(count=point.rule.count))
        return gradients.move_both(optimisers, back, slopes, stats), metrics

    return UpdateRule(batches, lambda params: gradients.init(optimisers, params), step)
