"""Collapse in features: healthy samples, one point, scaled copies and pairs by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.diagnostics.collapse import collapse, spread

seeds = st.integers(0, 2**32 - 1)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.slow
@given(seeds)
def test_samples_of_the_data_itself_are_healthy(seed):
    both = draw(seed, 500, 8)
    found = collapse(both[:300], both[300:])
    assert found.diversity == pytest.approx(1, abs=0.08)
    assert found.coverage == pytest.approx(1, abs=0.12)


@pytest.mark.slow
def test_coverage_is_measured_by_its_expectation():
    """Means over 400 draws of so few samples that the raw coverage is one half: within four standard errors."""
    found = [collapse(draw(seed, 3, 2), draw(seed + 1000, 2, 2), neighbours=1).coverage for seed in range(400)]
    assert np.mean(found) == pytest.approx(1, abs=4 * np.std(found) / 400**0.5)


@given(seeds)
def test_one_point_has_no_diversity_and_covers_next_to_nothing(seed):
    real = draw(seed, 300, 8)
    for point, most in ((real[:1], 0.2), (np.full((1, 8), 50, np.float32), 0.0)):
        found = collapse(real, point.repeat(200, axis=0))
        assert found.diversity == 0
        assert found.coverage <= most


def test_only_diversity_sees_a_collapse_to_the_mean_in_many_dimensions():
    """All of 128-dimensional Gaussian data lies √2 times further apart than from its mean."""
    found = collapse(draw(0, 100, 128), np.zeros((100, 128), np.float32))
    assert found.diversity == 0
    assert found.coverage > 1


@pytest.mark.slow
def test_half_of_the_data_is_half_of_the_coverage():
    apart = np.concatenate([draw(0, 100, 4), draw(1, 100, 4) + 1000])
    found = collapse(apart, draw(2, 100, 4))
    # Two clusters at distance d have half of all pairs at d, and within a cluster next to nothing.
    assert found.coverage == pytest.approx(0.5, abs=0.05)
    assert found.diversity < 0.01
    # A collapse to one point of each cluster is seen by the coverage alone.
    few = collapse(apart, apart[[0, 100]].repeat(50, axis=0))
    assert few.diversity == pytest.approx(1, abs=0.02)
    assert few.coverage < 0.3


@given(seeds, st.sampled_from([0.1, 0.5, 3.0]))
def test_diversity_scales(seed, scale):
    real = draw(seed, 50, 3)
    assert collapse(real, scale * real).diversity == pytest.approx(scale, rel=1e-4)


def test_the_spread_of_three_points_by_hand():
    points = np.array([[0, 0], [3, 4], [0, 4]], np.float32)  # distances 5, 4 and 3
    assert spread(points) == pytest.approx(4)


def test_data_without_spread_is_refused():
    with pytest.raises(ValueError, match="the 9 real samples have the same features"):
        collapse(np.ones((9, 2), np.float32), draw(0, 9, 2))
