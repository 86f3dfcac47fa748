"""Where each objective's slopes vanish, by hand; the laws of shares, accuracy and margin."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Objective
from gan_jax.diagnostics.saturation import saturation
from gan_jax.objectives import OBJECTIVES, minimax, non_saturating
from gan_jax.testing import logits

every_objective = pytest.mark.parametrize("name", OBJECTIVES)
NEVER = np.zeros(4, bool)
PAIRS = {name: factory() for name, factory in OBJECTIVES.items()}

measured = jax.jit(saturation, static_argnums=0)
# ln(.005/.995): below it σ is less than .01 of the ½ that an undecided critic gives.
EDGE = -5.2933


# Whether the slopes of (generator on fake, discriminator on real, discriminator on fake) are below .01, by hand.
VANISHED = {
    "minimax": lambda r, f: (f < EDGE, r > -EDGE, f < EDGE),
    "non_saturating": lambda r, f: (f > -EDGE, r > -EDGE, f < EDGE),
    "wasserstein": lambda r, f: (NEVER, NEVER, NEVER),
    "hinge": lambda r, f: (NEVER, r >= 1, f <= -1),
    "least_squares": lambda r, f: (abs(f - 1) < 0.01, abs(r - 1) < 0.01, abs(f) < 0.01),
    "relativistic": lambda r, f: (f - r > -EDGE, r - f > -EDGE, r - f > -EDGE),
}
known_objective = pytest.mark.parametrize("name", VANISHED)


@known_objective
@given(real=logits(), fake=logits())
def test_shares_are_those_by_hand(name, real, fake):
    on_generator, on_real, on_fake = VANISHED[name](np.asarray(real), np.asarray(fake))
    found = measured(PAIRS[name], real, fake)
    assert found["generator/saturated"] == pytest.approx(on_generator.mean())
    assert found["discriminator/saturated"] == pytest.approx((on_real.mean() + on_fake.mean()) / 2)
    assert all(np.isfinite(value) and value.shape == () for value in found.values())


@known_objective
def test_an_undecided_critic_saturates_nobody_but_least_squares_fakes(name):
    found = measured(PAIRS[name], jnp.zeros(4), jnp.zeros(4))
    assert found["generator/saturated"] == 0
    # A fake regressed to 0 is on its label.
    assert found["discriminator/saturated"] == (0.5 if name == "least_squares" else 0)
    assert (found["discriminator/accuracy"], found["discriminator/margin"]) == (0.5, 0)


@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_who_saturates_where_fakes_are_found_out_or_believed(side):
    fake = jnp.full(4, side * 20.0)
    names = ("minimax", "non_saturating")
    shares = [float(measured(PAIRS[name], -fake, fake)["generator/saturated"]) for name in names]
    assert shares == ([1.0, 0.0] if side < 0 else [0.0, 1.0])


@every_objective
@given(real=logits(), fake=logits(), scale=st.sampled_from([1e-3, 7.0, 1e3]))
def test_shares_are_blind_to_the_unit_of_the_loss_and_to_the_size_of_the_batch(name, real, fake, scale):
    plain = measured(PAIRS[name], real, fake)
    for other in (in_unit(PAIRS[name], scale, real, fake), measured(PAIRS[name], jnp.tile(real, 3), jnp.tile(fake, 3))):
        for quantity in ("generator/saturated", "discriminator/saturated", "discriminator/accuracy"):
            np.testing.assert_allclose(other[quantity], plain[quantity], rtol=1e-6)


@partial(jax.jit, static_argnums=0)
def in_unit(pair, scale, real, fake):
    return saturation(Objective(*(lambda r, f, loss=loss: scale * loss(r, f) for loss in pair)), real, fake)


def test_a_label_that_is_met_counts_as_saturated():
    label = np.log(0.9 / 0.1)  # of real examples smoothed by .1
    found = measured(non_saturating(0.1), jnp.full(4, label), jnp.zeros(4))
    assert found["discriminator/saturated"] == 0.5


def test_the_threshold_moves_the_edge():
    fake = jnp.array([-1.0, -3.0, -5.0, -7.0])
    shares = [
        float(measured(PAIRS["minimax"], -fake, fake, threshold=jnp.float32(level))["generator/saturated"])
        for level in (0.001, 0.01, 0.05, 0.5, 0.9)
    ]
    # Half of σ(x) is below the level left of ln(h/(1 − h)) with h = level/2: −7.6, −5.3, −3.7, −1.1, −.2.
    assert shares == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("real, fake", [([np.nan, 1.0], [0.0, 0.5]), ([0.0, 1.0], [np.nan, 0.5])])
def test_what_is_not_a_number_is_not_ranked(real, fake):
    found = measured(PAIRS["minimax"], jnp.array(real), jnp.array(fake))
    assert np.isnan(found["discriminator/accuracy"])


@given(real=logits(), fake=logits())
def test_accuracy_counts_the_pairs_that_are_told_apart(real, fake):
    found = measured(PAIRS["hinge"], real, fake)
    wins = [float(r > f) + float(r == f) / 2 for r in np.asarray(real) for f in np.asarray(fake)]
    assert found["discriminator/accuracy"] == pytest.approx(np.mean(wins))
    margin = np.mean(np.asarray(real, np.float64)) - np.mean(np.asarray(fake, np.float64))
    np.testing.assert_allclose(found["discriminator/margin"], margin, rtol=1e-4, atol=1e-2)
    swapped = measured(PAIRS["hinge"], fake, real)
    np.testing.assert_allclose(found["discriminator/accuracy"] + swapped["discriminator/accuracy"], 1)


@every_objective
def test_watching_adds_no_derivatives(name):
    real, fake = jnp.array([1.0, 2.0]), jnp.array([-1.0, 0.5])
    slope = jax.jit(jax.grad(lambda r, f: sum(saturation(PAIRS[name], r, f).values()), argnums=(0, 1)))(real, fake)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("threshold", [0, 1, -0.1, float("nan"), np.float32(2)])
def test_a_threshold_that_is_no_share_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"threshold={threshold} is outside \(0, 1\)"):
        saturation(minimax(), jnp.zeros(2), jnp.zeros(2), threshold=threshold)
