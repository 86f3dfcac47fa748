"""How many modes of a known mixture a generator covers, how evenly, and how much of what it makes is any good."""

from typing import NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, Int

from gan_jax.arithmetic import require_positive
from gan_jax.metrics._samples import require_samples
from gan_jax.metrics.entropy import entropy


class Modes(NamedTuple):
    """What samples make of a mixture of `total` modes.

    covered: modes that have a high-quality sample. high_quality: the share of such samples, in [0, 1].
    reverse_kl: KL(generated ‖ uniform) of the modes of high-quality samples, in nats, in [0, log total]; None
        where there are no such samples.
    """

    covered: int
    total: int
    high_quality: float
    reverse_kl: float | None


class Categories(NamedTuple):
    """What samples make of `total` categories.

    covered: categories that have a sample. reverse_kl: KL(generated ‖ uniform) of the categories, in nats, in
        [0, log total].
    """

    covered: int
    total: int
    reverse_kl: float


def modes(samples: Float[np.ndarray, "N D"], centres: Float[Array | np.ndarray, "K _D"], std: float) -> Modes:
    """Count the modes of an isotropic, equal mixture that samples cover.

    PacGAN's protocol (Lin et al. 2018, arXiv 1712.04086, on mixtures): a sample belongs to its nearest centre, and
    is of high quality within three standard deviations (`std`) of it.

    Raises:
        ValueError: no samples, samples of another dimension than the centres, values that are not finite, or a
            deviation that is not positive.
    """
    require_samples(samples=samples, centres=centres)
    require_positive(std=std)
    distances = np.linalg.norm(np.asarray(samples)[:, None] - np.asarray(centres)[None], axis=-1)
    good = distances.min(axis=1) <= 3 * std
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(centres))
    return Modes(int((counts > 0).sum()), len(centres), float(good.mean()), _reverse_kl(counts) if good.any() else None)


def categories(labels: Int[np.ndarray, " N"], total: int) -> Categories:
    """Count the categories that samples cover, by the label that a classifier gives each.

    The 1000 modes of stacked MNIST are those of three digits (Metz et al. 2017, arXiv 1611.02163); PacGAN's protocol
    takes 26,000 samples, of which the data's law leaves a category out with probability 5e-9.

    Args:
        labels: of the samples, in [0, total).
        total: the number of categories.

    Raises:
        ValueError: no labels, or one out of its range.
    """
    if not len(labels):
        raise ValueError("labels has 0 samples: give at least 1")
    if labels.min() < 0 or labels.max() >= total:
        raise ValueError(f"labels are from {labels.min()} to {labels.max()}: of {total} categories they are from 0")
    counts = np.bincount(labels, minlength=total)
    return Categories(int((counts > 0).sum()), total, _reverse_kl(counts))


def _reverse_kl(counts: Int[np.ndarray, " K"]) -> float:
    """KL(shares of the counts ‖ uniform) = log K − H."""
    return float(np.log(len(counts)) - entropy(counts / counts.sum()))
