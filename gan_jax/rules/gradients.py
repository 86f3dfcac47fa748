"""What all rules share: gradients and their penalties, moves along them, and checks of what a rule is given."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from gan_jax.arithmetic import allowed, require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Point, Stats


class Moves(NamedTuple):
    """What a rule of first-order moves carries; a rule that carries more has these two fields among its own.

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
    Karras et al. 2019, arXiv 1912.04958, section 3.1); under vmap over points, where a conditional computes both of its
    branches, that saves nothing. Of the loss's new stats only the player's own are kept: the other network ran in
    train mode, and its new stats are dropped.

    All three are means over the shares of a batch: over its slices, which are gone through one after another, and over
    the devices of the game's axis. Share i has the key `fold_in(key, i)`.

    Raises:
        ValueError: if a batch is no whole number of slices.
    """

    def part(key: Key, batch: Batch) -> tuple[Params, Stats, Metrics]:
        return _gradient(game, player, key, params, stats, batch, count, lazy)

    if game.axis_name is not None:
        key = jax.random.fold_in(key, lax.axis_index(game.axis_name))
    # One mean of everything at once: of as few collectives as the compiler makes of it.
    return mean_over(game.axis_name, _mean_over_slices(part, game.slices, key, batch))


def mean_over(axis_name: str | None, tree: Any) -> Any:
    """Return the mean of a tree's floats over the devices of the axis `axis_name`; the tree itself if that is None.

    What is no float, a counter, is the same on all of them and stays as it is.
    """
    if axis_name is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    floats = [index for index, leaf in enumerate(leaves) if _is_float(leaf)]
    for index, mean in zip(floats, lax.pmean([leaves[index] for index in floats], axis_name), strict=True):
        leaves[index] = mean
    return jax.tree.unflatten(structure, leaves)


def _is_float(leaf: Array) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _mean_over_slices(part: Callable[[Key, Batch], Any], slices: int, key: Key, batch: Batch) -> Any:
    if slices == 1:
        return part(key, batch)
    require_counts(slices=slices)
    for leaf in jax.tree.leaves(batch):
        if len(leaf) % slices:
            raise ValueError(f"a batch of {len(leaf)} is no whole number of slices: {slices} do not divide it")
    cut = jax.tree.map(lambda leaf: leaf.reshape(slices, -1, *leaf.shape[1:]), batch)

    def add(total: Any, index: Array) -> tuple[Any, None]:
        new = part(jax.random.fold_in(key, index), jax.tree.map(lambda leaf: leaf[index], cut))
        return jax.tree.map(lambda x, y: x + y / slices if _is_float(y) else y, total, new), None

    one = jax.tree.map(lambda leaf: leaf[0], cut)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(part, key, one))
    return lax.scan(add, zeros, jnp.arange(slices))[0]


def _gradient(
    game: Game, player: str, key: Key, params: Pair[Params], stats: Pair[Stats], batch: Batch, count: Array, lazy: int
) -> tuple[Params, Stats, Metrics]:
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


def field(
    game: Game, key: Key, point: Point, batch: Batch, lazy: int, *, reuse: bool = False
) -> tuple[Pair[Params], Pair[Stats], Metrics]:
    """Return both players' gradients at one point, each player's own new stats, and the metrics of both.

    Each player has a key of its own, so that the generator does not answer to the very fakes that the discriminator
    saw; with `reuse` both have the discriminator's, and one forward pass serves both. `lazy` is that of `gradient`.
    """
    slopes, stats, merged = [], [], {}
    for index, player in enumerate(Pair._fields):
        count = getattr(point.rule.count, player)
        mine = jax.random.fold_in(key, Pair._fields.index("discriminator") if reuse else index)
        slope, new, metrics = gradient(game, player, mine, point.params, point.stats, batch, count, lazy)
        slopes.append(slope)
        stats.append(new)
        merged |= metrics
    return Pair(*slopes), Pair(*stats), merged


def move(optimisers: Pair[optax.GradientTransformation], player: str, point: Point, slope: Params, new: Stats) -> Point:
    """Return the point after one player's move along its gradient, with its new stats."""
    moves: Moves = point.rule
    mine = getattr(point.params, player)
    updates, state = getattr(optimisers, player).update(slope, getattr(moves.optimisers, player), mine)
    return Point(
        params=point.params._replace(**{player: optax.apply_updates(mine, updates)}),
        stats=point.stats._replace(**{player: new}),
        rule=moves._replace(
            optimisers=moves.optimisers._replace(**{player: state}),
            count=moves.count._replace(**{player: getattr(moves.count, player) + 1}),
        ),
    )


def move_both(
    optimisers: Pair[optax.GradientTransformation], point: Point, slopes: Pair[Params], stats: Pair[Stats]
) -> Point:
    """Return the point after the moves of both players along gradients that are known, with their new stats."""
    for player, slope, new in zip(Pair._fields, slopes, stats, strict=True):
        point = move(optimisers, player, point, slope, new)
    return point


def check_optimisers(optimisers: Pair[optax.GradientTransformation]) -> None:
    """Raise a ValueError unless it is a pair of optimisers: objects with `init` and `update`."""
    what = "a rule that takes optimisers takes a Pair of them"
    would_do = "Pair(optax.adam(1e-4), optax.adam(1e-4)) would do"
    if not isinstance(optimisers, Pair):
        raise ValueError(f"{what}, not {_short(optimisers)}: {would_do}")
    for player, mine in zip(Pair._fields, optimisers, strict=True):
        if not _is_optimiser(mine):
            raise ValueError(f"{what}, and the {player}'s is {_short(mine)}: {would_do}")


def check_rates(rates: Pair[float | Array]) -> None:
    """Raise a ValueError unless it is a pair of learning rates: finite numbers of at least 0.

    Arrays pass when they are scalars: their values may be traced, and are looked at by nobody.
    """
    what = "a rule of plain gradient steps takes a Pair of rates"
    would_do = "Pair(0.1, 0.1) would do"
    if not isinstance(rates, Pair):
        raise ValueError(f"{what}, not {_short(rates)}: {would_do}")
    for player, rate in zip(Pair._fields, rates, strict=True):
        if not is_number(rate):
            raise ValueError(f"{what}, and the {player}'s is {_short(rate)}: {would_do}")
        if not allowed(rate, lambda size: 0 <= size < math.inf):
            raise ValueError(f"the {player}'s rate {rate} is not a finite rate of at least 0: {would_do}")


def is_number(value: Any) -> bool:
    """Return whether it is a Python number, or an array without axes, traced or not."""
    if isinstance(value, Array | np.ndarray):
        return value.ndim == 0
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_optimiser(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def _short(value: Any) -> str:
    # The representation of an optimiser is a line of addresses; of an array it may be a page.
    if _is_optimiser(value):
        return "an optimiser"
    if isinstance(value, Array | np.ndarray):
        return f"an array of shape {value.shape}"
    if isinstance(value, Real | str | None):
        return repr(value)
    return f"a {type(value).__name__}"
