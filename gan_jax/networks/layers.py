"""Layers that Flax does not have: resampling convolutions with a chosen lowering, conditional normalisation."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jax.nn.initializers import Initializer

from gan_jax.networks.lowerings import Lowering, Map

# DCGAN's initial values (Radford et al. 2015, arXiv 1511.06434, section 4).
normal_init = jax.nn.initializers.normal(0.02)


class Strided(nnx.Module):
    """A convolution of 4x4 and stride 2 with a bias: [B, H, W, C] to [B, H/2, W/2, D] or [B, 2H, 2W, D].

    Which of the two, and how it is computed, is said by `map`: a lowering's `down` or `up`.
    """

    def __init__(self, inputs: int, outputs: int, map: Map, *, rngs: nnx.Rngs, init: Initializer = normal_init):
        self.kernel = nnx.Param(init(rngs.params(), (4, 4, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.map = map

    def __call__(self, x: Array) -> Array:
        """Return the resampled images."""
        return self.map(x, self.kernel[...]) + self.bias[None, None, None]


class Conv(nnx.Module):
    """A convolution of 3x3 with a bias, zeros around, alone or joined with a change of size.

    With `resample` "up" it acts on images that are doubled by repeating each pixel, with "down" it is followed by the
    mean over blocks of 2x2. Either is one strided map with a kernel of 4x4, at 4/9 of the multiplications.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        lowering: Lowering,
        *,
        rngs: nnx.Rngs,
        init: Initializer,
        resample: Literal["up", "down"] | None = None,
    ):
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.lowering = lowering
        self.resample = resample

    def __call__(self, x: Array) -> Array:
        """Return [B, H, W, D], [B, 2H, 2W, D] or [B, H/2, W/2, D] from [B, H, W, C]."""
        kernel = self.kernel[...]
        if self.resample == "up":
            x = self.lowering.up(x, _spread(kernel))
        elif self.resample == "down":
            x = self.lowering.down(x, _spread(kernel) / 4)
        else:
            x = self.lowering.same(x, kernel)
        return x + self.bias[None, None, None]


def _spread(kernel: Array) -> Array:
    """Return the sums of a kernel [3, 3, C, D] over its four positions on [4, 4, C, D]."""
    padded = jnp.pad(kernel, ((1, 1), (1, 1), (0, 0), (0, 0)))
    rows = padded[:-1] + padded[1:]
    return rows[:, :-1] + rows[:, 1:]


def doubled(x: Array) -> Array:
    """Return images x [B, H, W, C] as [B, 2H, 2W, C]: each pixel stands in a block of 2x2."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


def halved(x: Array) -> Array:
    """Return images x [B, 2H, 2W, C] as [B, H, W, C]: the means of blocks of 2x2."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def halvings(size: int, largest: int) -> int:
    """Return how often images of `size` are halved until they are at most `largest`.

    Raises:
        ValueError: if that leaves half of `largest` or less, or cannot be done, or `size` is too small to be halved.
    """
    count, rest = 0, size
    while rest > largest and rest % 2 == 0:
        count, rest = count + 1, rest // 2
    if not largest < 2 * rest <= 2 * largest or not count:
        raise ValueError(
            f"image size {size} cannot be halved down to {largest // 2 + 1}...{largest}: take 28, 32 or 64"
        )
    return count


def check_widths(widths: Sequence[int]) -> None:
    """Raise a ValueError if a width is less than 1."""
    if any(width < 1 for width in widths):
        raise ValueError(f"widths {tuple(widths)}: a hidden layer has at least 1 unit")


def required(name: str, value: Array | None) -> Array:
    """Return a `value`, a label or a key, that a layer cannot do without.

    Raises:
        ValueError: if it is None; `name` says there what it should be.
    """
    if value is None:
        raise ValueError(f"this network needs a {name} and was called without one")
    return value


class BatchNorm(nnx.Module):
    """Batch normalisation over all axes but the last, with a scale and a shift for each class.

    With `classes` = 0 it is the plain one (Ioffe and Szegedy 2015); otherwise each class has its own scale
    and shift (conditional batch normalisation, Dumoulin et al. 2017, arXiv 1610.07629, equation 5).
    With `axis_name` the moments of a batch are those over all devices of that mapped axis.
    """

    def __init__(self, features: int, classes: int = 0, *, axis_name: str | None = None, rngs: nnx.Rngs):
        self.normalise = _Moments(features, axis_name)
        rows = max(classes, 1)
        self.scale = nnx.Param(jnp.ones((rows, features)))
        self.shift = nnx.Param(jnp.zeros((rows, features)))

    def __call__(self, x: Array, label: Array | None, *, train: bool) -> Array:
        """Return the normalised [B, ..., C]; the running moments are used unless `train`."""
        mean, inverse = self.normalise(x, train=train)
        row = required("label", label) if self.scale.shape[0] > 1 else 0
        shape = (-1, *(1,) * (x.ndim - 2), x.shape[-1])
        # Moments are float32 at least; in mixed precision the rest is narrower.
        x = ((x - mean.reshape(shape)) * inverse.reshape(shape)).astype(x.dtype)
        return x * self.scale[row].reshape(shape) + self.shift[row].reshape(shape)


class _Moments(nnx.Module):
    """The moments of a batch over all axes but the last, and their running means, of a momentum of .9.

    Flax's own layer takes the root of a variance that has all the axes of the batch. XLA then writes it in one way
    where it is differentiated and in another where it is not, and computes a network twice that it could compute once.
    """

    def __init__(self, features: int, axis_name: str | None):
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.axis_name = axis_name

    def __call__(self, x: Array, *, train: bool) -> tuple[Array, Array]:
        """Return the mean and one over the standard deviation, [C] each; the running ones unless `train`."""
        mean, variance = self.mean[...], self.var[...]
        if train:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            axes = tuple(range(x.ndim - 1))
            moments = wide.mean(axes), jnp.square(wide).mean(axes)
            if self.axis_name is not None:
                moments = lax.pmean(moments, self.axis_name)
            mean, variance = moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)
            self.mean[...] = 0.9 * self.mean[...] + 0.1 * mean
            self.var[...] = 0.9 * self.var[...] + 0.1 * variance
        return mean, lax.rsqrt(variance + 1e-5)


class LayerNorm(nnx.Module):
    """Normalisation of each example over all its axes, with a scale and a shift for each channel, the last axis.

    Ba et al. 2016 (arXiv 1607.06450). It has no running moments: a few steps on a few images are judged as they were
    trained.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.scale = nnx.Param(jnp.ones(features))
        self.shift = nnx.Param(jnp.zeros(features))

    def __call__(self, x: Array, label: Array | None, *, train: bool) -> Array:
        """Return the normalised [B, ..., C]."""
        axes = tuple(range(1, x.ndim))
        x = jax.nn.standardize(x, axis=axes, epsilon=1e-5)
        shape = (1,) * (x.ndim - 1) + (-1,)
        return x * self.scale[...].reshape(shape) + self.shift[...].reshape(shape)


class Projection(nnx.Module):
    """The inner product of features and an embedding of the label (Miyato and Koyama 2018, arXiv 1802.05637, eq. 3)."""

    def __init__(self, features: int, classes: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(normal_init(rngs.params(), (classes, features)))

    def __call__(self, x: Array, label: Array | None) -> Array:
        """Return [B] from features [B, F] and labels [B]."""
        return jnp.sum(x * self.embedding[required("label", label)], axis=-1)
