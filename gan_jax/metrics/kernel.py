"""The kernel inception distance: a maximum mean discrepancy between features, unbiased at any number of samples."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from gan_jax.divergences.integral import maximum_mean_discrepancy, polynomial_kernel
from gan_jax.metrics._samples import require_samples, shuffled


class KID(NamedTuple):
    """An estimate, its standard error, and the number of blocks that it is the mean of.

    It is unbiased, hence below 0 now and then where the laws are equal; papers often print it times 100 or 1000.
    """

    value: float
    error: float
    blocks: int


def kid(
    x: Float[np.ndarray, "N F"],
    y: Float[np.ndarray, "M _F"],
    *,
    block: int = 1000,
    blocks: int | None = None,
    seed: int = 0,
) -> KID:
    """Estimate MMD² of the kernel (x·y/F + 1)³ between the laws of two sets of features, in float64.

    The mean over disjoint random blocks, which are independent, so that it has a standard error. The published
    protocol, torch-fidelity and torchmetrics estimate the same number by 100 subsets, each drawn anew from all samples;
    these overlap, and the deviation among them, which the libraries print, is no error of the mean.

    Args:
        x: features [N, F].
        y: features [M, F].
        block: the samples of each set in a block.
        blocks: how many; None for as many as there are samples for.
        seed: of the draw. Blocks of samples in an order, such as by class, would be no samples of the whole.

    Raises:
        ValueError: features that differ in number or are not finite, a block of fewer than 2 samples, or fewer samples
            than 2 blocks take, or than were asked for.

    Bińkowski et al. 2018 (arXiv 1801.01401).
    """
    require_samples(4, x=x, y=y)
    if block < 2:
        raise ValueError(f"block={block}: an unbiased estimate takes at least 2 samples")
    smaller = min(len(x), len(y))
    count = smaller // block if blocks is None else blocks
    if count < 2:
        raise ValueError(
            f"{count} blocks have no standard error: with {smaller} samples give block={smaller // 2} or less"
        )
    if count * block > smaller:
        raise ValueError(f"{count} blocks of {block} are more than {smaller} samples")
    with jax.enable_x64(True):
        parts = (
            jnp.asarray(shuffled(points, seed)[: count * block].reshape(count, block, -1), jnp.float64)
            for points in (x, y)
        )
        estimates = np.asarray(_discrepancies(*parts))
    return KID(float(estimates.mean()), float(estimates.std(ddof=1) / np.sqrt(count)), count)


@jax.jit
def _discrepancies(x: Float[Array, "K B F"], y: Float[Array, "K B F"]) -> Float[Array, " K"]:
    estimate = partial(maximum_mean_discrepancy, kernel=polynomial_kernel())
    return lax.map(lambda pair: estimate(*pair), (x, y))
