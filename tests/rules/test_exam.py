"""Every rule of the catalogues passes the common exam, which knows its matrix; and a broken one fails it."""

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_jax.base import Pair, UpdateRule
from gan_jax.games import spectra
from gan_jax.rules import PLAIN_RULES, RULES, alternating, extragradient, plain, simultaneous
from gan_jax.testing import bilinear_games, check_rule, quadratic_games, rates
from tests.rules.quadratics import sgd

# Those whose programs are large; `make test-slow` examines them.
LARGE = ("unrolled", "symplectic", "competitive")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in (*RULES, *PLAIN_RULES)]
)
def test_every_rule_passes(name):
    check_rule(lambda rates: plain(name, rates), spectra.STEPS[name], period=spectra.PERIODS.get(name, 1))


@pytest.mark.slow
@settings(max_examples=6)  # each game is compiled
@given(bilinear_games(), rates(), st.integers(1, 3))
def test_alternating_preserves_volume_on_any_bilinear_game(known, rates, d_steps):
    with jax.enable_x64(True):
        matrix = spectra.linearise(known, plain("alternating", rates, d_steps=d_steps))
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simultaneous", "extragradient", "consensus"])
@settings(max_examples=6)
@given(known=quadratic_games(), rates=rates())
def test_a_step_on_any_quadratic_game_is_its_matrix(name, known, rates):
    with jax.enable_x64(True):
        matrix = spectra.linearise(known, plain(name, rates))
    np.testing.assert_allclose(matrix, spectra.STEPS[name](known, rates), atol=1e-9)


def changed(step=lambda rule: rule.step, **fields):
    """Make the simultaneous rule with something else in it."""

    def make(rates):
        rule = simultaneous(sgd(rates))
        return rule._replace(step=step(rule), **fields)

    return make


def ascends(rates):
    return simultaneous(Pair(optax.sgd(rates.generator), optax.sgd(-rates.discriminator)))


def swapped(rates):
    return simultaneous(sgd(Pair(*reversed(rates))))


def drifts(rule):
    def step(game, key, point, batch):
        point, metrics = rule.step(game, key, point, batch)
        return point._replace(params=point.params._replace(generator=point.params.generator + 1e-6)), metrics

    return step


def forgets_stats(rule):
    def step(game, key, point, batch):
        after, metrics = rule.step(game, key, point, batch)
        return after._replace(stats=point.stats), metrics

    return step


def confuses_stats(rule):
    def step(game, key, point, batch):
        after, metrics = rule.step(game, key, point, batch)
        _, (new, _) = game.losses.generator(point.params, point.stats, key, jax.tree.map(lambda leaf: leaf[0], batch))
        return after._replace(stats=new), metrics

    return step


def widens(rule):
    def step(game, key, point, batch):
        after, metrics = rule.step(game, key, point, batch)
        return after._replace(rule=jax.tree.map(lambda leaf: leaf + 0.0, after.rule)), metrics

    return step


def silent(rule):
    return lambda *arguments: (rule.step(*arguments)[0], {})


def generator_first(rates):
    """Steps in the other order, of the same spectrum: what alternating does with the players' names swapped."""
    rule = alternating(sgd(Pair(*reversed(rates))))

    def step(game, key, point, batch):
        after, metrics = rule.step(swapped_game(game), key, swapped_point(point), batch)
        return swapped_point(after), metrics

    return UpdateRule(rule.batches, lambda params: rule.init(Pair(*reversed(params))), step)


def swapped_game(game):
    def of(loss):
        def swapped(params, stats, key, batch):
            value, (new, metrics) = loss(Pair(*reversed(params)), Pair(*reversed(stats)), key, batch)
            return value, (Pair(*reversed(new)), metrics)

        return None if loss is None else swapped

    return game._replace(**{name: Pair(*map(of, reversed(getattr(game, name)))) for name in ("losses", "penalties")})


def swapped_point(point):
    return point._replace(params=Pair(*reversed(point.params)), stats=Pair(*reversed(point.stats)))


def one_key(rule):
    return lambda game, key, point, batch: rule.step(game, jax.random.key(0), point, batch)


def one_batch(rates):
    rule = simultaneous(sgd(rates))

    def step(game, key, point, batch):
        return rule.step(game, key, point, jax.tree.map(lambda leaf: leaf[:1], batch))

    return rule._replace(batches=2, step=step)


BROKEN = {
    "a discriminator that ascends its loss": (ascends, "not solved"),
    "swapped rates": (swapped, "moves at a rate of zero|does not move"),
    "a drift": (changed(drifts), "an equilibrium does not stay"),
    "stats that are dropped": (changed(forgets_stats), "new stats are not kept"),
    "stats of the other player's loss": (changed(confuses_stats), "the discriminator's stats come from the other"),
    "a state that changes its type": (changed(widens), "changes the point's structure"),
    "metrics that are dropped": (changed(silent), "metrics of the generator and the discriminator are lost"),
    "more batches than it takes": (changed(batches=2), "prefix|batches"),
    "one key for all steps": (changed(one_key), "loss draws the same whatever the key"),
    "a batch that is never used": (one_batch, "batch 1 of 2 is not used"),
    "another rule": (lambda rates: alternating(sgd(rates)), "the linearised step is not the matrix"),
    "a wrong extrapolation": (lambda rates: extragradient(sgd(rates)), "the linearised step is not the matrix"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_fails(name):
    make, message = BROKEN[name]
    with pytest.raises(AssertionError, match=message):
        check_rule(make, spectra.STEPS["simultaneous"])


@pytest.mark.slow
def test_the_order_of_the_moves_is_told_though_the_spectrum_is_the_same():
    with pytest.raises(AssertionError, match="another matrix of the same spectrum"):
        check_rule(generator_first, spectra.STEPS["alternating"])
