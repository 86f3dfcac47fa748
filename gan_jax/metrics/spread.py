"""How sure a mean is."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def interval(values: Sequence[float] | np.ndarray) -> float:
    """Return the half width of the 95 % interval of a mean of independent values, by Student's t: of two or more."""
    return float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
