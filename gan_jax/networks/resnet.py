"""The residual pair of SNGAN (Miyato et al. 2018, arXiv 1802.05957, appendix B.4), for 28x28, 32x32 and 64x64.

At 32x32 the layers are those of the paper's table for CIFAR-10: three blocks up from 4x4, two blocks down to 8x8 and
two that keep the size. Other sizes have as many blocks up as lead to 4...7 pixels, and as many down as lead to 5...8:
28 has two of each, 64 four and three. Spectral normalisation is not part of the networks: see `spectral`.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gan_jax.base import Network
from gan_jax.networks.layers import BatchNorm, Conv, Projection, check_widths, doubled, halved, halvings
from gan_jax.networks.lowerings import Lowering, auto
from gan_jax.networks.network import network

# Glorot and Bengio's uniform values, in the residual branches √2 times as large: as in the authors' published code.
_init = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
_residual_init = jax.nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def generator(
    latent: int,
    size: int,
    channels: int,
    *,
    width: int = 256,
    classes: int = 0,
    lowering: Lowering | None = None,
    axis_name: str | None = None,
) -> Network:
    """Return a map of latents [B, latent] to images [B, size, size, channels] in [-1, 1].

    Args:
        width: channels of all features.
        classes: if not 0, batch normalisation is conditional on the label.
        lowering: how convolutions are computed; `lowerings.auto()` if None.
        axis_name: of the mapped axis over whose devices a batch is divided, if it is: batch normalisation is then
            that of the whole batch.

    Raises:
        ValueError: if `size` cannot be halved down to 4...7, or `width` is less than 1.
    """
    check_widths([width])
    levels = halvings(size, 7)
    norm = partial(BatchNorm, classes=classes, axis_name=axis_name)
    return network(lambda rngs: _Generator(latent, size, levels, channels, width, norm, lowering or auto(), rngs=rngs))


def discriminator(
    size: int,
    channels: int,
    *,
    width: int = 128,
    classes: int = 0,
    lowering: Lowering | None = None,
) -> Network:
    """Return a map of images [B, size, size, channels] to logits [B], without normalisation.

    Args:
        width: channels of all features.
        classes: if not 0, a projection of the last features on the label's vector is added to the logit.
        lowering: how convolutions are computed; `lowerings.auto()` if None.

    Raises:
        ValueError: if `size` cannot be halved down to 5...8, or `width` is less than 1.
    """
    check_widths([width])
    levels = halvings(size, 8)
    return network(lambda rngs: _Discriminator(levels, channels, width, classes, lowering or auto(), rngs=rngs))


class _Up(nnx.Module):
    """A block that doubles the size: normalisation, ReLU and convolution twice, and a shortcut of 1x1."""

    def __init__(self, features: int, norm: Callable[..., BatchNorm], lowering: Lowering, *, rngs: nnx.Rngs):
        self.norms = nnx.List([norm(features, rngs=rngs) for _ in range(2)])
        self.first = Conv(features, features, lowering, rngs=rngs, init=_residual_init, resample="up")
        self.second = Conv(features, features, lowering, rngs=rngs, init=_residual_init)
        self.shortcut = nnx.Linear(features, features, kernel_init=_init, rngs=rngs)

    def __call__(self, x: Array, label: Array | None, *, train: bool) -> Array:
        first, second = self.norms
        residual = self.first(jax.nn.relu(first(x, label, train=train)))
        residual = self.second(jax.nn.relu(second(residual, label, train=train)))
        # A convolution of 1x1 and a change of size commute: it comes where there are fewer pixels.
        return residual + doubled(self.shortcut(x))


class _Down(nnx.Module):
    """A block of two convolutions, each after a ReLU, that halves the size if asked, with a shortcut of 1x1 then.

    The first block of a network sees pixels and not features, and takes no ReLU of them.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
        resample: Literal["down"] | None = None,
        pixels: bool = False,
    ):
        self.pixels = pixels
        self.first = Conv(inputs, outputs, lowering, rngs=rngs, init=_residual_init)
        self.second = Conv(outputs, outputs, lowering, rngs=rngs, init=_residual_init, resample=resample)
        self.shortcut = nnx.Linear(inputs, outputs, kernel_init=_init, rngs=rngs) if resample else None

    def __call__(self, x: Array) -> Array:
        residual = self.second(jax.nn.relu(self.first(x if self.pixels else jax.nn.relu(x))))
        return residual + (x if self.shortcut is None else self.shortcut(halved(x)))


class _Generator(nnx.Module):
    def __init__(
        self,
        latent: int,
        size: int,
        levels: int,
        channels: int,
        width: int,
        norm: Callable[..., BatchNorm],
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
    ):
        self.side = size // 2**levels
        self.stem = nnx.Linear(latent, self.side**2 * width, kernel_init=_init, rngs=rngs)
        self.blocks = nnx.List([_Up(width, norm, lowering, rngs=rngs) for _ in range(levels)])
        self.norm = norm(width, rngs=rngs)
        self.head = Conv(width, channels, lowering, rngs=rngs, init=_init)

    def __call__(self, z: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        x = self.stem(z).reshape(z.shape[0], self.side, self.side, -1)
        for block in self.blocks:
            x = block(x, label, train=train)
        return jnp.tanh(self.head(jax.nn.relu(self.norm(x, label, train=train))))


class _Discriminator(nnx.Module):
    def __init__(
        self,
        levels: int,
        channels: int,
        width: int,
        classes: int,
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
    ):
        downs = [
            _Down(width if level else channels, width, lowering, rngs=rngs, resample="down", pixels=not level)
            for level in range(levels)
        ]
        self.blocks = nnx.List([*downs, *(_Down(width, width, lowering, rngs=rngs) for _ in range(2))])
        self.head = nnx.Linear(width, 1, kernel_init=_init, rngs=rngs)
        self.projection = Projection(width, classes, rngs=rngs) if classes else None

    def __call__(self, x: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        for block in self.blocks:
            x = block(x)
        x = jax.nn.relu(x).sum(axis=(1, 2))
        logits = self.head(x)[:, 0]
        return logits if self.projection is None else logits + self.projection(x, label)
