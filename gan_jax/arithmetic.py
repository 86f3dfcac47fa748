"""A root with finite slopes, and the refusal of sizes that are none."""

import math
from numbers import Real

import jax.numpy as jnp
from jaxtyping import Array, Float

Scalar = float | Float[Array, ""]


def safe_sqrt(squares: Array, otherwise: float = 0.0) -> Array:
    """The root, and at zero another value and a slope of zero: both branches of a `where` are differentiated."""
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), otherwise)


def require_positive(**values: Scalar) -> None:
    """Refuse Python numbers that are not positive and finite; traced values pass."""
    for name, value in values.items():
        if isinstance(value, Real) and not 0.0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite")
