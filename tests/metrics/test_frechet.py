"""The Fréchet distance against its closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.metrics.frechet import Moments, distance, moments

seeds = st.integers(0, 2**32 - 1)


def gaussian(rng, dim, rank=None):
    root = rng.normal(size=(dim, rank or dim))
    return Moments(10, rng.normal(size=dim), root @ root.T)


@given(seeds, st.sampled_from([1, 2, 5]))
def test_of_diagonal_gaussians(seed, dim):
    rng = np.random.default_rng(seed)
    means, deviations = rng.normal(size=(2, dim)), rng.uniform(0, 3, size=(2, dim))
    expected = np.square(means[0] - means[1]).sum() + np.square(deviations[0] - deviations[1]).sum()
    pair = [Moments(10, mean, np.diag(deviation**2)) for mean, deviation in zip(means, deviations, strict=True)]
    assert distance(*pair) == pytest.approx(expected, abs=1e-8)


@given(seeds, st.sampled_from([None, 2]))
def test_is_symmetric_zero_on_itself_and_blind_to_rotations(seed, rank):
    rng = np.random.default_rng(seed)
    one, two = gaussian(rng, 4, rank), gaussian(rng, 4)  # of rank 2 in four dimensions: singular
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    turned = [Moments(10, turn @ m.mean, turn @ m.covariance @ turn.T) for m in (one, two)]
    assert distance(one, one) == pytest.approx(0, abs=1e-6)
    assert distance(one, two) == pytest.approx(distance(two, one), rel=1e-6, abs=1e-6)
    assert distance(*turned) == pytest.approx(distance(one, two), rel=1e-6, abs=1e-6)


def test_equals_the_general_matrix_root():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    one, two = gaussian(rng, 6), gaussian(rng, 6)
    cross = np.trace(np.real(sqrtm(one.covariance @ two.covariance)))
    traces = np.trace(one.covariance) + np.trace(two.covariance)
    expected = np.square(one.mean - two.mean).sum() + traces - 2 * cross
    assert distance(one, two) == pytest.approx(expected, rel=1e-9)


def test_moments_are_the_unbiased_ones_in_double_precision():
    features = np.array([[1e6, 0.0], [1e6 + 1, 2.0], [1e6 + 2, 4.0]], np.float32)
    found = moments(features)
    np.testing.assert_allclose(found.mean, [1e6 + 1, 2])
    np.testing.assert_allclose(found.covariance, [[1, 2], [2, 4]])
    assert found.count == 3
    with pytest.raises(ValueError, match="1 samples"):
        moments(features[:1])
