"""Every lowering is the same map as XLA's own, in value and in first and second derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.networks.lowerings import LOWERINGS, patches, xla

# Batch, height, width, channels in and out; with many channels products are others than with few.
SHAPES = [(2, 4, 6, 3, 5), (1, 14, 14, 2, 3), (3, 2, 2, 1, 1), (2, 4, 6, 18, 17)]


def arguments(shape, side):
    batch, height, width, inputs, outputs = shape
    one, two, three = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(one, (batch, height, width, inputs))
    kernel = jax.random.normal(two, (side, side, inputs, outputs)) / 4
    return (x, kernel), three


# The others are made of these two, so one shape says which of them they took.
COMPOSED = [name for name in LOWERINGS if name not in ("xla", "patches")]
CASES = [("patches", shape) for shape in SHAPES] + [(name, SHAPES[2]) for name in COMPOSED]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize(("direction", "side"), [("down", 4), ("up", 4), ("same", 3)])
def test_equals_xla_in_value_and_two_derivatives(name, direction, side, shape):
    mine, reference = (getattr(make(), direction) for make in (LOWERINGS[name], xla))
    point, key = arguments(shape, side)
    tangent = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), point)

    def summed(function):
        return lambda point: jnp.sum(jnp.sin(function(*point)))

    def slopes(function):  # the gradient, and the Hessian along a tangent
        return jax.jvp(jax.grad(summed(function)), (point,), (tangent,))

    np.testing.assert_allclose(mine(*point), reference(*point), atol=1e-5)
    for got, expected in zip(jax.tree.leaves(slopes(mine)), jax.tree.leaves(slopes(reference)), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5 * max(1.0, float(jnp.abs(expected).max())))


@pytest.mark.slow
@pytest.mark.parametrize("make", [xla, patches])
def test_up_is_the_transpose_of_down(make):
    # <down(x), y> = <x, up(y)> when the kernel's ends are swapped and flipped as lax.conv_transpose flips them.
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    y = jax.random.normal(jax.random.key(2), (2, 4, 4, 5))
    kernel = jax.random.normal(jax.random.key(3), (4, 4, 3, 5))
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    np.testing.assert_allclose(jnp.vdot(make().down(x, kernel), y), jnp.vdot(x, make().up(y, flipped)), rtol=1e-4)


@pytest.mark.slow
def test_down_by_hand():
    # One pixel set: it meets exactly the four kernel entries whose windows hold it.
    x = jnp.zeros((1, 4, 4, 1)).at[0, 1, 1, 0].set(1.0)
    kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
    # Window (i, j) starts at (2i - 1, 2j - 1): the pixel (1, 1) lies at (2 - 2i, 2 - 2j) in it.
    expected = np.array([[kernel[2, 2, 0, 0], kernel[2, 0, 0, 0]], [kernel[0, 2, 0, 0], kernel[0, 0, 0, 0]]])
    np.testing.assert_array_equal(patches().down(x, kernel)[0, :, :, 0], expected)


def test_same_by_hand():
    # One pixel set, in a corner: the kernel turned about, cut off at the border.
    x = jnp.zeros((1, 3, 4, 1)).at[0, 0, 0, 0].set(1.0)
    kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
    expected = np.zeros((3, 4))
    expected[:2, :2] = [[4, 3], [1, 0]]
    np.testing.assert_array_equal(patches().same(x, kernel)[0, :, :, 0], expected)
