"""The kernel inception distance against two loops, and its law where the distributions are equal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.divergences.integral import polynomial_kernel
from gan_jax.metrics._samples import shuffled
from gan_jax.metrics.kernel import kid

seeds = st.integers(0, 2**32 - 1)


def by_loops(x, y):
    """The unbiased MMD² of (a·b/F + 1)³."""

    def kernel(a, b):
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(points):
        return np.mean([kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j])

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


@given(seeds, st.sampled_from([1, 3]))
def test_the_kernel_is_the_power_of_the_scaled_product(seed, degree):
    x, y = np.random.default_rng(seed).normal(size=(2, 4, 3)).astype(np.float32)
    expected = [[(np.dot(a, b) / 3 + 1) ** degree for b in y] for a in x]
    np.testing.assert_allclose(polynomial_kernel(degree)(x, y), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="degree=0"):
        polynomial_kernel(0)


@given(seeds)
def test_is_the_mean_over_blocks_of_two_loops(seed):
    rng = np.random.default_rng(seed)
    x, y = 30 * rng.normal(size=(12, 3)) + 5, rng.normal(size=(14, 3))
    blocks = zip(np.split(shuffled(x, 7), 3), np.split(shuffled(y, 7)[:12], 3), strict=True)
    expected = np.array([by_loops(*pair) for pair in blocks])
    found = kid(x, y, block=4, seed=7)
    assert found.value == pytest.approx(expected.mean(), rel=1e-9, abs=1e-9)
    assert found.error == pytest.approx(np.sqrt(expected.var(ddof=1) / 3), rel=1e-9)
    assert found.blocks == 3
    of_two = kid(x, y, block=4, blocks=2, seed=7)
    assert of_two.value == pytest.approx(expected[:2].mean(), rel=1e-9, abs=1e-9)


@given(seeds)
def test_of_point_masses(seed):
    a, b = np.random.default_rng(seed).normal(size=(2, 1, 3))
    expected = (a @ a.T / 3 + 1) ** 3 + (b @ b.T / 3 + 1) ** 3 - 2 * (a @ b.T / 3 + 1) ** 3
    found = kid(a.repeat(12, axis=0), b.repeat(14, axis=0), block=4)
    assert found.value == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    assert found.error == pytest.approx(0, abs=1e-9)


def test_has_mean_zero_and_an_honest_error_where_the_laws_are_equal():
    rng = np.random.default_rng(0)
    found = [kid(*rng.exponential(size=(2, 100, 4)), block=10) for _ in range(400)]
    values, errors = (np.array([getattr(each, name) for each in found]) for name in ("value", "error"))
    deviation = values.std()
    assert abs(values.mean()) < 4 * deviation / np.sqrt(400)
    assert values.min() < 0
    # The deviation of 400 deviates is known to about a tenth, tails this long considered.
    assert np.sqrt(np.square(errors).mean()) == pytest.approx(deviation, rel=0.3)


def test_is_symmetric_and_blind_to_rotations():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12, 3))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    found = kid(x, y, block=4)
    assert kid(y, x, block=4) == pytest.approx(found, rel=1e-9)
    assert kid(x @ turn, y @ turn, block=4) == pytest.approx(found, rel=1e-9)


def test_samples_may_be_sorted():
    """Two classes, far apart: blocks in the order of the samples would be of one class each."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 400, 3))
    x[:200] += 5
    y[::2] += 5
    found = kid(x, y, block=40)
    assert abs(found.value) < 4 * found.error


def test_what_has_no_estimate_or_no_error_is_refused():
    x = np.zeros((10, 2))
    for arguments, words in (
        ({"block": 1}, "block=1: an unbiased estimate takes at least 2"),
        ({}, "0 blocks have no standard error: with 10 samples give block=5 or less"),
        ({"block": 6}, "1 blocks have no standard error"),
        ({"block": 2, "blocks": 1}, "1 blocks have no standard error"),
        ({"block": 3, "blocks": 4}, "4 blocks of 3 are more than 10 samples"),
    ):
        with pytest.raises(ValueError, match=words):
            kid(x, np.zeros((12, 2)), **arguments)
    with pytest.raises(ValueError, match="y has 3 features, x 2"):
        kid(x, np.zeros((10, 3)), block=2)
    with pytest.raises(ValueError, match="y has values that are not finite"):
        kid(x, np.full((10, 2), np.nan), block=2)
    with pytest.raises(ValueError, match="x has 3 samples: give at least 4"):
        kid(x[:3], x, block=2)
