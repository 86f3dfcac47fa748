"""Precision, recall, density and coverage against brute force, and their laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.metrics.coverage import coverage

seeds = st.integers(0, 2**32 - 1)


def brute_force(real, fake, k):
    """Differences of all pairs, radii by sorting, loops over the definitions."""

    def distances(a, b):
        return np.square(a[:, None, :] - b[None, :, :]).sum(-1)

    radii, fake_radii = (np.sort(distances(points, points), axis=1)[:, k] for points in (real, fake))
    across = distances(real, fake)  # [N, M]
    n, m = across.shape
    precision = sum(any(across[i, j] <= radii[i] for i in range(n)) for j in range(m)) / m
    recall = sum(any(across[i, j] <= fake_radii[j] for j in range(m)) for i in range(n)) / n
    density = sum(across[i, j] <= radii[i] for i in range(n) for j in range(m)) / (k * m)
    covered = sum(any(across[i, j] <= radii[i] for j in range(m)) for i in range(n)) / n
    return precision, recall, density, covered


@given(seeds, st.sampled_from([1, 3]), st.sampled_from([(20, 30), (150, 20)]))
def test_equals_brute_force(seed, neighbours, sizes):
    rng = np.random.default_rng(seed)
    # Far from the origin, where products cancel; 150 rows are more than a block.
    real, fake = (rng.normal(size=(size, 4)) + 1e6 for size in sizes)
    fake[: len(fake) // 2] += 1.5
    assert coverage(real, fake, neighbours=neighbours) == pytest.approx(brute_force(real, fake, neighbours), rel=1e-12)


@given(seeds, st.sampled_from([1, 3]))
def test_equals_brute_force_where_distances_tie_and_samples_repeat(seed, neighbours):
    """Points of a lattice, an exact one, about a far origin: many are copies, and many lie on spheres."""
    rng = np.random.default_rng(seed)
    real, fake = (rng.integers(0, 3, size=(size, 4)) for size in (20, 30))
    found = coverage(100.0 + real, 100.0 + fake, neighbours=neighbours)
    assert found == pytest.approx(brute_force(real, fake, neighbours), rel=1e-12)


@given(seeds)
def test_on_the_data_themselves(seed):
    """Each ball holds its own k neighbours and its centre, whose copy is in the other set."""
    real = np.random.default_rng(seed).normal(size=(20, 4))
    assert coverage(real, real, neighbours=3) == pytest.approx((1, 1, 4 / 3, 1), rel=1e-12)


def test_far_clouds_have_nothing_in_common():
    real, fake = np.random.default_rng(0).normal(size=(2, 20, 4))
    assert coverage(real, fake + 1e3, neighbours=3) == (0, 0, 0, 0)


@given(seeds)
def test_a_generator_of_one_mode_is_precise_and_covers_half(seed):
    """Real samples of two far modes, fakes all in the middle of one."""
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(20, 4)) * 0.1 + 100 * (np.arange(20) % 2)[:, None]
    fake = 1e-3 * rng.normal(size=(30, 4)) + real[0]
    found = coverage(real, fake, neighbours=3)
    assert (found.precision, found.recall) == (1, 1 / 20)  # the one that they crowd around
    assert 0 < found.coverage <= 0.5


@given(seeds)
def test_is_blind_to_order_rotation_scale_and_origin(seed):
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(20, 4)), rng.normal(size=(30, 4)) + 0.5
    turn, _ = np.linalg.qr(rng.normal(size=(4, 4)))
    found = coverage(real, fake, neighbours=3)
    assert coverage(rng.permutation(real), rng.permutation(fake), neighbours=3) == found
    assert coverage(*(7 + 3 * points @ turn for points in (real, fake)), neighbours=3) == found
    swapped = coverage(fake, real, neighbours=3)
    assert (swapped.precision, swapped.recall) == (found.recall, found.precision)


def test_the_means_for_equal_laws_are_those_of_naeem():
    """E[coverage] = 1 − (N−1)···(N−k)/((N+M−1)···(N+M−k)), E[density] = 1, whatever the law."""
    rng, n, m, k = np.random.default_rng(0), 20, 30, 3
    found = np.array([coverage(rng.gumbel(size=(n, 4)), rng.gumbel(size=(m, 4)), neighbours=k) for _ in range(300)])
    expected = 1 - np.prod([(n - i) / (n + m - i) for i in range(1, k + 1)])
    for column, mean in ((3, expected), (2, 1.0)):
        error = found[:, column].std() / np.sqrt(len(found))
        assert abs(found[:, column].mean() - mean) < 4 * error


@pytest.mark.parametrize("neighbours", [0, -1])
def test_no_neighbours_are_refused(neighbours):
    with pytest.raises(ValueError, match=f"neighbours={neighbours}: give at least 1"):
        coverage(np.zeros((5, 2)), np.zeros((5, 2)), neighbours=neighbours)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="fake has 5 samples: give at least 6"):
        coverage(np.zeros((6, 2)), np.zeros((5, 2)))
    with pytest.raises(ValueError, match="fake has 3 features, real 2"):
        coverage(np.zeros((6, 2)), np.zeros((6, 3)))
    with pytest.raises(ValueError, match="real has values that are not finite"):
        coverage(np.full((6, 2), np.inf), np.zeros((6, 2)))
