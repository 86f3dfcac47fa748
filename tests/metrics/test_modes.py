"""Counting modes, by hand and on the mixtures themselves."""

import jax
import numpy as np
import pytest

from gan_jax.data.mixtures import MIXTURES, sample
from gan_jax.metrics.modes import modes

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
