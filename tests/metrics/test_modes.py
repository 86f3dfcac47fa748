"""Counting modes, by hand and on the mixtures themselves."""

import jax
import numpy as np
import pytest

from gan_jax.data.mixtures import MIXTURES, sample
from gan_jax.metrics.modes import categories, modes

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_by_hand():
    samples = np.array([[0.1, 0], [2.9, 0], [0, 3.1], [10, 3.0], [5, 5]])
    found = modes(samples, CENTRES, 1.0)
    assert found[:3] == (2, 3, 0.6)
    # Two of the three good ones are in the first mode, one in the second: log 3 less the entropy of (2/3, 1/3).
    assert found.reverse_kl == pytest.approx(2 / 3 * np.log(2) + 1 / 3 * np.log(1))
    assert modes(samples[-1:], CENTRES, 1.0) == (0, 3, 0.0, None)


def test_reverse_kl_is_zero_for_even_coverage_and_log_k_for_one_mode():
    assert modes(CENTRES, CENTRES, 1.0).reverse_kl == pytest.approx(0.0)
    assert modes(CENTRES[1:2].repeat(7, axis=0), CENTRES, 1.0).reverse_kl == pytest.approx(np.log(3))


@pytest.mark.parametrize("name", MIXTURES)
def test_the_mixture_itself_covers_all_of_its_modes(name):
    mixture = MIXTURES[name]()
    found = modes(np.asarray(sample(mixture, jax.random.key(0), (2500,))), np.asarray(mixture.centres), mixture.std)
    assert found.covered == found.total == len(mixture.centres)
    # Within three deviations in the plane lies a share 1 - exp(-9/2); 2,500 draws, five standard errors.
    assert found.high_quality == pytest.approx(1 - np.exp(-4.5), abs=5 * np.sqrt(np.exp(-4.5) / 2500))


def test_categories_by_hand():
    assert categories(np.array([3, 1, 3, 3]), 4) == (
        2,
        4,
        pytest.approx(np.log(4) + 0.75 * np.log(0.75) + 0.25 * np.log(0.25)),
    )
    assert categories(np.arange(10), 10) == (10, 10, pytest.approx(0))
    assert categories(np.array([999]), 1000) == (1, 1000, pytest.approx(np.log(1000)))


def test_categories_are_modes_that_lie_at_their_centres():
    labels = np.random.default_rng(0).integers(0, 2, size=50)
    found, known = categories(labels, 3), modes(CENTRES[labels], CENTRES, 1.0)
    assert (found.covered, found.total, found.reverse_kl) == (known.covered, known.total, known.reverse_kl)


def test_what_cannot_be_counted_is_refused():
    for labels, words in (
        (np.array([], int), "labels has 0 samples"),
        (np.array([0, 3]), "labels are from 0 to 3: of 3 categories"),
        (np.array([-1, 2]), "labels are from -1 to 2"),
    ):
        with pytest.raises(ValueError, match=words):
            categories(labels, 3)
    with pytest.raises(ValueError, match="samples has values that are not finite"):
        modes(np.full((2, 2), np.nan), CENTRES, 1.0)
    with pytest.raises(ValueError, match="samples has 0 samples"):
        modes(np.zeros((0, 2)), CENTRES, 1.0)
    with pytest.raises(ValueError, match="centres has 2 features, samples 3"):
        modes(np.zeros((2, 3)), CENTRES, 1.0)
