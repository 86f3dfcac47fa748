"""The feature extractor for digits: a small classifier of MNIST, shipped with the package.

Command: make features
Result: test accuracy .9943 on MNIST's 10,000 (half-precision weights as shipped, 0.8 MB)
Cost: 2.5 minutes on two AMD EPYC cores

Every Fréchet distance on digits is measured in the last hidden layer of this network. The images are shifted
by up to two pixels in training; the rate falls to zero along a cosine. `make features` trains it with this
experiment and then runs this file as a script, which writes the half-precision weights and their test accuracy.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gan_jax.base import Batch, Key, Metrics, Program, State
from gan_jax.data import images
from gan_jax.networks.classifier import classifier


@dataclass(frozen=True, kw_only=True)
class Config:
    """The classifier and how it is trained."""

    batch: int = 128
    """Images in one step."""
    rate: float = 1e-3
    """Adam's learning rate at the start of the cosine."""
    length: int = 6000
    """Steps of the cosine, which are also those that are trained."""
    shift: int = 2
    """Images are shifted by up to so many pixels each way."""


SMALLEST = Config(batch=4, length=2)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Program:
    """Return the supervised program; its state is (params, stats, optimiser state)."""
    source = images.load(data or "mnist", data_dir, size=28)
    if not source.classes:
        raise ValueError(f"{source.name} has no labels to learn from")
    channels = source.train.image.shape[-1]
    net = classifier(28, channels, source.classes)
    optimiser = optax.adam(optax.cosine_decay_schedule(config.rate, config.length))

    def init(key: Key) -> State:
        params, stats = net.init(key)
        return params, stats, optimiser.init(params)

    def step(key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
        params, stats, carried = state
        shift_key, mask_key = jax.random.split(key)
        image, label = shifted(shift_key, batch["image"][0], config.shift), batch["label"][0]

        def loss(params: State) -> tuple[Array, tuple[State, Array]]:
            (_, logits), new = net.apply(params, stats, image, train=True, key=mask_key)
            value = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            return value, (new, (logits.argmax(-1) == label).mean())

        (value, (stats, right)), slope = jax.value_and_grad(loss, has_aux=True)(params)
        updates, carried = optimiser.update(slope, carried, params)
        return (optax.apply_updates(params, updates), stats, carried), {"loss": value, "accuracy": right}

    def measure(key: Key, state: State, n: int) -> dict[str, float]:
        params, stats, _ = state
        predict = jax.jit(lambda image: net.apply(params, stats, image, train=False)[0][1].argmax(-1))
        return {"test_accuracy": accuracy(predict, source.test)}

    return Program(
        init,
        step,
        images.batches(source.train, config.batch),
        observe=lambda key, state: {},
        measure=measure,
        steps=config.length,
        chunk=10,
    )


def shifted(key: Key, image: Array, pixels: int) -> Array:
    """Return images [B, H, W, C], each shifted by up to `pixels` both ways; the border repeats."""
    padded = jnp.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    offsets = jax.random.randint(key, (image.shape[0], 2), 0, 2 * pixels + 1)
    return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), image.shape[1:]))(padded, offsets)


def accuracy(predict, split: images.Split, batch: int = 500) -> float:
    """Return the share of a split that `predict` (images to labels) gets right."""
    found = [
        np.asarray(predict(images.to_float(split.image[start : start + batch])))
        for start in range(0, len(split.image), batch)
    ]
    return float((np.concatenate(found) == split.label).mean())


def export(run: str, path: str) -> None:
    """Write the trained classifier of a run as a shipped extractor, with its accuracy as read back."""
    import gan_jax
    from gan_jax.metrics import features

    trained = gan_jax.load(run)
    source = images.load(trained.record.data or "mnist", trained.record.data_dir, size=28)
    params, stats, _ = trained.state
    record = {
        "family": "digits",
        "size": 28,
        "channels": source.train.image.shape[-1],
        "classes": source.classes,
        "trained_on": f"{source.name} {source.version} {source.train.name}",
        "command": "make features",
    }
    features.write(Path(path), (params, stats), record)
    share = accuracy(lambda image: features.read(Path(path)).apply(image)[1].argmax(-1), source.test)
    digest = features.write(Path(path), (params, stats), {**record, "test_accuracy": share})
    print(f"{path}: test accuracy {share:.4f}, sha256 {digest}, {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    export(*sys.argv[1:])
