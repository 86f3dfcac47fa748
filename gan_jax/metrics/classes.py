"""How well generators that were adapted to few images of a class each do, class by class and all together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gan_jax.divergences.integral import maximum_mean_discrepancy, polynomial_kernel
from gan_jax.metrics import frechet
from gan_jax.metrics._samples import require_samples
from gan_jax.metrics.coverage import coverage
from gan_jax.metrics.memory import nearest


class FewShot(NamedTuple):
    """What samples of C classes come to, in features.

    kid: the kernel distance of a class's samples to its other real images, unbiased, a mean over classes.
    frechet: the Fréchet distance of all samples to all real images.
    accuracy: the share of samples that are nearest to the mean of their own class's real images.
    coverage: of a class's real images by its samples, with 3 neighbours, a mean over classes.
    memory: the median distance of samples to the nearest image that was adapted to, over that of the real images: 1 is
        as far as unseen images are, near 0 is copying.
    """

    kid: float
    frechet: float
    accuracy: float
    coverage: float
    memory: float


def few_shot(
    samples: Float[np.ndarray, "C n F"], query: Float[np.ndarray, "C M F"], support: Float[np.ndarray, "C K F"]
) -> FewShot:
    """Measure samples of C classes, [C, n, F], against other real images, [C, M, F], and those adapted to, [C, K, F].

    Raises:
        ValueError: four samples or real images of a class are not there, or one is not finite.

    The kernel distance is that of Bińkowski et al. 2018 (arXiv 1801.01401) on whole sets: M is too small for blocks.
    """
    for mine, real, few in zip(samples, query, support, strict=True):
        require_samples(4, samples=mine, query=real)
        require_samples(1, samples=mine, support=few)
    kernel = polynomial_kernel()
    distances = jax.vmap(lambda x, y: maximum_mean_discrepancy(x, y, kernel))(jnp.asarray(samples), jnp.asarray(query))
    means = query.mean(axis=1)
    seen = np.linalg.norm(samples[:, :, None] - means[None, None], axis=-1).argmin(axis=-1)
    own = np.arange(len(samples))[:, None]
    features = samples.shape[-1]
    moments = [frechet.moments(each.reshape(-1, features)) for each in (samples, query)]
    pairs = list(zip(samples, query, support, strict=True))
    away = np.median([nearest(mine, few).distances for mine, _, few in pairs])
    expected = np.median([nearest(real, few).distances for _, real, few in pairs])
    return FewShot(
        kid=float(distances.mean()),
        frechet=frechet.distance(*moments),
        accuracy=float(np.mean(seen == own)),
        coverage=float(np.mean([coverage(real, mine, neighbours=3).coverage for mine, real, _ in pairs])),
        memory=float(away / expected),
    )
