"""Mixtures of Gaussians in the plane, sampled inside the compiled step: the toys on which modes can be counted."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from gan_jax.arithmetic import require_positive
from gan_jax.base import Batches, Key


class Mixture(NamedTuple):
    """An equal mixture of K isotropic Gaussians: their centres [K, 2] and their common deviation."""

    name: str
    centres: Float[Array, "K 2"]
    std: float | Array


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def ring(modes: int = 8, radius: float | Array = 1.0, std: float | Array = 0.01) -> Mixture:
    """Return the mixture of deviation `std` at `modes` centres, evenly spaced on a circle about the origin.

    The first lies at angle 0.

    Raises:
        ValueError: no modes, or a radius or deviation that is not positive and finite.
    """
    _require(modes >= 1, f"modes is {modes}: a ring has at least 1")
    require_positive(radius=radius, std=std)
    angle = 2 * math.pi * jnp.arange(modes) / modes
    return Mixture("ring", radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), std)


def grid(side: int = 5, spacing: float | Array = 2.0, std: float | Array = 0.05) -> Mixture:
    """Return the mixture of deviation `std` at side² centres on a square lattice about the origin.

    By default it reaches from -4 to 4 (PacGAN's protocol).

    Raises:
        ValueError: an empty side, or a spacing or deviation that is not positive and finite.
    """
    _require(side >= 1, f"side is {side}: a grid has at least 1 centre a side")
    require_positive(spacing=spacing, std=std)
    along = spacing * (jnp.arange(side) - (side - 1) / 2)
    return Mixture("grid", jnp.stack(jnp.meshgrid(along, along), axis=-1).reshape(-1, 2), std)


MIXTURES = {f.__name__: f for f in (ring, grid)}


def sample(mixture: Mixture, key: Key, shape: tuple[int, ...]) -> Float[Array, "*shape 2"]:
    """Return independent points [*shape, 2], each from a centre drawn uniformly."""
    mode_key, noise_key = jax.random.split(key)
    mode = jax.random.randint(mode_key, shape, 0, len(mixture.centres))
    return mixture.centres[mode] + mixture.std * jax.random.normal(noise_key, (*shape, 2))


def batches(mixture: Mixture, size: int, count: int = 1) -> Batches:
    """Return the endless stream of `{"x": [count, size, 2]}`; nothing is kept on the device.

    Raises:
        ValueError: `size` or `count` is less than 1.
    """
    _require(min(size, count) >= 1, f"a step draws {count} batches of {size} points: both must be at least 1")
    return Batches({}, lambda _, key, step: {"x": sample(mixture, jax.random.fold_in(key, step), (count, size))})
