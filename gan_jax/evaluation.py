"""How a GAN is measured: which samples are drawn, and what they are held against. The measures are in `metrics`."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from gan_jax.base import Key, State
from gan_jax.data import images as image_sets
from gan_jax.data.images import Images
from gan_jax.data.mixtures import Mixture
from gan_jax.gan import GAN
from gan_jax.metrics import card, features
from gan_jax.metrics.modes import modes

Measure = Callable[[Key, State, int], Mapping[str, Any]]
Sampler = Callable[[Key, State, int, Any], Array]  # (key, state, n, label) -> [n, ...]

_BATCH = 500  # samples made at once: a batch of feature maps stays below a gigabyte


def images(model: GAN, source: Images) -> Measure:
    """Return `(key, state, n) -> card` for a GAN of images.

    The reference is the split that was trained on; the held-out split says how near real images come. A
    conditional GAN is asked for each class equally often. The untrained generator has initial values of
    its own, not those that the run began with.

    Raises (when measuring):
        ValueError: if no extractor of the data's family is shipped, or it reads images of another size.
    """

    def measure(key: Key, state: State, n: int) -> Mapping[str, Any]:
        extractor = features.extractor(source.name)
        extractor.check(source.train.image.shape[1:])
        asked = np.arange(n) % model.classes if model.classes else None
        init_key, draw_key = jax.random.split(key)  # the untrained weights must not be made of the latents' numbers
        untrained = jax.jit(model.init)(model.hyper, init_key)
        reference, held_out = (np.asarray(image_sets.to_float(split.image)) for split in (source.train, source.test))
        measured = card.images(
            extractor,
            reference,
            held_out,
            draw(model.sample, draw_key, state, n, asked),
            draw(model.sample, draw_key, untrained, n, asked),
            asked,
        )
        about = {
            "data": source.name,
            "version": source.version,
            "sha256": image_sets.digest(source),
            "split": source.train.name,
            "held_out": source.test.name,
            "preprocessing": "x".join(map(str, source.train.image.shape[1:])) + ", pixel/127.5 - 1",
        }
        return {"reference": about, **measured}

    return measure


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


def draw(sample: Sampler, key: Key, state: State, n: int, label: np.ndarray | int | None = None) -> np.ndarray:
    """Return n samples [n, ...] on the host, made a batch at a time, so that any n fits in memory.

    Args:
        sample: a program's. label: [n], or one class for all; None for an unconditional model.
    """
    size = min(n, _BATCH)
    one = None if isinstance(label, np.ndarray) else label  # no array: the program can refuse what it does not have

    @jax.jit
    def batch(key: Key, state: State, labels: Array | None) -> Array:
        return sample(key, state, size, one if labels is None else labels)

    made = []
    for start in range(0, n, size):
        # The last batch is made whole and cut, so that the program is compiled once.
        labels = np.resize(label[start : start + size], size) if isinstance(label, np.ndarray) else None
        made.append(np.asarray(batch(jax.random.fold_in(key, start), state, labels)))
    return np.concatenate(made)[:n]
