"""What no measure can use, refused in one place: too few samples, different features, values that are not finite."""

import jax
import numpy as np
from jax import Array

Samples = Array | np.ndarray


def require_samples(least: int = 1, /, **samples: Samples) -> None:
    """Refuse sets of vectors [N, F] that cannot be measured, or not together.

    Shapes are always checked, values only where they are known: a measure can be traced.

    Args:
        least: the smallest N of each.
        **samples: the sets, by the names that the caller's caller knows. (jaxtyping would refuse different features
            first, but only in tests: hence the `_F` in the annotations of measures, which is not checked.)

    Raises:
        ValueError: the first that has another rank, too few vectors, no features, features unlike the first's, or
            values that are not finite.
    """
    first, *_ = samples
    for name, points in samples.items():
        if points.ndim != 2 or points.shape[1] == 0:
            raise ValueError(f"{name} has the shape {points.shape}: give vectors [N, F]")
        if len(points) < least:
            raise ValueError(f"{name} has {len(points)} samples: give at least {least}")
        if points.shape[1] != samples[first].shape[1]:
            widths = f"{name} has {points.shape[1]} features, {first} {samples[first].shape[1]}"
            raise ValueError(f"{widths}: give features of one extractor")
        require_finite(**{name: points})


def require_finite(**samples: Samples) -> None:
    """Refuse arrays that are not finite throughout; traced ones pass.

    Raises:
        ValueError: naming the first such array.
    """
    for name, points in samples.items():
        if not isinstance(points, jax.core.Tracer) and not np.isfinite(points).all():
            raise ValueError(f"{name} has values that are not finite: nothing can be measured by them")


def shuffled(samples: np.ndarray, seed: int) -> np.ndarray:
    """Return samples [N, ...] in an order that only N and the seed determine.

    Measures that split their samples need this: a test split is often sorted by class, and parts of it are then no
    samples of the whole.
    """
    return samples[np.random.default_rng(seed).permutation(len(samples))]
