"""Differentiable augmentation: functions `(key, x) -> x` of a batch that real examples and fakes pass alike.

Each example has draws of its own, which depend on the key and on its place in the batch alone. Gradients flow
through to the examples, and so to a generator. Pixels in [-1, 1] may leave that range. What is cut off or moved in
is filled with zeros, as in the published code: in [-1, 1] this is mid-grey, and not the black of a background.
"""

import math
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gan_jax.arithmetic import allowed
from gan_jax.base import Key

Augmentation = Callable[[Key, Float[Array, "B ..."]], Float[Array, "B ..."]]
Image = Float[Array, "H W C"]
Scalar = int | float | Float[Array, ""]


def brightness() -> Augmentation:
    """Add to each image [B, H, W, C] one number of U[−½, ½).

    Zhao et al. 2020 (arXiv 2006.10738).
    """
    return _images(lambda key, image: image + _uniform(key, image, -0.5, 0.5))


def saturation() -> Augmentation:
    """Scale the distance of each pixel from its grey, the mean of its channels: m + f(x − m), f ~ U[0, 2) an image.

    An image [B, H, W, 1] of one channel is its own grey and does not change.

    Zhao et al. 2020 (arXiv 2006.10738).
    """

    def one(key: Key, image: Image) -> Image:
        grey = jnp.mean(image, axis=-1, keepdims=True)
        return grey + _uniform(key, image, 0.0, 2.0) * (image - grey)

    return _images(one)


def contrast() -> Augmentation:
    """Scale the distance of each pixel from the mean of its image [B, H, W, C]: m + f(x − m), f ~ U[½, 1½) an image.

    Zhao et al. 2020 (arXiv 2006.10738).
    """

    def one(key: Key, image: Image) -> Image:
        mean = jnp.mean(image)
        return mean + _uniform(key, image, 0.5, 1.5) * (image - mean)

    return _images(one)


def colour() -> Augmentation:
    """Change brightness, saturation and contrast of each image [B, H, W, C], in this order.

    Zhao et al. 2020 (arXiv 2006.10738).
    """
    return compose(brightness(), saturation(), contrast())


def translation(ratio: float = 1 / 8) -> Augmentation:
    """Move each image [B, H, W, C] by whole pixels and fill what is moved in with zeros.

    The two shifts are independent, and each integer from −r to r is equally likely, where r is the height, or the
    width, times the ratio, rounded with halves up.

    Raises:
        ValueError: a ratio outside [0, 1).

    Zhao et al. 2020 (arXiv 2006.10738).
    """
    _check_ratio("translation", ratio)

    def one(key: Key, image: Image) -> Image:
        rows, columns = (_share(side, ratio) for side in image.shape[:2])
        row, column = jax.random.randint(key, (2,), 0, jnp.array([2 * rows + 1, 2 * columns + 1]))
        padded = jnp.pad(image, ((rows, rows), (columns, columns), (0, 0)))
        return lax.dynamic_slice(padded, (row, column, 0), image.shape)

    return _images(one)


def cutout(ratio: float = 1 / 2) -> Augmentation:
    """Set a box of each image [B, H, W, C] to zero.

    Its height and width are the image's times the ratio, rounded with halves up, and its centre is anywhere: what
    lies outside the image is lost, so that less is cut near an edge.

    Raises:
        ValueError: a ratio outside [0, 1).

    DeVries and Taylor 2017 (arXiv 1708.04552); here as in Zhao et al. 2020 (arXiv 2006.10738).
    """
    _check_ratio("cutout", ratio)

    def one(key: Key, image: Image) -> Image:
        sides = [_share(side, ratio) for side in image.shape[:2]]
        # The centre of a box of even size is the border between two pixels, of which there is one more.
        centres = [side + 1 - size % 2 for side, size in zip(image.shape[:2], sides, strict=True)]
        starts = jax.random.randint(key, (2,), 0, jnp.array(centres)) - jnp.array(sides) // 2
        row, column = (
            (jnp.arange(side) >= start) & (jnp.arange(side) < start + size)
            for side, start, size in zip(image.shape[:2], starts, sides, strict=True)
        )
        return jnp.where((row[:, None] & column[None, :])[:, :, None], 0, image)

    return _images(one)


def instance_noise(std: Scalar = 0.1) -> Augmentation:
    """Add independent noise of N(0, std²) to each number of the examples [B, ...], which may be points or images.

    It gives real and fake distributions common support; anneal `std` to 0, as a traced value if need be.

    Raises:
        ValueError: a negative or infinite std.

    Sønderby et al. 2017 (arXiv 1610.04490); Arjovsky and Bottou 2017 (arXiv 1701.04862).
    """
    if not allowed(std, lambda size: 0 <= size < math.inf):
        raise ValueError(f"instance_noise(std={std}) is no deviation: give a finite one of at least 0, such as 0.1")
    return _each(lambda key, x: x + (std * jax.random.normal(key, x.shape)).astype(x.dtype))


def compose(*augmentations: Augmentation) -> Augmentation:
    """Apply augmentations one after the other, each with a key of its own: the i-th gets `fold_in(key, i)`.

    Of none it is the identity.
    """

    def composed(key: Key, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        for i, augmentation in enumerate(augmentations):
            x = augmentation(jax.random.fold_in(key, i), x)
        return x

    return composed


def diffaugment() -> Augmentation:
    """Change the colour of each image [B, H, W, C], move it and cut out of it: all of DiffAugment.

    Zhao et al. 2020 (arXiv 2006.10738).
    """
    return compose(colour(), translation(), cutout())


def _each(one: Callable[[Key, Array], Array]) -> Augmentation:
    """Lift an augmentation of one example to a batch, with a key for each example."""
    return lambda key, x: jax.vmap(one)(jax.random.split(key, x.shape[0]), x)


def _images(one: Callable[[Key, Image], Image]) -> Augmentation:
    augmentation = _each(one)

    def checked(key: Key, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        chex.assert_rank(x, 4)
        return augmentation(key, x)

    return checked


def _uniform(key: Key, like: Array, low: float, high: float) -> Float[Array, ""]:
    return jax.random.uniform(key, minval=low, maxval=high).astype(like.dtype)


def _share(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _check_ratio(name: str, ratio: float) -> None:
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"{name}(ratio={ratio}) is not a share of the image in [0, 1): 1/8 is little and 1/2 is much")


AUGMENTATIONS = {
    f.__name__: f for f in (brightness, saturation, contrast, colour, translation, cutout, instance_noise, diffaugment)
}
