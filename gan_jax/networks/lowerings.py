"""How a convolution is computed: the same map, written for one machine or another.

Two maps are those of DCGAN, with kernels of 4x4 and stride 2: `down` halves height and width, `up`
is its transpose and doubles them. The third, `same`, is that of residual networks, 3x3 and stride 1.
XLA's CPU backend computes the gradient of a transposed convolution by its kernel many times slower
than the same map as matrix products, and the gradients of any convolution many times slower inside a
loop (`lax.scan`); matrix products have neither problem (docs/performance.md).
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")

Map = Callable[[Float[Array, "B H W C"], Float[Array, "K K C D"]], Array]


class Lowering(NamedTuple):
    """Three maps of (images [B, H, W, C], kernel [K, K, C, D]).

    down: K = 4, to [B, H/2, W/2, D], the convolution of stride 2 with one row of zeros on each side; H and W are even.
    up: K = 4, to [B, 2H, 2W, D], the transposed convolution of stride 2 (`lax.conv_transpose`, padding "SAME").
    same: K = 3, to [B, H, W, D], the convolution of stride 1 with one row of zeros on each side.
    """

    down: Map
    up: Map
    same: Map


def xla() -> Lowering:
    """XLA's own convolutions: for accelerators."""
    return Lowering(
        lambda x, kernel: lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=_DIMENSIONS),
        lambda x, kernel: lax.conv_transpose(x, kernel, (2, 2), "SAME", dimension_numbers=_DIMENSIONS),
        lambda x, kernel: lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_DIMENSIONS),
    )


def patches() -> Lowering:
    """Matrix products over patches: for CPUs, loops, and weights under vmap.

    Where an image has few channels its patches are laid out, and one product serves them all. Elsewhere there is a
    product for each part of the kernel, whose pixels need only be cut out of the image, and which are added up.
    """

    def down(x: Array, kernel: Array) -> Array:
        batch, height, width, channels = x.shape
        x, size = _pad(x), (batch, height // 2, width // 2, kernel.shape[-1])
        if channels < _FEW:
            return _patches(x, 4, 2) @ kernel.reshape(16 * channels, -1)
        # Two pixels side by side are one of twice the channels, and a pair of rows lies along an axis of its own.
        pairs = x.reshape(batch, height // 2 + 1, 2, width // 2 + 1, 2 * channels)
        parts = kernel.reshape(2, 2, 2, 2 * channels, -1)
        return _added(
            (pairs[:, i : i + size[1], row, j : j + size[2]], parts[i, row, j])
            for i in range(2)
            for row in range(2)
            for j in range(2)
        ).reshape(size)

    def up(x: Array, kernel: Array) -> Array:
        batch, height, width, _ = x.shape
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        doubled = jax.ShapeDtypeStruct((batch, 2 * height, 2 * width, kernel.shape[-1]), x.dtype)
        return jax.linear_transpose(lambda image: down(image, turned), doubled)(x)[0]

    def same(x: Array, kernel: Array) -> Array:
        batch, height, width, channels = x.shape
        if channels < _FEW:
            return _patches(_pad(x), 3) @ kernel.reshape(9 * channels, -1)
        # A product for each row of the kernel, of all its columns at once, which belong to neighbouring pixels.
        x = _pad(x, columns=(0, 0))
        rows = ((x[:, i : i + height], kernel[i].swapaxes(0, 1).reshape(channels, -1)) for i in range(3))
        left, middle, right = jnp.moveaxis(_added(rows).reshape(batch, height, width, 3, -1), 3, 0)
        return middle + _pad(left[:, :, :-1], (0, 0), (1, 0)) + _pad(right[:, :, 1:], (0, 0), (0, 1))

    return Lowering(down, up, same)


_FEW = 16  # channels of an image: with fewer, products of single taps are too thin


def _added(products: Iterable[tuple[Array, Array]]) -> Array:
    """Return the sum of products of pixels [..., C] and matrices [C, D] as [N, D].

    Pixels are one axis each time, so that the gradients are plain products too.
    """
    return functools.reduce(jnp.add, (pixels.reshape(-1, len(matrix)) @ matrix for pixels, matrix in products))


def auto() -> Lowering:
    """`patches` on a CPU and `xla` elsewhere, chosen by the platform that the program is compiled for."""
    return _by_platform(patches())


def unlooped() -> Lowering:
    """`xla`, but for `up` on a CPU, which is that of `patches`: for steps that are called one by one.

    Without gradient penalties: their second derivatives are convolutions that XLA's CPU backend computes slowly too.
    """
    return _by_platform(xla()._replace(up=patches().up))


LOWERINGS = {f.__name__: f for f in (xla, patches, auto, unlooped)}


def _by_platform(cpu: Lowering) -> Lowering:
    """Return a lowering for CPUs that is `xla` elsewhere."""

    def chosen(here: Map, there: Map) -> Map:
        return lambda x, kernel: lax.platform_dependent(x, kernel, cpu=here, default=there)

    return Lowering(*map(chosen, cpu, xla()))


def _pad(x: Array, rows: tuple[int, int] = (1, 1), columns: tuple[int, int] = (1, 1)) -> Array:
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)))


def _patches(x: Array, side: int, stride: int = 1) -> Array:
    """Return the patches of S x S pixels of [B, H, W, C] as [B, ..., ..., S²·C], one at each stride."""
    height, width = (size - side + 1 for size in x.shape[1:3])
    taps = [x[:, i : i + height : stride, j : j + width : stride] for i in range(side) for j in range(side)]
    return jnp.concatenate(taps, axis=-1)
