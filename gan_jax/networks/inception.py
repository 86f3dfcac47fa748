"""The InceptionV3 of the Fréchet inception distance, in the form of its PyTorch port.

The network is that of Szegedy et al. 2016 (arXiv 1512.00567) as it was published for TensorFlow on 2015-12-05, with
which Heusel et al. 2017 (arXiv 1706.08500) measured. It differs from the usual InceptionV3: means over windows leave
out the padding, the last block takes a maximum where the others take a mean, and there are 1008 classes.

It is never trained here, so its parameters are a plain dict under the names and in the shapes of the port's
`state_dict`; kernels are [outputs, inputs, height, width].
"""

from collections.abc import Callable, Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jaxtyping import Float, UInt8

SIZE = 299
FEATURES = 2048
CLASSES = 1008

_EPSILON = 1e-3  # of batch normalisation

_Leaf = Callable[[str, tuple[int, ...]], Array]  # the parameter of a name, whose shape it must have
_Conv = Callable[..., Array]


def apply(
    params: Mapping[str, Array], images: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B F"], Float[Array, "B classes"]]:
    """Return the features [B, 2048] before the last layer, and the logits [B, 1008].

    Args:
        params: every name of `shapes`; others are ignored.
        images: from `preprocess`, 299x299. Scores of any other size (75 or more) are nobody else's.
    """
    return _forward(lambda name, _: params[name], images)


@cache
def shapes() -> Mapping[str, tuple[int, ...]]:
    """Return the shape of each parameter and running moment by its name, in the order of the layers."""
    found = {}

    def leaf(name: str, shape: tuple[int, ...]) -> Array:
        found[name] = shape
        return jnp.zeros(shape)

    jax.eval_shape(partial(_forward, leaf), jax.ShapeDtypeStruct((1, SIZE, SIZE, 3), jnp.float32))
    return found


def preprocess(images: UInt8[Array, "B H W C"]) -> Float[Array, "B 299 299 3"]:
    """Return what the network reads: images resized to 299x299, scaled from {0, ..., 255} to about [-1, 1].

    Gray images are repeated in three channels. The resizing is TensorFlow 1's: linear between the two nearest pixels,
    pixel i of the result at i·H/299, and without smoothing where images shrink. Scores depend on it (Parmar et al.
    2022, arXiv 2104.11222).

    Raises:
        ValueError: if there are neither one nor three channels.
    """
    if images.shape[-1] not in (1, 3):
        raise ValueError(f"images of {images.shape[-1]} channels: the Inception network reads 1 or 3")
    x = _resized(_resized(images.astype(jnp.float32), axis=2), axis=1)
    x = (x - 128) / 128
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))


def _resized(x: Array, axis: int) -> Array:
    """Return x with SIZE points along an axis.

    `jax.image` has no such grid: its pixels are centred, and beyond the last centre it fades to zero.
    """
    length = x.shape[axis]
    place = jnp.arange(SIZE, dtype=jnp.float32) * jnp.float32(length / SIZE)
    low = place.astype(jnp.int32)
    share = jnp.expand_dims(place - low, [other for other in range(x.ndim) if other != axis])
    below, above = (x.take(jnp.minimum(index, length - 1), axis=axis) for index in (low, low + 1))
    return below + (above - below) * share


def _forward(leaf: _Leaf, x: Array) -> tuple[Array, Array]:
    stem = partial(_conv, leaf, "")
    x = stem(x, "Conv2d_1a_3x3", 32, (3, 3), stride=2, padding="VALID")
    x = stem(x, "Conv2d_2a_3x3", 32, (3, 3), padding="VALID")
    x = stem(x, "Conv2d_2b_3x3", 64, (3, 3))
    x = _halved_max(x)
    x = stem(x, "Conv2d_3b_1x1", 80)
    x = stem(x, "Conv2d_4a_3x3", 192, (3, 3), padding="VALID")
    x = _halved_max(x)
    for name, pooled in (("5b", 32), ("5c", 64), ("5d", 64)):
        x = _block_a(partial(_conv, leaf, f"Mixed_{name}."), x, pooled)
    x = _block_b(partial(_conv, leaf, "Mixed_6a."), x)
    for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        x = _block_c(partial(_conv, leaf, f"Mixed_{name}."), x, inner)
    x = _block_d(partial(_conv, leaf, "Mixed_7a."), x)
    x = _block_e(partial(_conv, leaf, "Mixed_7b."), x, _mean)
    x = _block_e(partial(_conv, leaf, "Mixed_7c."), x, _max)
    features = x.mean(axis=(1, 2))
    weight, bias = leaf("fc.weight", (CLASSES, FEATURES)), leaf("fc.bias", (CLASSES,))
    return features, jnp.matmul(features, weight.T, precision=jax.lax.Precision.HIGHEST) + bias[None]


