"""DCGAN (Radford et al. 2015, arXiv 1511.06434): strided convolutions and batch normalisation, for 28x28, 32x32, 64x64.

A size is halved while it is even and above 7: 28 becomes 14 and 7; 32 becomes 16, 8 and 4. Channels
double with each halving.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gan_jax.base import Network
from gan_jax.networks.layers import BatchNorm, LayerNorm, Projection, Strided, halvings, normal_init
from gan_jax.networks.lowerings import Lowering, auto
from gan_jax.networks.network import network


def generator(
    latent: int,
    size: int,
    channels: int,
    *,
    width: int = 64,
    classes: int = 0,
    norm: Literal["batch", "layer"] = "batch",
    lowering: Lowering | None = None,
    axis_name: str | None = None,
) -> Network:
    """Return a map of latents [B, latent] to images [B, size, size, channels] in [-1, 1].

    Args:
        width: channels of the finest layer of features.
        classes: if not 0, batch normalisation is conditional on the label.
        norm: "batch" as in the paper, or "layer", which carries nothing from step to step, for a few steps on a few
            images.
        lowering: how convolutions are computed; `lowerings.auto()` if None.
        axis_name: of the mapped axis over whose devices a batch is divided, if it is: batch normalisation is then
            that of the whole batch.

    Raises:
        ValueError: if `size` cannot be halved down to 4...7, `width` is less than 1, or a normalisation is unknown or
            can not be conditional.
    """
    levels = _levels(size, width)
    if norm not in ("batch", "layer") or (norm == "layer" and classes):
        raise ValueError(f"norm={norm!r} with {classes} classes: take 'batch', or 'layer' without classes")
    make = partial(BatchNorm, classes=classes, axis_name=axis_name) if norm == "batch" else LayerNorm
    return network(lambda rngs: _Generator(latent, size, levels, channels, width, make, lowering or auto(), rngs=rngs))


def discriminator(
    size: int,
    channels: int,
    *,
    width: int = 64,
    classes: int = 0,
    normalise: bool = True,
    lowering: Lowering | None = None,
    axis_name: str | None = None,
) -> Network:
    """Return a map of images [B, size, size, channels] to logits [B].

    Args:
        width: channels of the finest layer of features.
        classes: if not 0, a projection of the last features on the label's vector is added to the logit.
        normalise: batch normalisation in all but the first layer, as in the paper. Gradient penalties are per
            example and call for False.
        lowering: how convolutions are computed; `lowerings.auto()` if None.
        axis_name: of the mapped axis over whose devices a batch is divided, if it is: batch normalisation is then
            that of the whole batch.

    Raises:
        ValueError: if `size` cannot be halved down to 4...7, or `width` is less than 1.
    """
    levels = _levels(size, width)
    make = partial(BatchNorm, axis_name=axis_name) if normalise else None
    return network(
        lambda rngs: _Discriminator(size, levels, channels, width, classes, make, lowering or auto(), rngs=rngs)
    )


def _levels(size: int, width: int) -> int:
    """Return how often `size` is halved."""
    if width < 1:
        raise ValueError(f"width {width}: a layer has at least 1 channel")
    return halvings(size, 7)


class _Generator(nnx.Module):
    def __init__(
        self,
        latent: int,
        size: int,
        levels: int,
        channels: int,
        width: int,
        norm: Callable[..., BatchNorm | LayerNorm],
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
    ):
        widths = [width * 2**level for level in reversed(range(levels))]
        self.side = size // 2**levels
        self.stem = nnx.Linear(latent, self.side**2 * widths[0], kernel_init=normal_init, rngs=rngs)
        self.norms = nnx.List([norm(features, rngs=rngs) for features in widths])
        self.ups = nnx.List(
            [Strided(i, o, lowering.up, rngs=rngs) for i, o in zip(widths, [*widths[1:], channels], strict=True)]
        )

    def __call__(self, z: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        x = self.stem(z).reshape(z.shape[0], self.side, self.side, -1)
        for norm, up in zip(self.norms, self.ups, strict=True):
            x = up(jax.nn.relu(norm(x, label, train=train)))
        return jnp.tanh(x)


class _Discriminator(nnx.Module):
    def __init__(
        self,
        size: int,
        levels: int,
        channels: int,
        width: int,
        classes: int,
        norm: Callable[..., BatchNorm] | None,
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
    ):
        widths = [width * 2**level for level in range(levels)]
        self.downs = nnx.List(
            [Strided(i, o, lowering.down, rngs=rngs) for i, o in zip([channels, *widths[:-1]], widths, strict=True)]
        )
        self.norms = nnx.List([norm(features, rngs=rngs) for features in widths[1:]] if norm else [])
        side = size // 2**levels
        self.head = nnx.Linear(side**2 * widths[-1], 1, kernel_init=normal_init, rngs=rngs)
        self.projection = Projection(side**2 * widths[-1], classes, rngs=rngs) if classes else None

    def __call__(self, x: Array, *, label: Array | None, train: bool, key: Array | None) -> Array:
        for level, down in enumerate(self.downs):
            x = down(x)
            if self.norms and level:
                x = self.norms[level - 1](x, None, train=train)
            x = jax.nn.leaky_relu(x, 0.2)
        x = x.reshape(x.shape[0], -1)
        logits = self.head(x)[:, 0]
        return logits if self.projection is None else logits + self.projection(x, label)
