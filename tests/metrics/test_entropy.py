"""The Inception score where it is known, and its bounds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy as scipys

from gan_jax.metrics.entropy import entropies, entropy, inception_score

seeds = st.integers(0, 2**32 - 1)


def random(seed, n=30, classes=5):
    return softmax(3 * np.random.default_rng(seed).normal(size=(n, classes)), axis=1)


@given(seeds)
def test_entropy_is_scipys(seed):
    rows = random(seed)
    np.testing.assert_allclose(entropy(rows), scipys(rows, axis=1), rtol=1e-9)
    np.testing.assert_array_equal(entropy(np.eye(3)), np.zeros(3))


@given(seeds)
def test_the_score_is_the_exponential_of_the_mean_divergence(seed):
    rows = random(seed)
    expected = np.exp(np.mean([scipys(row, rows.mean(axis=0)) for row in rows]))
    found = inception_score(rows, splits=1)
    assert found == pytest.approx((expected, 0.0), rel=1e-9)
    halves = entropies(rows)
    assert halves.conditional == pytest.approx(np.mean(scipys(rows, axis=1)), rel=1e-9)
    assert halves.marginal == pytest.approx(scipys(rows.mean(axis=0)), rel=1e-9)
    assert 0 <= halves.conditional <= halves.marginal <= np.log(5) + 1e-12


@pytest.mark.parametrize("splits", [1, 5])
@pytest.mark.parametrize("classes", [2, 10])
def test_sure_and_even_is_the_number_of_classes_and_alike_is_one(splits, classes):
    sure = np.eye(classes)[np.arange(100 * classes) % classes]
    assert inception_score(sure, splits=1).mean == pytest.approx(classes, rel=1e-12)
    # A part of 20 to 200 samples, in a random order, is even up to chance alone.
    assert 0.9 * classes < inception_score(sure, splits=splits).mean <= classes
    assert entropies(sure) == pytest.approx((0, np.log(classes)), abs=1e-12)
    alike = np.full((50, classes), 1 / classes)
    assert inception_score(alike, splits=splits) == pytest.approx((1, 0), abs=1e-12)
    assert entropies(alike) == pytest.approx((np.log(classes), np.log(classes)), rel=1e-12)


@given(seeds)
def test_is_within_its_bounds_and_over_equal_parts(seed):
    rows = random(seed, n=31)
    found = inception_score(rows, splits=4)
    assert 1 <= found.mean <= 5
    # Parts of one sample know of no other.
    assert inception_score(rows, splits=31) == pytest.approx((1, 0), abs=1e-9)
    copies = np.tile(rows[:1], (31, 1))
    assert inception_score(copies, splits=4) == pytest.approx((1, 0), abs=1e-9)


def test_the_deviation_is_that_among_the_parts():
    """Two samples in two parts of two, of which one is mixed and one is not, or both are mixed: known either way."""
    rows = np.eye(2)[[0, 0, 0, 1]]
    assert inception_score(rows, splits=2) == pytest.approx((1.5, 0.5))


def test_samples_may_be_sorted():
    rows = np.eye(10)[np.repeat(np.arange(10), 100)]
    found = inception_score(rows, splits=10)
    assert found.mean > 8  # parts in the order of the samples would each be of one class, with a score of 1
    assert inception_score(rows[::-1], splits=10).mean == pytest.approx(found.mean, rel=0.1)


def test_what_are_no_probabilities_is_refused():
    rows = random(0)
    for broken, words in (
        (2 * rows, "a row with the sum 2"),
        (rows - 0.2, "a value of -0.1"),
        (rows * np.nan, "not finite"),
        (rows[:0], "0 samples"),
    ):
        for function in (entropies, inception_score):
            with pytest.raises(ValueError, match=f"probabilities has .*{words}"):
                function(broken)
    for splits in (0, 31):
        with pytest.raises(ValueError, match=f"splits={splits}: give 1 to 30"):
            inception_score(rows, splits=splits)
    inception_score(rows.astype(np.float16), splits=1)
