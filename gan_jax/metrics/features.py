"""The spaces in which distances are measured: one shipped extractor for each family of data.

A score is comparable only within its extractor, which is therefore identified by the SHA-256 of
its weights on every metric card. Each is made again by the command that stands in its record.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import Float

from gan_jax.base import Params, Stats
from gan_jax.networks.classifier import classifier

# data set -> the extractor of its family
FAMILIES = {"digits": "digits", "mnist": "digits", "fashion_mnist": "fashion", "omniglot": "omniglot"}

_REQUIRED = ("family", "size", "channels", "classes", "sha256")  # what a record cannot lack
_LIMIT = 1.01  # of pixels: what was resized or computed in half precision rounds past 1


class Extractor(NamedTuple):
    """A frozen classifier.

    name: the family of data. digest: SHA-256 of the weights. features: how many, F.
    record: how it was made, and its test accuracy; "classes" only where they are those of the data.
    apply: images [B, size, size, channels] in [-1, 1] -> (features [B, F], logits [B, classes]), pure and unchecked.
    """

    name: str
    digest: str
    features: int
    record: Mapping[str, Any]
    apply: Any

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError unless images [H, W, C] of this shape are what the extractor reads.

        One whose record names no size reads any.
        """
        if "size" not in self.record:
            return
        own = (self.record["size"], self.record["size"], self.record["channels"])
        if shape != own:
            raise ValueError(f"the extractor for {self.name} reads images of {own}, not of {shape}")

    def all(
        self,
        images: Float[np.ndarray, "N H W C"],
        batch: int = 100,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the features [N, F] and the class probabilities [N, classes] of any number of images.

        `progress` is called before each batch with how many images have been read, and with N.

        Raises:
            ValueError: no images, images of another shape than the extractor reads, or pixels outside [-1, 1].
        """
        if not len(images):
            raise ValueError("there are no images to take features of: give at least 1")
        self.check(images.shape[1:])
        low, high = images.min(), images.max()
        if not -_LIMIT <= low <= high <= _LIMIT:  # nor is NaN
            raise ValueError(f"the extractor for {self.name} reads pixels in [-1, 1], not from {low} to {high}")
        # On a CPU the patches of larger batches leave its caches: 500 at once take twice as long an image.
        parts = []
        for start in range(0, len(images), batch):
            if progress:
                progress(start, len(images))
            parts.append(self.apply(images[start : start + batch]))
        features, logits = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
        return features, np.asarray(jax.nn.softmax(logits, axis=-1))


def extractor(data: str) -> Extractor:
    """Return the extractor for a data set.

    Raises:
        ValueError: if no extractor of that family is shipped: scores of another family would mean nothing.
    """
    family = FAMILIES.get(data.partition(":")[0])  # "mnist:3.0.1" is mnist
    if family is None:
        shipped = f"no feature extractor is shipped for {data!r}, only for {', '.join(sorted(FAMILIES))}"
        raise ValueError(f"{shipped}; Inception's weights measure any images (gan-jax evaluate --inception FILE)")
    return _shipped(family)


@cache
def _shipped(family: str) -> Extractor:
    with resources.as_file(resources.files("gan_jax.metrics") / "weights" / f"{family}.npz") as path:
        return read(path)


def read(path: Path) -> Extractor:
    """Return the extractor that `write` left at a path.

    Raises:
        ValueError: there is no such file, it is damaged or holds pickled objects, its weights are not those that its
            record names, or they are not those of the network that the record describes.
    """
    try:
        # np.load forgets to close a file whose end is missing.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        record = json.loads(str(arrays.pop("record")))
        for name in _REQUIRED:
            if name not in record:
                raise ValueError(f"its record has no {name!r}")
        found = digest(arrays)
        if found != record["sha256"]:
            raise ValueError(f"its weights have the hash {found[:12]}, not {record['sha256'][:12]}")
        return _extractor(arrays, record)
    except Exception as error:  # NumPy, zipfile, json and Flax raise a dozen kinds for what is damaged
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no extractor: {reason}; restore it, or make it with `make features`") from error


def rounded(weights: tuple[Params, Stats], record: Mapping[str, Any]) -> Extractor:
    """Return the extractor that `write` would leave: what is measured of it is true of what is shipped.

    Raises:
        ValueError: as `write` does, or the weights are not those of the network that the record describes.
    """
    leaves = _half(weights)
    return _extractor(leaves, {**record, "sha256": digest(leaves)})


def write(path: Path, weights: tuple[Params, Stats], record: Mapping[str, Any]) -> str:
    """Write a classifier's weights in half precision with their record; return their SHA-256.

    Args:
        path: of an .npz.
        weights: params and stats of `networks.classifier`.
        record: says "family", "size", "channels" and "classes"; "width", "features" and "normalise"
            unless they are the classifier's own; and how it was made.

    Raises:
        ValueError: a weight is not finite in half precision.
    """
    leaves = _half(weights)
    sha256 = digest(leaves)
    arrays: dict[str, Any] = {**leaves, "record": json.dumps({**record, "sha256": sha256})}
    np.savez_compressed(path, **arrays)
    return sha256


def digest(leaves: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of arrays, the leaves by name: of names, shapes, types and bytes.

    It is what identifies weights in any file.
    """
    sha = hashlib.sha256()
    for name in sorted(leaves):
        sha.update(f"{name} {leaves[name].shape} {leaves[name].dtype.str}\n".encode())
        sha.update(np.ascontiguousarray(leaves[name]).data)
    return sha.hexdigest()


def _extractor(leaves: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> Extractor:
    structure = {name: record[name] for name in ("width", "features", "normalise") if name in record}
    net = classifier(record["size"], record["channels"], record["classes"], **structure)
    like = jax.eval_shape(net.init, jax.random.key(0))
    expected = {jax.tree_util.keystr(place): leaf.shape for place, leaf in jax.tree_util.tree_leaves_with_path(like)}
    for name in sorted(expected.keys() | leaves.keys()):
        found = leaves[name].shape if name in leaves else "missing"
        if found != expected.get(name):
            raise ValueError(f"{name} is {found}, where its record asks for {expected.get(name, 'none')}")
    weights = [leaves[name].astype(np.float32) for name in expected]
    params, stats = jax.tree.unflatten(jax.tree.structure(like), weights)

    @jax.jit
    def apply(images: Array) -> tuple[Array, Array]:
        return net.apply(params, stats, images, train=False)[0]

    return Extractor(record["family"], record["sha256"], params["head"]["kernel"].shape[0], record, apply)


def _half(weights: tuple[Params, Stats]) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        leaves = {
            jax.tree_util.keystr(place): np.asarray(leaf, np.float16)
            for place, leaf in jax.tree_util.tree_leaves_with_path(weights)
        }
    for name, leaf in leaves.items():
        if not np.isfinite(leaf).all():
            raise ValueError(f"{name} is not finite in half precision: train again, at a lower rate")
    return leaves
