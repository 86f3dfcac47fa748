"""Copies are found, fresh draws are not, and the nearest examples are those of brute force."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.metrics.memory import memory, nearest

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([20, 150]))
def test_the_nearest_are_those_of_brute_force(seed, count):
    rng = np.random.default_rng(seed)
    # Far from the origin, where products cancel; 150 rows are more than a block.
    points, others = (rng.normal(size=(size, 4)) + 1e7 for size in (count, 30))
    distances = np.linalg.norm(points[:, None] - others[None], axis=-1)
    found = nearest(points, others)
    np.testing.assert_array_equal(found.indices, distances.argmin(axis=1))
    np.testing.assert_allclose(found.distances, distances.min(axis=1), rtol=1e-9)


@given(seeds)
def test_copies_are_found_exactly(seed):
    """In float32 and far from the origin, where rounding is largest; images are compared pixel by pixel."""
    rng = np.random.default_rng(seed)
    train, held_out = (np.float32(1e3 + rng.normal(size=(size, 2, 2, 1))) for size in (30, 20))
    order = rng.integers(0, 30, size=10)
    found = memory(train[order], train, held_out)
    assert (found.ratio, found.share) == (0, 1)
    np.testing.assert_array_equal(found.nearest.indices, order)
    np.testing.assert_array_equal(found.nearest.distances, np.zeros(10))


def test_copies_are_found_where_some_held_out_samples_are_copies_too():
    train, fresh = np.random.default_rng(0).normal(size=(2, 30, 4))
    found = memory(train, train, np.concatenate([train[:3], fresh]))
    assert (found.ratio, found.share) == (0, 1)


@given(seeds)
def test_half_copies_are_half_the_share(seed):
    rng = np.random.default_rng(seed)
    train, held_out = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    assert memory(np.concatenate([train[:5], np.full((5, 4), 9.0)]), train, held_out).share == 0.5


@given(seeds, st.floats(0.1, 10), st.floats(1, 99))
def test_the_summary_is_that_of_distances_by_hand(seed, scale, percentile):
    """One training example, at the origin: distances are norms."""
    rng = np.random.default_rng(seed)
    generated, held_out = scale * rng.normal(size=(10, 4)), rng.normal(size=(20, 4))
    norms, expected = np.linalg.norm(generated, axis=1), np.linalg.norm(held_out, axis=1)
    found = memory(generated, np.zeros((1, 4)), held_out, percentile=percentile)
    assert found.ratio == pytest.approx(np.median(norms) / np.median(expected), rel=1e-9)
    assert found.share == np.mean(norms <= np.percentile(expected, percentile))


def test_fresh_draws_of_the_law_are_as_far_as_held_out_ones():
    rng = np.random.default_rng(0)
    found = memory(*(rng.normal(size=(2000, 4)) for _ in range(3)), percentile=10.0)
    assert found.ratio == pytest.approx(1, abs=0.06)  # medians of 2,000 distances
    assert found.share == pytest.approx(0.1, abs=5 * np.sqrt(2 * 0.09 / 2000))


def test_what_cannot_be_measured_is_refused():
    x = np.zeros((3, 2))
    for percentile in (0.0, 100.0, float("nan")):
        with pytest.raises(ValueError, match=f"percentile={percentile} is not between 0 and 100"):
            memory(x, x, x, percentile=percentile)
    with pytest.raises(ValueError, match="half of held_out are copies of training examples"):
        memory(x, x, x)
    with pytest.raises(ValueError, match="generated has 3 features, train 2"):
        memory(np.zeros((3, 3)), x, x)
    with pytest.raises(ValueError, match="held_out has 0 samples"):
        memory(x, x, x[:0])
    with pytest.raises(ValueError, match="generated has values that are not finite"):
        memory(np.full((1, 2), np.nan), x, x)
    with pytest.raises(ValueError, match="others has 3 features, points 2"):
        nearest(x, np.zeros((3, 3)))
