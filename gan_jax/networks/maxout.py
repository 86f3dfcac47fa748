"""The pair of PacGAN's mixtures: a rectified generator with batch normalisation, and a maxout critic."""

import math
from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gan_jax.base import Network
from gan_jax.networks.layers import BatchNorm, check_widths, normal_init
from gan_jax.networks.network import network


def generator(
    latent: int, features: int, *, widths: Sequence[int] = (400, 400), axis_name: str | None = None
) -> Network:
    """Return a map of latents [B, latent] to points [B, features].

    Each hidden layer is linear without bias, batch normalisation, ReLU; weights start from N(0, .02²)
    (Lin et al. 2018, arXiv 1712.04086, on mixtures, and its published code, which has four hidden layers).
    With `axis_name` batch normalisation is over all devices of that mapped axis.

    Raises:
        ValueError: if a width is less than 1.
    """
    check_widths(widths)
    return network(lambda rngs: _Generator(latent, features, tuple(widths), axis_name, rngs=rngs))


def discriminator(shape: Sequence[int], *, widths: Sequence[int] = (200, 200, 200), pieces: int = 5) -> Network:
    """Return a map of points or packs of them [B, *shape] to logits [B].

    Each hidden unit is the largest of `pieces` linear maps (Goodfellow et al. 2013, arXiv 1302.4389, eqs. 1 and 2).
    Nothing mixes examples, so gradient penalties apply.

    Raises:
        ValueError: if a width or `pieces` is less than 1.
    """
    check_widths(widths)
    if pieces < 1:
        raise ValueError(f"pieces={pieces}: a maxout unit has at least 1, and 5 is usual")
    return network(lambda rngs: _Discriminator(math.prod(shape), tuple(widths), pieces, rngs=rngs))


class _Generator(nnx.Module):
    def __init__(self, latent: int, features: int, widths: tuple[int, ...], axis_name: str | None, *, rngs: nnx.Rngs):
        hidden = (latent, *widths)
        self.layers = nnx.List(
            [
                nnx.Linear(inputs, outputs, use_bias=False, kernel_init=normal_init, rngs=rngs)
                for inputs, outputs in pairwise(hidden)
            ]
        )
        self.norms = nnx.List([BatchNorm(width, axis_name=axis_name, rngs=rngs) for width in widths])
        self.last = nnx.Linear(hidden[-1], features, kernel_init=normal_init, rngs=rngs)

    def __call__(self, z: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            z = jax.nn.relu(norm(layer(z), None, train=train))
        return self.last(z)


class _Discriminator(nnx.Module):
    def __init__(self, features: int, widths: tuple[int, ...], pieces: int, *, rngs: nnx.Rngs):
        self.pieces = pieces
        self.layers = nnx.List(
            [
                nnx.Linear(inputs, pieces * outputs, kernel_init=normal_init, rngs=rngs)
                for inputs, outputs in pairwise((features, *widths))
            ]
        )
        self.last = nnx.Linear(widths[-1], 1, kernel_init=normal_init, rngs=rngs)

    def __call__(self, x: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        x = x.reshape(x.shape[0], -1)
        for layer in self.layers:
            # A chain of maxima and not one reduction: its gradient selects, where a reduction's compares and counts.
            x = reduce(jnp.maximum, jnp.split(layer(x), self.pieces, axis=-1))
        return self.last(x)[:, 0]