def _conv(
    leaf: _Leaf,
    block: str,
    x: Array,
    name: str,
    outputs: int,
    kernel: tuple[int, int] = (1, 1),
    *,
    stride: int = 1,
    padding: str = "SAME",
) -> Array:
    """A convolution without a bias, batch normalisation by running moments, ReLU."""
    place = block + name
    weight = leaf(f"{place}.conv.weight", (outputs, x.shape[-1], *kernel))
    scale, shift, mean, variance = (
        leaf(f"{place}.bn.{part}", (outputs,)) for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale * jax.lax.rsqrt(variance + _EPSILON)
    x = jax.lax.conv_general_dilated(
        x,
        weight * scale[:, None, None, None],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "OIHW", "NHWC"),
        # Accelerators would round the factors, and the score is that of single precision.
        precision=jax.lax.Precision.HIGHEST,
    )
    return jax.nn.relu(x + (shift - mean * scale)[None, None, None])


def _chain(conv: _Conv, x: Array, branch: str, *layers: tuple[int, tuple[int, int]], halve: bool = False) -> Array:
    """Apply convolutions named branch_1, branch_2, ...; with `halve`, the last has stride 2 and no padding."""
    for number, (outputs, kernel) in enumerate(layers, 1):
        last = {"stride": 2, "padding": "VALID"} if halve and number == len(layers) else {}
        x = conv(x, f"{branch}_{number}", outputs, kernel, **last)
    return x


def _block_a(conv: _Conv, x: Array, pooled: int) -> Array:
    branches = [
        conv(x, "branch1x1", 64),
        _chain(conv, x, "branch5x5", (48, (1, 1)), (64, (5, 5))),
        _chain(conv, x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
        conv(_mean(x), "branch_pool", pooled),
    ]
    return jnp.concatenate(branches, axis=-1)


def _block_b(conv: _Conv, x: Array) -> Array:
    branches = [
        conv(x, "branch3x3", 384, (3, 3), stride=2, padding="VALID"),
        _chain(conv, x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3)), halve=True),
        _halved_max(x),
    ]
    return jnp.concatenate(branches, axis=-1)


def _block_c(conv: _Conv, x: Array, inner: int) -> Array:
    row, column = (1, 7), (7, 1)
    double = ((inner, (1, 1)), (inner, column), (inner, row), (inner, column), (192, row))
    branches = [
        conv(x, "branch1x1", 192),
        _chain(conv, x, "branch7x7", (inner, (1, 1)), (inner, row), (192, column)),
        _chain(conv, x, "branch7x7dbl", *double),
        conv(_mean(x), "branch_pool", 192),
    ]
    return jnp.concatenate(branches, axis=-1)


def _block_d(conv: _Conv, x: Array) -> Array:
    seven = ((192, (1, 1)), (192, (1, 7)), (192, (7, 1)), (192, (3, 3)))
    branches = [
        _chain(conv, x, "branch3x3", (192, (1, 1)), (320, (3, 3)), halve=True),
        _chain(conv, x, "branch7x7x3", *seven, halve=True),
        _halved_max(x),
    ]
    return jnp.concatenate(branches, axis=-1)


def _block_e(conv: _Conv, x: Array, pool: Callable[[Array], Array]) -> Array:
    three = _chain(conv, x, "branch3x3", (384, (1, 1)))
    double = _chain(conv, x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3)))
    branches = [
        conv(x, "branch1x1", 320),
        conv(three, "branch3x3_2a", 384, (1, 3)),
        conv(three, "branch3x3_2b", 384, (3, 1)),
        conv(double, "branch3x3dbl_3a", 384, (1, 3)),
        conv(double, "branch3x3dbl_3b", 384, (3, 1)),
        conv(pool(x), "branch_pool", 192),
    ]
    return jnp.concatenate(branches, axis=-1)


def _mean(x: Array) -> Array:
    return nnx.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _max(x: Array) -> Array:
    return nnx.max_pool(x, (3, 3), padding="SAME")


def _halved_max(x: Array) -> Array:
    return nnx.max_pool(x, (3, 3), (2, 2))
