"""Losses at the ideal saddle: closed forms of every objective and divergence, and how far a run is from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Pair
from gan_jax.diagnostics.equilibrium import distance, equilibrium, level, undecided
from gan_jax.divergences import DIVERGENCES, objective
from gan_jax.objectives import OBJECTIVES, least_squares, minimax, non_saturating

LOG2 = np.log(2.0)
IDEAL = {
    "minimax": Pair(-LOG2, 2 * LOG2),
    "non_saturating": Pair(LOG2, 2 * LOG2),
    "wasserstein": Pair(0.0, 0.0),
    "hinge": Pair(0.0, 2.0),
    "least_squares": Pair(1 / 8, 1 / 4),
    "relativistic": Pair(LOG2, LOG2),
}


@pytest.mark.parametrize("name", IDEAL)
def test_losses_at_the_ideal_saddle(name):
    np.testing.assert_allclose(equilibrium(OBJECTIVES[name]()), IDEAL[name], rtol=1e-6, atol=1e-7)
    assert level(OBJECTIVES[name]()) == (0.5 if name == "least_squares" else 0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_of_equal_laws_is_its_generator_at_one(name):
    """The negated loss of the best critic is D_f(p, p) = f(1): 0 but for the GAN's, which is −log 4."""
    expected = 2 * LOG2 if name == "gan" else 0.0
    assert equilibrium(objective(DIVERGENCES[name]())).discriminator == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_smoothing_moves_the_saddle_and_may_be_traced(smoothing):
    # D* = (1 − ε)p/(p + q), so half of 1 − ε; least squares regresses the labels' mean, the same number.
    share = (1 - smoothing) / 2
    at = jax.jit(lambda smoothing: level(non_saturating(smoothing)))(smoothing)
    np.testing.assert_allclose(at, np.log(share / (1 - share)), rtol=1e-5)
    expected = -(1 - smoothing) * np.log(share) - (1 + smoothing) * np.log(1 - share)
    np.testing.assert_allclose(equilibrium(minimax(smoothing)).discriminator, expected, rtol=1e-6)
    np.testing.assert_allclose(level(least_squares(smoothing)), share, rtol=1e-6)


def test_no_constant_critic_does_better():
    for name, factory in OBJECTIVES.items():
        grid = jnp.linspace(-3, 3, 61)
        values = factory().discriminator(grid, grid)
        assert values.min() >= equilibrium(factory()).discriminator - 1e-6, name


def test_the_distance_is_signed_and_keeps_windows():
    found = distance(non_saturating(), Pair(jnp.array([LOG2, 0.0]), jnp.array([0.0, 2 * LOG2 + 1])))
    np.testing.assert_allclose(found.generator, [0, -LOG2], atol=1e-7)
    np.testing.assert_allclose(found.discriminator, [-2 * LOG2, 1], rtol=1e-6)
    assert distance(non_saturating(), Pair(1.0, 1.0)).generator == pytest.approx(1 - LOG2)


near, far = st.floats(0.455, 0.545), st.floats(0, 0.445) | st.floats(0.555, 1)


@given(window=st.lists(st.tuples(near, near), min_size=4, max_size=4), off=far, place=st.integers(0, 7))
def test_one_output_off_ends_the_window(window, off, place):
    outputs = np.array(window).T
    assert undecided(*outputs)
    outputs.flat[place] = off
    assert not undecided(*outputs)


def test_the_window_by_hand():
    real, fake = jnp.array([0.6, 0.5]), jnp.array([0.45, 0.4])
    assert undecided(real, fake, tolerance=jnp.float32(0.11))
    assert not undecided(real, fake, tolerance=0.09)
    assert not undecided(real.at[0].set(jnp.nan), fake, tolerance=0.5)
    assert not undecided(jnp.zeros(0), jnp.zeros(0))
    for tolerance in (0, -0.1, 0.6, float("nan")):
        with pytest.raises(ValueError, match=rf"tolerance={tolerance} is outside"):
            undecided(real, fake, tolerance=tolerance)
