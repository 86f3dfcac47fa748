"""Stacked MNIST: three digits as the channels of one picture, a set whose 1,000 modes can be counted.

Metz et al. 2017 (arXiv 1611.02163) and PacGAN (Lin et al. 2018, arXiv 1712.04086) stack digits drawn at
random; the latter's protocol fixes 128,000 such pictures. They are never made: digits lie on the device
once, beside a table of which three make a picture, and a batch is gathered inside the compiled step.
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Int, Int32, UInt8

from gan_jax.base import Batch, Batches, Key
from gan_jax.data import order
from gan_jax.data.images import Images, to_float

TOTAL = 128_000  # pictures of PacGAN's protocol


class Stacked(NamedTuple):
    """Pictures of three channels, each of which is one of M single images.

    name: of the set that the single images come from. classes: K³, of K classes of single images.
    """

    name: str
    image: UInt8[np.ndarray, "M H W 1"]
    label: Int32[np.ndarray, " M"]
    triple: Int32[np.ndarray, "N 3"]
    classes: int


def stack(source: Images, total: int = TOTAL) -> Stacked:
    """Return `total` pictures of three training images each, drawn independently and with replacement.

    Which they are depends on the picture's position and the size of the training split alone. They come from a hash,
    and so are the same everywhere and always, which no library's generator promises.

    Raises:
        ValueError: an unlabelled set, one of coloured images, or a `total` below 1.
    """
    image, label = source.train.image, source.train.label
    if label is None or image.shape[-1] != 1:
        raise ValueError(f"{source.name} cannot be stacked: that takes labelled images of one channel, such as mnist")
    if total < 1:
        raise ValueError(f"total={total} pictures: stack at least 1")
    digests = b"".join(hashlib.sha256(str(position).encode()).digest() for position in range(total))
    words = np.frombuffer(digests, "<u8").reshape(total, 4)[:, :3]
    return Stacked(source.name, image, label, (words % len(image)).astype(np.int32), source.classes**3)


def examples(arrays: Mapping[str, Array], index: Int[Array | np.ndarray, "*shape"]) -> Batch:
    """Return pictures by their positions: {"image": [*shape, H, W, 3] in [-1, 1], "label": [*shape]}.

    A label is the number whose digits, to the base of the number of single classes, are those of the channels.
    `arrays` are those of `batches`.
    """
    triple = arrays["triple"][index]
    image = jnp.moveaxis(arrays["image"][triple][..., 0], -3, -1)
    return {"image": to_float(image), "label": arrays["label"][triple] @ arrays["place"]}


def batches(stacked: Stacked, size: int, count: int = 1) -> Batches:
    """Return the endless stream of `{"image": [count, size, H, W, 3], "label": [count, size]}`.

    An epoch visits each picture at most once (see `order`): what does not fill a last step is left out.

    Raises:
        ValueError: `size` or `count` is less than 1, or one step needs more pictures than there are.
    """
    total = len(stacked.triple)
    if min(size, count) < 1 or size * count > total:
        wanted = f"a step draws {count} batches of {size} from {total} stacks of {stacked.name!r}"
        raise ValueError(f"{wanted}: it can draw between 1 and {total} in all")
    base = round(stacked.classes ** (1 / 3))
    arrays = {
        "image": stacked.image,
        "label": stacked.label,
        "triple": stacked.triple,
        "place": np.array([base**2, base, 1], np.int32),
    }

    def draw(arrays: Mapping[str, Array], key: Key, step: Array) -> Batch:
        return examples(arrays, order.indices(key, step, count * size, total).reshape(count, size))

    return Batches({name: jnp.asarray(array) for name, array in arrays.items()}, draw)
