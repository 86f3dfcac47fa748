"""A root with finite slopes, whether a tree is finite, pixels as levels, and the refusal of numbers that cannot be."""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, UInt8

Scalar = float | Float[Array, ""]


def safe_sqrt(squares: Array, otherwise: float = 0.0) -> Array:
    """Return the root of `squares` [...], and where they are 0 or less `otherwise`, with a slope of zero.

    Both branches of a `where` are differentiated: the root of zero itself would make the slope NaN. NaN stays NaN, so
    that a distance of what has diverged is not taken for none.
    """
    none = squares <= 0
    return jnp.where(none, otherwise, jnp.sqrt(jnp.where(none, 1.0, squares)))


def all_finite(tree: Any) -> Bool[Array, ""]:
    """Whether all floats of a tree are finite; what is no float does not count."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.asarray([jnp.isfinite(leaf).all() for leaf in floats]).all()


def to_uint8(image: Float32[Array | np.ndarray, "..."]) -> UInt8[Array, "..."]:
    """Scale pixels from [-1, 1] to the nearest of {0, ..., 255}; what lies outside is clipped."""
    return jnp.clip(jnp.round((jnp.asarray(image) + 1) * 127.5), 0, 255).astype(jnp.uint8)


def allowed(value: Any, law: Callable[[float], bool]) -> bool:
    """Whether a number obeys a law, as far as it is known: traced, it may; what is not one number does not.

    Arrays without axes are numbers, too: those that a loop over settings hands in are looked at like Python's.
    """
    if isinstance(value, Array | np.ndarray):
        return value.ndim == 0 and (isinstance(value, jax.core.Tracer) or law(float(value)))
    return isinstance(value, Real) and not isinstance(value, bool) and law(float(value))


def require_positive(**values: Scalar) -> None:
    """Refuse numbers that are not positive and finite; traced ones pass.

    Raises:
        ValueError: naming the first such number.
    """
    for name, value in values.items():
        if not allowed(value, lambda number: 0 < number < math.inf):
            raise ValueError(f"{name}={value} must be positive and finite")


def require_nonnegative(**values: Scalar) -> None:
    """Refuse numbers that are negative or not finite; traced ones pass.

    Raises:
        ValueError: naming the first such number.
    """
    for name, value in values.items():
        if not allowed(value, lambda number: 0 <= number < math.inf):
            raise ValueError(f"{name}={value} must be finite and at least 0")


def require_counts(**counts: int) -> None:
    """Refuse what is not a whole number of at least 1.

    Raises:
        ValueError: naming the first such value.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} is not a whole number of at least 1")
