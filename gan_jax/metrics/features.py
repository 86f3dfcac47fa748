"""The spaces in which distances are measured: one shipped extractor for each family of data.

A score is comparable only within its extractor, which is therefore identified by the SHA-256 of
its weights on every metric card. Each is made again by the command that stands in its record.
"""

import hashlib
import json
from collections.abc import Mapping
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

FAMILIES = {"digits": "digits", "mnist": "digits"}  # data set -> the extractor of its family

_FEATURES = 128


class Extractor(NamedTuple):
    """A frozen classifier.

    name: the family of data. digest: SHA-256 of the weights. record: how it was made, and its test accuracy.
    apply: images [B, size, size, channels] in [-1, 1] -> (features [B, F], logits [B, classes]).
    """

    name: str
    digest: str
    record: Mapping[str, Any]
    apply: Any

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError unless images [H, W, C] of this shape are what the extractor reads."""
        own = (self.record["size"], self.record["size"], self.record["channels"])
        if shape != own:
            raise ValueError(f"the extractor for {self.name} reads images of {own}, not of {shape}")

    def all(self, images: Float[np.ndarray, "N H W C"], batch: int = 500) -> tuple[np.ndarray, np.ndarray]:
        """Return the features [N, F] and the class probabilities [N, classes] of any number of images."""
        parts = [self.apply(images[start : start + batch]) for start in range(0, len(images), batch)]
        features, logits = (np.concatenate([np.asarray(part[i]) for part in parts]) for i in (0, 1))
        return features, np.asarray(jax.nn.softmax(logits, axis=-1))


def extractor(data: str) -> Extractor:
    """Return the extractor for a data set.

    Raises:
        ValueError: if no extractor of that family is shipped: scores of another family would mean nothing.
    """
    family = FAMILIES.get(data.partition(":")[0])  # "mnist:3.0.1" is mnist
    if family is None:
        raise ValueError(f"no feature extractor is shipped for {data!r}, only for {', '.join(sorted(FAMILIES))}")
    return _shipped(family)


@cache
def _shipped(family: str) -> Extractor:
    with resources.as_file(resources.files("gan_jax.metrics") / "weights" / f"{family}.npz") as path:
        return read(path)


def read(path: Path) -> Extractor:
    """Return the extractor that `write` left at a path.

    Raises:
        ValueError: if its weights are not those that its record names.
    """
    with np.load(path, allow_pickle=False) as file:
        leaves = {name: file[name] for name in file.files if name != "record"}
        record = json.loads(str(file["record"]))
    digest = _digest(leaves)
    if digest != record["sha256"]:
        raise ValueError(f"{path.name} holds weights with the hash {digest[:12]}, not {record['sha256'][:12]}")
    net = classifier(record["size"], record["channels"], record["classes"], features=_FEATURES)
    like = jax.eval_shape(net.init, jax.random.key(0))
    names = [jax.tree_util.keystr(place) for place, _ in jax.tree_util.tree_leaves_with_path(like)]
    params, stats = jax.tree.unflatten(jax.tree.structure(like), [leaves[name].astype(np.float32) for name in names])

    @jax.jit
    def apply(images: Array) -> tuple[Array, Array]:
        return net.apply(params, stats, images, train=False)[0]

    return Extractor(record["family"], digest, record, apply)


def write(path: Path, weights: tuple[Params, Stats], record: Mapping[str, Any]) -> str:
    """Write a classifier's weights in half precision with their record; return their SHA-256.

    The rounded weights are the extractor: measure its accuracy after reading them back.
    """
    leaves = {
        jax.tree_util.keystr(place): np.asarray(leaf, np.float16)
        for place, leaf in jax.tree_util.tree_leaves_with_path(weights)
    }
    digest = _digest(leaves)
    arrays: dict[str, Any] = {**leaves, "record": json.dumps({**record, "sha256": digest})}
    np.savez_compressed(path, **arrays)
    return digest


def _digest(leaves: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name in sorted(leaves):
        sha.update(f"{name} {leaves[name].shape} {leaves[name].dtype.str}\n".encode())
        sha.update(np.ascontiguousarray(leaves[name]).data)
    return sha.hexdigest()
