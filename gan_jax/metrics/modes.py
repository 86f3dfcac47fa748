"""How many modes of a known mixture a generator covers, and how much of what it makes is any good."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Modes(NamedTuple):
    """covered: modes that have a high-quality sample. total: modes there are. high_quality: a share in [0, 1]."""

    covered: int
    total: int
    high_quality: float


def modes(samples: Float[np.ndarray, "N D"], centres: Float[np.ndarray, "K D"], std: float) -> Modes:
    """Count the modes of an isotropic mixture that samples cover.

    PacGAN's protocol (Lin et al. 2018, arXiv 1712.04086, section 4.1): a sample belongs to its nearest centre, and
    is of high quality within three standard deviations of it.
    """
    distances = np.linalg.norm(np.asarray(samples)[:, None] - np.asarray(centres)[None], axis=-1)
    good = distances.min(axis=1) <= 3 * std
    covered = np.unique(distances.argmin(axis=1)[good])
    return Modes(len(covered), len(centres), float(good.mean()))
