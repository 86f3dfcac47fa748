"""What all rules share: one player's gradient, its penalty included, and the move along it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Point, Stats


class Moves(NamedTuple):
    """What a rule of first-order moves carries.

    optimisers: the state of each player's optimiser.
    count: how many moves each player has made, int32 scalars.
    """

    optimisers: Pair[Any]
    count: Pair[Array]


def init(optimisers: Pair[optax.GradientTransformation], params: Pair[Params]) -> Moves:
    """Return the state before the first move."""
    return Moves(
        Pair(*(optimiser.init(mine) for optimiser, mine in zip(optimisers, params, strict=True))),
        Pair(jnp.int32(0), jnp.int32(0)),
    )


def gradient(
    game: Game, player: str, key: Key, params: Pair[Params], stats: Pair[Stats], batch: Batch, count: Array, lazy: int
) -> tuple[Params, Stats, Metrics]:
    """Return a player's gradient at a joint point, that player's new stats, and metrics.

    With `lazy` = n the penalty is added on moves 0, n, 2n, ... and counts n times (lazy regularisation,
    Karras et al. 2019, arXiv 1912.04958, section 3.1). Of the loss's new stats only the player's own are kept:
    the other network ran in train mode, and its new stats are dropped.
    """
    loss, penalty = getattr(game.losses, player), getattr(game.penalties, player)

    def scalar(function: Callable, weight: float) -> Callable:
        def value(mine: Params) -> tuple[Array, tuple[Stats, Metrics]]:
            result, (new, metrics) = function(params._replace(**{player: mine}), stats, key, batch)
            return weight * result, (getattr(new, player), metrics)

        return value

    mine = getattr(params, player)
    if penalty is None:
        slope, (new, metrics) = jax.grad(scalar(loss, 1.0), has_aux=True)(mine)
        return slope, new, metrics

    if lazy == 1:

        def both(mine: Params) -> tuple[Array, tuple[Stats, Metrics]]:
            value, (new, metrics) = scalar(loss, 1.0)(mine)
            extra, (_, more) = scalar(penalty, 1.0)(mine)
            return value + extra, (new, {**metrics, **more})

        slope, (new, metrics) = jax.grad(both, has_aux=True)(mine)
        return slope, new, metrics

    def penalised(mine: Params) -> tuple[Params, Metrics]:
        slope, (_, metrics) = jax.grad(scalar(penalty, float(lazy)), has_aux=True)(mine)
        # Times n, as in the slope: the mean over steps is then the penalty itself.
        return slope, jax.tree.map(lambda metric: lazy * metric, metrics)

    def skipped(mine: Params) -> tuple[Params, Metrics]:
        return jax.tree.map(jnp.zeros_like, jax.eval_shape(penalised, mine))

    slope, (new, metrics) = jax.grad(scalar(loss, 1.0), has_aux=True)(mine)
    extra, more = lax.cond(count % lazy == 0, penalised, skipped, mine)
    return jax.tree.map(jnp.add, slope, extra), new, {**metrics, **more}


def move(optimisers: Pair[optax.GradientTransformation], player: str, point: Point, slope: Params, new: Stats) -> Point:
    """Return the point after one player's move along its gradient, with its new stats."""
    moves: Moves = point.rule
    mine = getattr(point.params, player)
    updates, state = getattr(optimisers, player).update(slope, getattr(moves.optimisers, player), mine)
    return Point(
        params=point.params._replace(**{player: optax.apply_updates(mine, updates)}),
        stats=point.stats._replace(**{player: new}),
        rule=Moves(
            moves.optimisers._replace(**{player: state}),
            moves.count._replace(**{player: getattr(moves.count, player) + 1}),
        ),
    )


def check(*, lazy: int, d_steps: int = 1) -> None:
    """Raise a ValueError unless both are whole numbers of at least 1."""
    for name, value in (("lazy", lazy), ("d_steps", d_steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not a whole number of at least 1")
