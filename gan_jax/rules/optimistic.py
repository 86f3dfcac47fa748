"""Optimistic steps: extrapolate along the last gradient, and pay for one gradient a step."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from gan_jax.arithmetic import require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Point, UpdateRule
from gan_jax.rules import gradients


class PastMoves(NamedTuple):
    """What the rule carries.

    optimisers, count: as in `gradients.Moves`.
    slopes: each player's gradient of the step before, its penalty included; zeros before the first.
    """

    optimisers: Pair[Any]
    count: Pair[Array]
    slopes: Pair[Params]


def optimistic(optimisers: Pair[optax.GradientTransformation], *, lazy: int = 1, reuse: bool = False) -> UpdateRule:
    """Move both players at once, each along its gradient where the gradients of the step before would lead.

    With F the joint field of the players' gradients and s the rate,

        ahead = w − s F(ahead⁻),    w⁺ = w − s F(ahead)

    (Popov 1980; "extrapolation from the past", Gidel et al. 2019, arXiv 1802.10551). Under plain gradient steps
    the points ahead obey ahead⁺ = ahead − s (2F(ahead) − F(ahead⁻)), the optimistic gradient of Daskalakis et al.
    2018 (arXiv 1711.00141). For other optimisers it is Gidel's algorithm 4 with its second option: extrapolation
    and step are both updates of the optimiser, hence its moments see each gradient twice.

    The first step has no past: it does not extrapolate, its optimisers' moments see one gradient, and it is a
    simultaneous step. The stats that are kept and the metrics are those of the one evaluation, at `ahead`.

    Args:
        optimisers: any of optax's that need no more than gradients, one for each player.
        lazy: penalties are added every `lazy`-th step, times `lazy`; the step after extrapolates along them too.
        reuse: whether both players meet the same fakes. One forward pass then serves both, which is cheaper.

    Raises:
        ValueError: if `optimisers` is no pair of them, or `lazy` is not a whole number of at least 1.
    """
    gradients.check_optimisers(optimisers)
    require_counts(lazy=lazy)

    def init(params: Pair[Params]) -> PastMoves:
        moves = gradients.init(optimisers, params)
        return PastMoves(moves.optimisers, moves.count, jax.tree.map(jnp.zeros_like, params))

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        chex.assert_tree_shape_prefix(batch, (1,))
        batch = jax.tree.map(lambda leaf: leaf[0], batch)
        moves: PastMoves = point.rule

        first = moves.count.generator == 0
        # Under vmap both branches are computed and differentiated, and Adam's update along zeros has infinite slopes,
        # in its decay too: what is never used goes along ones.
        past = jax.tree.map(lambda slope: jnp.where(first, jnp.ones_like(slope), slope), moves.slopes)

        def extrapolated() -> tuple[Pair[Params], Pair[Any]]:
            ahead = gradients.move_both(optimisers, point, past, point.stats)
            return ahead.params, ahead.rule.optimisers

        params, states = lax.cond(first, lambda: (point.params, moves.optimisers), extrapolated)
        slopes, stats, metrics = gradients.field(game, key, point._replace(params=params), batch, lazy, reuse=reuse)
        back = point._replace(rule=moves._replace(optimisers=states, slopes=slopes))
        return gradients.move_both(optimisers, back, slopes, stats), metrics

    return UpdateRule(1, init, step)
