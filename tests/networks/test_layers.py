"""Convolutions joined with a change of size are the two one after the other, and sizes are halved as asked."""

import itertools

import jax
import numpy as np
import pytest
from flax import nnx

from gan_jax.networks.layers import Conv, LayerNorm, doubled, halved, halvings
from gan_jax.networks.lowerings import LOWERINGS


def convolved(x, kernel):
    """A convolution of 3x3 in NumPy, tap by tap."""
    _, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = itertools.product(range(3), range(3))
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in taps)


def repeated(x):
    return np.repeat(np.repeat(x, 2, axis=1), 2, axis=2)


def averaged(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


IN_TWO_STEPS = {
    None: convolved,
    "up": lambda x, kernel: convolved(repeated(x), kernel),
    "down": lambda x, kernel: averaged(convolved(x, kernel)),
}


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("resample", IN_TWO_STEPS)
def test_a_convolution_joined_with_a_change_of_size_is_the_two_in_turn(resample, lowering):
    rng = np.random.default_rng(0)
    kernel, bias, x = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 3, 3, 5), (5,), (2, 4, 6, 3)))
    layer = Conv(3, 5, LOWERINGS[lowering](), rngs=nnx.Rngs(0), init=lambda *_: kernel, resample=resample)
    layer.bias[...] = bias
    np.testing.assert_allclose(jax.jit(layer)(x), IN_TWO_STEPS[resample](x, kernel) + bias, atol=1e-5)


def test_doubled_and_halved_repeat_and_average_and_undo_each_other():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    np.testing.assert_array_equal(doubled(x), repeated(x))
    np.testing.assert_allclose(halved(x), averaged(x), atol=1e-6)
    np.testing.assert_array_equal(halved(doubled(x)), x)


@pytest.mark.parametrize(
    ("size", "largest", "count"), [(28, 7, 2), (32, 7, 3), (64, 7, 4), (28, 8, 2), (32, 8, 2), (64, 8, 3), (10, 8, 1)]
)
def test_a_size_is_halved_until_it_is_small(size, largest, count):
    assert halvings(size, largest) == count


@pytest.mark.parametrize(("size", "largest"), [(27, 7), (7, 7), (8, 8), (18, 8), (3, 7)])
def test_a_size_that_cannot_be_halved_is_refused(size, largest):
    with pytest.raises(ValueError, match=f"image size {size} cannot be halved down to {largest // 2 + 1}...{largest}"):
        halvings(size, largest)


def test_layer_normalisation_knows_one_example_at_a_time():
    x = np.random.default_rng(0).normal(3.0, 2.0, (2, 4, 4, 3)).astype(np.float32)
    layer = LayerNorm(3, rngs=nnx.Rngs(0))
    layer.scale[...], layer.shift[...] = np.array([1.0, 2.0, 0.5]), np.array([0.0, 1.0, -1.0])
    mean, deviation = x.mean(axis=(1, 2, 3), keepdims=True), x.std(axis=(1, 2, 3), keepdims=True)
    expected = (x - mean) / deviation * [1.0, 2.0, 0.5] + [0.0, 1.0, -1.0]
    for train in (True, False):  # there is nothing that it would remember
        np.testing.assert_allclose(layer(x, None, train=train), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(layer(x[:1], None, train=train), expected[:1], rtol=1e-4, atol=1e-4)
