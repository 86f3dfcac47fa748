"""Learnable hyperparameters: any pytree of numbers, in unconstrained coordinates that cannot leave their bounds.

A coordinate is the logit of a number's place between its bounds, on a linear or a logarithmic scale. Gradients,
evolution and random search work on coordinates alike, and `hyper` turns them into the numbers that a step reads:

    rate = Interval(1e-5, 1e-1, log=True)
    learned = space(Hypers(beta1=0.5), Hypers(Pair(rate, rate), Interval(0.0, 0.99), penalty=None, smoothing=None))
    slopes = jax.grad(lambda where: loss(hyper(learned, where)))(coordinates(learned))

The slope falls to zero towards a bound, and what is out there comes back slowly: begin well inside.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from gan_jax.base import Hyper, Key


class Interval(NamedTuple):
    """The bounds of a learned number, or of each element of an array or a tree that stands in its place.

    low, high: finite Python numbers, low < high. Rounding reaches them where a coordinate is large, so what must
        stay below 1 has a bound below 1.
    log: whether the scale is logarithmic, as rates need it; low is then positive.
    """

    low: float
    high: float
    log: bool = False


class Space(NamedTuple):
    """Which hyperparameters are learned, and between which bounds; made by `space`.

    default: all of them, those that stay fixed as well. Leaves are numbers or arrays.
    bounds: an Interval, or None for what stays fixed, in the place of each number, array or subtree of `default`.
    """

    default: Hyper
    bounds: Any


def space(default: Hyper, bounds: Any) -> Space:
    """Return the space of the hyperparameters that have bounds.

    Args:
        default: all hyperparameters. An array holds a number for each parameter, layer or step.
        bounds: of the structure of `default`, or of its upper part: an Interval in the place of a tree is for all
            of its leaves.

    Raises:
        ValueError: if the structures do not fit, an interval is empty, not finite or on a logarithmic scale not
            positive, or a default is not strictly inside. Traced defaults pass.
    """
    try:
        jax.tree.map(lambda bound, value: None, bounds, default, is_leaf=_is_bound)
    except ValueError as error:
        raise ValueError(
            "bounds are an Interval, or None, in the place of each hyperparameter or of a whole tree of them: "
            + " ".join(str(error).split())
        ) from error
    made = Space(default, bounds)
    coordinates(made)
    return made


def coordinates(space: Space, hyper: Hyper | None = None) -> Any:
    """Return the coordinates of hyperparameters: log((x − low)/(high − x)), or the same of log x, log low and log high.

    Args:
        hyper: all hyperparameters, the default ones if left out. A tree of arrays may stand where the default has a
            number: its bounds are for each element.

    Returns:
        arrays in the structure of `hyper`, and None in the place of what stays fixed.

    Raises:
        ValueError: if a learned number is not strictly inside its interval. Traced ones pass; outside they give NaN.
    """

    def inverse(path: tuple, bound: Interval | None, value: Any) -> Any:
        if bound is None:
            return None
        _check(path, bound, value)
        return jax.tree.map(partial(_coordinate, bound), value)

    values = space.default if hyper is None else hyper
    return jax.tree_util.tree_map_with_path(inverse, space.bounds, values, is_leaf=_is_bound)


def hyper(space: Space, coordinates: Any) -> Hyper:
    """Return the hyperparameters at given coordinates: inside their bounds, or at most on them, with finite slopes.

    What stays fixed is the default as it was given. The inverse of `coordinates`.

    Args:
        coordinates: arrays of any real numbers, in the structure that `coordinates` returns.

    Raises:
        ValueError: if there are coordinates where nothing is learned.
    """

    def forward(path: tuple, bound: Interval | None, default: Any, value: Any) -> Any:
        if bound is not None:
            return jax.tree.map(partial(_number, bound), value)
        if jax.tree.leaves(value):
            raise ValueError(f"{_name(path)} stays fixed and has no coordinates: give None, as `coordinates` does")
        return default

    return jax.tree_util.tree_map_with_path(forward, space.bounds, space.default, coordinates, is_leaf=_is_bound)


def random(space: Space, key: Key) -> Hyper:
    """Draw each learned number uniformly between its bounds, on a logarithmic scale log-uniformly.

    Elements of arrays are drawn independently; what stays fixed is the default.
    """
    # The logistic function of a logistic draw is uniform.
    return hyper(space, optax.tree.random_like(key, coordinates(space), jax.random.logistic))


def _coordinate(bound: Interval, value: ArrayLike) -> Array:
    value = jnp.asarray(value, jnp.result_type(value, float))
    if bound.log:
        below, above = jnp.log(value / bound.low), jnp.log(bound.high / value)
    else:
        below, above = value - bound.low, bound.high - value
    return jnp.log(below) - jnp.log(above)


def _number(bound: Interval, coordinate: ArrayLike) -> Array:
    # From the nearer bound: rounding then cannot step over it, and the way to it keeps its digits.
    place, rest = jax.nn.sigmoid(coordinate), jax.nn.sigmoid(jnp.negative(coordinate))
    if bound.log:
        width = math.log(bound.high / bound.low)
        from_low, from_high = bound.low * jnp.exp(width * place), bound.high * jnp.exp(-width * rest)
    else:
        width = bound.high - bound.low
        from_low, from_high = bound.low + width * place, bound.high - width * rest
    return jnp.where(place < rest, from_low, from_high)


def _check(path: tuple, bound: Any, value: Any) -> None:
    if not isinstance(bound, Interval):
        raise ValueError(f"the bounds of {_name(path)} are {bound!r}: give an Interval, or None if it stays fixed")
    low, high, log = bound
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"low={low} and high={high} at {_name(path)} bound no interval: give finite ones, low < high")
    if log and not low > 0:
        raise ValueError(f"low={low} at {_name(path)} has no logarithm: give a low above 0, or log=False")
    for place, leaf in jax.tree_util.tree_leaves_with_path(value):
        if isinstance(leaf, jax.core.Tracer):
            continue
        numbers = np.asarray(leaf, jnp.result_type(leaf, float))
        outside = ~((low < numbers) & (numbers < high))
        if outside.any():
            raise ValueError(
                f"{_name(path + place)}={numbers[outside][0]:g} is not strictly between {low:g} and {high:g}: "
                f"widen its interval, or begin inside, such as at {_number(bound, 0.0):g}"
            )


def _is_bound(node: Any) -> bool:
    return node is None or isinstance(node, Interval)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path) or "the hyperparameter"
