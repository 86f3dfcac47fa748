"""The gradient field of a game, for the rules that differentiate it once more, and the move against what comes of it.

The field at a joint point is the pair of both players' gradients, v = (∇x f, ∇y g), each of the player's own loss;
its Jacobian Dv holds on the diagonal what each player would do alone, and off it what they do to each other.
"""

import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import optax

from gan_jax.arithmetic import allowed, require_counts
from gan_jax.base import Batch, Game, Key, Metrics, Pair, Params, Point, Stats, UpdateRule
from gan_jax.rules import gradients

# `params -> (slopes, (stats, metrics))`: what belongs to the field, and beside it what only its value at the point has.
Field = Callable[[Pair[Params]], tuple[Pair[Params], tuple[Pair[Stats], Metrics]]]


def plain_steps(
    rates: Pair[Any], direction: Callable[[Field, Pair[Params]], tuple[Pair[Params], Any]], *, lazy: int
) -> UpdateRule:
    """Return the rule that moves both players at once, each at its rate against its part of a direction.

    A penalty belongs to its player's loss, so it is part of the field and of the derivatives. On the steps that `lazy`
    skips, a conditional inside the field leaves out both: the derivative of a conditional is one.

    Args:
        rates: a rate for each player.
        direction: `(field, params) -> (direction, (stats, metrics))`, the latter as the field returned them.
        lazy: penalties are added every `lazy`-th step, times `lazy`.

    Raises:
        ValueError: if `rates` is no pair of them, or `lazy` is not a whole number of at least 1.
    """
    gradients.check_rates(rates)
    require_counts(lazy=lazy)
    optimisers: Pair[optax.GradientTransformation] = Pair(*(optax.sgd(rate) for rate in rates))

    def step(game: Game, key: Key, point: Point, batch: Batch) -> tuple[Point, Metrics]:
        chex.assert_tree_shape_prefix(batch, (1,))
        batch = jax.tree.map(lambda leaf: leaf[0], batch)

        def field(params: Pair[Params]) -> tuple[Pair[Params], tuple[Pair[Stats], Metrics]]:
            # The same on every device, so this mean changes nothing but the transpose: what is pulled back through the
            # field is then a mean over devices too.
            params = gradients.mean_over(game.axis_name, params)
            slopes, stats, metrics = gradients.field(game, key, point._replace(params=params), batch, lazy)
            return slopes, (stats, metrics)

        slopes, (stats, metrics) = direction(field, point.params)
        return gradients.move_both(optimisers, point, slopes, stats), metrics

    return UpdateRule(1, lambda params: gradients.init(optimisers, params), step)


def check_weight(weight: Any) -> None:
    """Raise a ValueError unless it is a finite number of at least 0, or an array without axes, traced or not."""
    if not allowed(weight, lambda size: 0 <= size < math.inf):
        raise ValueError(f"weight={weight!r} is not a finite number of at least 0")
