"""The sliced Wasserstein distance where it is known."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from gan_jax.metrics import sliced
from gan_jax.testing import keys

seeds = st.integers(0, 2**32 - 1)
distance = jax.jit(sliced.distance, static_argnames="directions")


def sample(seed, n, dim):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.slow
@given(keys(), seeds, st.sampled_from([(20, 20), (20, 7)]))
def test_on_the_line_it_is_the_distance_itself(key, seed, sizes):
    x, y = (sample(seed + i, size, 1) + i for i, size in enumerate(sizes))
    expected = wasserstein_distance(x[:, 0], y[:, 0])
    np.testing.assert_allclose(distance(key, x, y, directions=3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dim", [2, 5])
def test_a_shift_costs_its_mean_projection(dim):
    """E|θ·v| = |v| Γ(D/2) / (√π Γ((D+1)/2)), for samples of any law."""
    x, v = sample(0, 10, dim), sample(1, 1, dim)
    expected = np.linalg.norm(v) * math.gamma(dim / 2) / (math.sqrt(math.pi) * math.gamma((dim + 1) / 2))
    squared = np.square(v).sum() / dim  # E(θ·v)²
    found = distance(jax.random.key(0), x, x + v, directions=2000)
    assert abs(found - expected) < 4 * math.sqrt((squared - expected**2) / 2000)


@given(keys(), seeds)
def test_is_a_distance(key, seed):
    x, y, z = (sample(seed + i, 10, 3) + i for i in range(3))
    of = {
        pair: distance(key, *pair_of, directions=8)
        for pair, pair_of in {"xy": (x, y), "yx": (y, x), "xz": (x, z), "yz": (y, z), "xx": (x, x)}.items()
    }
    np.testing.assert_allclose(of["xx"], 0.0, atol=1e-6)
    np.testing.assert_allclose(of["xy"], of["yx"], rtol=1e-5)
    assert of["xz"] <= of["xy"] + of["yz"] + 1e-5
    np.testing.assert_allclose(distance(key, 3 * x, 3 * y, directions=8), 3 * of["xy"], rtol=1e-5)
    order = np.random.default_rng(seed).permutation(10)
    np.testing.assert_allclose(distance(key, x[order], y, directions=8), of["xy"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_gradients_pull_the_samples_together():
    x, y = jnp.asarray(sample(0, 10, 2)), jnp.asarray(sample(0, 10, 2)) + 5.0
    slope = jax.grad(lambda y: distance(jax.random.key(0), x, y, directions=64))(y)
    assert (slope > 0).all()


def test_what_cannot_be_measured_is_refused():
    key, x = jax.random.key(0), jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="directions=0: give at least 1"):
        sliced.distance(key, x, x, directions=0)
    with pytest.raises(ValueError, match="y has 3 features, x 2"):
        sliced.distance(key, x, jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="y has 0 samples"):
        distance(key, x, x[:0])
    with pytest.raises(ValueError, match="x has values that are not finite"):
        sliced.distance(key, x * jnp.nan, x)
