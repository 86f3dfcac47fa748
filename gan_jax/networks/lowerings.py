"""How a convolution is computed: the same map, written for one machine or another.

Two maps are those of DCGAN, with kernels of 4x4 and stride 2: `down` halves height and width, `up`
is its transpose and doubles them. The third, `same`, is that of residual networks, 3x3 and stride 1.
XLA's CPU backend computes the gradient of a transposed convolution many times slower than the same
map as matrix products, and any convolution many times slower inside a loop (`lax.scan`); matrix
products have neither problem. Outside of loops its convolutions are up to five times as fast.
"""

from collections.abc import Callable
from typing import NamedTuple

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
    """One matrix product over patches each, of 2x2 or 3x3: for CPUs, loops, and weights under vmap.

    A kernel of 4x4 and stride 2 is a kernel of 2x2 over blocks of 2x2 pixels (space to depth);
    its transpose is a kernel of 2x2 that yields four pixels, one for each phase (sub-pixel
    convolution, Shi et al. 2016, arXiv 1609.05158).
    """

    def down(x: Array, kernel: Array) -> Array:
        _, height, width, channels = x.shape
        blocks = _pad(x).reshape(-1, height // 2 + 1, 2, width // 2 + 1, 2, channels)
        blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(-1, height // 2 + 1, width // 2 + 1, 4 * channels)
        matrix = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 1, 3, 4, 5)
        return _patches(blocks) @ matrix.reshape(16 * channels, -1)

    def up(x: Array, kernel: Array) -> Array:
        _, height, width, channels = x.shape
        # In the order (tap, tap, channel) x (phase, phase, output): row 2t + a of the kernel is tap t of phase a.
        matrix = kernel.reshape(2, 2, 2, 2, channels, -1).transpose(0, 2, 4, 1, 3, 5)
        phases = _patches(_pad(x)) @ matrix.reshape(4 * channels, -1)
        phases = phases.reshape(-1, height + 1, width + 1, 2, 2, kernel.shape[-1])
        # Phase (a, b) of pixel (i, j) sees the patch at (i + a, j + b).
        rows = [jnp.stack([phases[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3) for a in (0, 1)]
        return jnp.stack(rows, axis=2).reshape(-1, 2 * height, 2 * width, kernel.shape[-1])

    def same(x: Array, kernel: Array) -> Array:
        return _patches(_pad(x), 3) @ kernel.reshape(-1, kernel.shape[-1])

    return Lowering(down, up, same)


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


def _pad(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _patches(x: Array, side: int = 2) -> Array:
    """Return the patches of S x S of [B, H, W, C] as [B, H-S+1, W-S+1, S²·C]."""
    height, width = (size - side + 1 for size in x.shape[1:3])
    taps = [x[:, i : height + i, j : width + j] for i in range(side) for j in range(side)]
    return jnp.concatenate(taps, axis=-1)
