"""Counting modes, by hand and on the mixtures themselves."""

import jax
import numpy as np
import pytest

from gan_jax.data.mixtures import MIXTURES, sample
from gan_jax.metrics.modes import modes

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_by_hand():
    samples = np.array([[0.1, 0], [2.9, 0], [0, 3.1], [10, 3.0], [5, 5]])
    assert modes(samples, CENTRES, 1.0) == (2, 3, 0.6)
    assert modes(samples[-1:], CENTRES, 1.0) == (0, 3, 0.0)


@pytest.mark.parametrize("name", MIXTURES)
def test_the_mixture_itself_covers_all_of_its_modes(name):
    mixture = MIXTURES[name]()
    found = modes(np.asarray(sample(mixture, jax.random.key(0), (2500,))), np.asarray(mixture.centres), mixture.std)
    assert found.covered == found.total == len(mixture.centres)
    # Within three deviations in the plane lies a share 1 - exp(-9/2); 2,500 draws, five standard errors.
    assert found.high_quality == pytest.approx(1 - np.exp(-4.5), abs=5 * np.sqrt(np.exp(-4.5) / 2500))
