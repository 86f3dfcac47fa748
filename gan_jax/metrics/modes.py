"""How many modes of a known mixture a generator covers, how evenly, and how much of what it makes is any good."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


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


def modes(samples: Float[np.ndarray, "N D"], centres: Float[np.ndarray, "K D"], std: float) -> Modes:
    """Count the modes of an isotropic, equal mixture that samples cover.

    PacGAN's protocol (Lin et al. 2018, arXiv 1712.04086, section 4.1): a sample belongs to its nearest centre, and
    is of high quality within three standard deviations of it.
    """
    distances = np.linalg.norm(np.asarray(samples)[:, None] - np.asarray(centres)[None], axis=-1)
    good = distances.min(axis=1) <= 3 * std
    counts = np.bincount(distances.argmin(axis=1)[good], minlength=len(centres))
    shares = counts[counts > 0] / max(good.sum(), 1)
    reverse_kl = float(np.log(len(centres)) + np.sum(shares * np.log(shares))) if good.any() else None
    return Modes(int((counts > 0).sum()), len(centres), float(good.mean()), reverse_kl)
