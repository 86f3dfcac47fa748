"""How a GAN is measured: which samples are drawn, and what they are held against. The measures are in `metrics`."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gan_jax.base import Key, State
from gan_jax.data import images as image_sets
from gan_jax.data import mixtures
from gan_jax.data.cache import remember
from gan_jax.data.images import Images
from gan_jax.data.mixtures import Mixture
from gan_jax.diagnostics.collapse import collapse
from gan_jax.divergences.integral import energy_distance
from gan_jax.gan import GAN
from gan_jax.metrics import card, features, frechet, sliced
from gan_jax.metrics.features import Extractor
from gan_jax.metrics.frechet import Moments
from gan_jax.metrics.memory import nearest
from gan_jax.metrics.modes import modes

Measure = Callable[[Key, State, int], Mapping[str, Any]]
Score = Callable[[Key, State], Mapping[str, float]]
Sampler = Callable[..., Array]  # (key, state, n, label, frames=1) -> [n, ...]

Progress = Callable[[str, int, int], None]  # (a set of images, how many of them have been read, how many there are)

FORMAT = 1  # of features in the cache: raise it with each change of what an extractor of the same weights computes
_BATCH = 500  # samples made at once: a batch of feature maps stays below a gigabyte


class ImageMeasure(NamedTuple):
    """A measure of images, which `_replace` turns into one by another extractor.

    model, source: as `images` takes them.
    extractor: None for the one that is shipped for the data's family.
    progress: what is told how far the extractor is, for one that takes hours.
    """

    model: GAN
    source: Images
    extractor: Extractor | None = None
    progress: Progress | None = None

    def __call__(self, key: Key, state: State, n: int) -> Mapping[str, Any]:
        """Return the card; see `images`."""
        model, source = self.model, self.source
        extractor = self.extractor or features.extractor(source.name)
        extractor.check(source.train.image.shape[1:])
        # Before any image is read, which may take hours.
        card.require_enough(extractor, reference=len(source.train.image), held_out=len(source.test.image), generated=n)
        asked = np.arange(n) % model.classes if model.classes else None
        init_key, draw_key = jax.random.split(key)  # the untrained weights must not be made of the latents' numbers
        untrained = jax.jit(model.init)(model.hyper, init_key)
        generated, probabilities = extractor.all(
            draw(model.sample, draw_key, state, n, asked), progress=self._telling("generated")
        )
        before, _ = extractor.all(
            draw(model.sample, draw_key, untrained, n, asked), progress=self._telling("untrained")
        )
        sha256 = image_sets.digest(source)
        held_out, reference = (self._real(extractor, sha256, part) for part in ("test", "train"))
        about = {
            "data": source.name,
            "version": source.version,
            "sha256": sha256,
            "split": source.train.name,
            "held_out": source.test.name,
            "preprocessing": "x".join(map(str, source.train.image.shape[1:])) + ", pixel/127.5 - 1",
        }
        measured = card.images(extractor, reference, held_out, generated, before, probabilities, asked)
        return {"reference": about, **measured}

    def _real(self, extractor: Extractor, sha256: str, part: Literal["train", "test"]) -> np.ndarray:
        """The features of a split, kept for the next evaluation by the same extractor."""
        image = getattr(self.source, part).image

        def read() -> Mapping[str, np.ndarray]:
            found, _ = extractor.all(np.asarray(image_sets.to_float(image)), progress=self._telling(part))
            return {"features": found}

        key = (FORMAT, extractor.name, extractor.digest, sha256, part)
        return remember(f"{self.source.name} {part} {extractor.name}", key, read)["features"]

    def _telling(self, images: str) -> Callable[[int, int], None] | None:
        return partial(self.progress, images) if self.progress else None


def images(model: GAN, source: Images) -> ImageMeasure:
    """Return `(key, state, n) -> card` for a GAN of images.

    The reference is the split that was trained on; the held-out split says how near real images come. A
    conditional GAN is asked for each class equally often. The untrained generator has initial values of
    its own, not those that the run began with. The features of both splits are kept in the cache (see `data.cache`).

    Raises (when measuring):
        ValueError: if no extractor of the data's family is shipped, it reads images of another size, or there are no
            more images of some kind than features.
    """
    return ImageMeasure(model, source)


def adapted(
    data: str, samples: Mapping[str, np.ndarray], support: np.ndarray, query: np.ndarray
) -> Mapping[str, Mapping[str, Any]]:
    """Return how well generators that were adapted to few images do, in the features of the data's extractor.

    Args:
        data: the name of the image set of the model, which says the family.
        samples: of each generator, [n, H, W, C] in [-1, 1].
        support: images that were adapted to, [K, H, W, C].
        query: other images of the same kind, perhaps none.

    Returns:
        For each generator, and for the query as "real": distance, the unbiased energy distance to the query, where it
        has 2 images or more; nearest, the median distance to the nearest image of the support: samples that come much
        nearer than the query's images are copies. And the extractor that says so.

    Raises:
        ValueError: no extractor of the family is shipped, or it reads images of another size.
    """
    extractor = features.extractor(data)
    read = {name: extractor.all(images)[0] for name, images in {**samples, "support": support}.items()}
    real = extractor.all(query)[0] if len(query) else None
    card: dict[str, Any] = {"extractor": {"name": extractor.name, "sha256": extractor.digest}}
    for name in samples:
        card[name] = {"nearest": float(np.median(nearest(read[name], read["support"]).distances))}
        if real is not None and len(real) > 1:
            card[name]["distance"] = float(energy_distance(jnp.asarray(read[name]), jnp.asarray(real)))
    if real is not None:
        card["real"] = {"nearest": float(np.median(nearest(real, read["support"]).distances))}
    return card


def points(model: GAN, mixture: Mixture) -> Measure:
    """Return `(key, state, n) -> card` for a GAN of points, held against the mixture's centres."""

    def measure(key: Key, state: State, n: int) -> Mapping[str, Any]:
        found = modes(draw(model.sample, key, state, n), np.asarray(mixture.centres), float(mixture.std))
        return {
            "reference": {"data": mixture.name, "modes": found.total, "std": float(mixture.std)},
            "modes": {
                "covered": found.covered,
                "high_quality": found.high_quality,
                "reverse_kl": found.reverse_kl,
            },
        }

    return measure


def score_images(model: GAN, source: Images, *, samples: int = 1000, reference: int = 5000) -> Score | None:
    """Return `(key, state) -> {"frechet": ..., ...}` for every few hundred steps: the card's distance of fewer images.

    A conditional GAN is asked for random labels. None where no extractor reads images of this kind.
    NaN where a sample is not finite.

    Beside it stand two signs of mode collapse, "diversity" and "coverage" (see `diagnostics.collapse`).

    Args:
        model, source: as `images` takes them.
        samples: images that are drawn; the same numbers each time, where the key is the same.
        reference: images of the split that was trained on, the first so many.
    """
    try:
        extractor = features.extractor(source.name)
        extractor.check(source.train.image.shape[1:])
    except ValueError:
        return None
    batch = min(samples, _BATCH)

    @jax.jit
    def sample(key: Key, state: State) -> Array:
        return model.sample(key, state, batch)

    @cache
    def target() -> tuple[Moments, np.ndarray]:
        real, _ = extractor.all(np.asarray(image_sets.to_float(source.train.image[:reference])))
        return frechet.moments(real), real[:samples]

    def score(key: Key, state: State) -> Mapping[str, float]:
        keys = jax.random.split(key, -(-samples // batch))
        drawn = np.concatenate([np.asarray(sample(key, state)) for key in keys])[:samples]
        if not np.isfinite(drawn).all():
            return {"frechet": np.nan}
        made, _ = extractor.all(drawn)
        moments, real = target()
        return {"frechet": frechet.distance(frechet.moments(made), moments), **collapse(real, made)._asdict()}

    return score


def score_points(model: GAN, mixture: Mixture, *, samples: int = 2500, directions: int = 64) -> Score:
    """Return `(key, state) -> {"sliced_wasserstein": ..., "modes": ..., "high_quality": ...}` for a GAN of points.

    NaN where a sample is not finite.

    Args:
        model, mixture: as `points` takes them.
        samples: points that are drawn of both; the same numbers each time, where the key is the same.
        directions: on which they are compared.
    """

    @jax.jit
    def compare(key: Key, state: State) -> tuple[Array, Array]:
        real_key, fake_key, direction_key = jax.random.split(key, 3)
        real, fake = mixtures.sample(mixture, real_key, (samples,)), model.sample(fake_key, state, samples)
        return fake, sliced.distance(direction_key, real, fake, directions=directions)

    def score(key: Key, state: State) -> Mapping[str, float]:
        fake, distance = jax.device_get(compare(key, state))
        if not np.isfinite(fake).all():
            return {"sliced_wasserstein": np.nan}
        found = modes(fake, np.asarray(mixture.centres), float(mixture.std))
        return {"sliced_wasserstein": float(distance), "modes": found.covered, "high_quality": found.high_quality}

    return score


def draw(
    sample: Sampler, key: Key, state: State, n: int, label: np.ndarray | int | None = None, frames: int = 1
) -> np.ndarray:
    """Return n samples [n, ...] on the host, made a batch at a time, so that any n fits in memory.

    Args:
        sample: a program's. label: [n], or one class for all; None for an unconditional model.
        frames: of a row that goes from one latent to another, a divisor of n.

    Raises:
        ValueError: if n is no multiple of the frames.
    """
    if n % frames:
        raise ValueError(f"{n} samples are no whole number of rows of {frames}: give a multiple of {frames}")
    size = min(n, max(_BATCH // frames, 1) * frames)
    one = None if isinstance(label, np.ndarray) else label  # no array: the program can refuse what it does not have
    rows = {"frames": frames} if frames > 1 else {}  # which is asked of a program only by who wants them

    @jax.jit
    def batch(key: Key, state: State, labels: Array | None) -> Array:
        return sample(key, state, size, one if labels is None else labels, **rows)

    made = []
    for start in range(0, n, size):
        # The last batch is made whole and cut, so that the program is compiled once.
        labels = np.resize(label[start : start + size], size) if isinstance(label, np.ndarray) else None
        made.append(np.asarray(batch(jax.random.fold_in(key, start), state, labels)))
    return np.concatenate(made)[:n]
