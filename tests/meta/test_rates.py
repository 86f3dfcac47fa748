"""Rates as trees: the same steps where all are equal, and none where they are 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax import optimisers
from gan_jax.base import Task
from gan_jax.meta import inner, rates
from gan_jax.meta.hyper import Interval, space
from gan_jax.meta.maml import maml
from gan_jax.meta.supervised import squared_error, supervised
from gan_jax.networks import mlp

KEY = jax.random.key(0)
BATCH = {"x": jnp.asarray([[1.0, 2.0], [0.5, -1.0]]), "y": jnp.asarray([[0.0], [1.0]])}


def learner(optimiser=optimisers.sgd):
    return supervised(
        mlp.generator(2, (1,), widths=(3,)),
        squared_error,
        hyper={"rate": 0.1},
        optimiser=lambda hyper: optimiser(hyper["rate"]),
    )


def where(hyper, change):
    return hyper | {"rate": change(hyper["rate"])}


def stepped(learner):
    state = learner.init(learner.hyper, KEY)
    state, _ = inner.loop(learner, 3, feed=inner.whole())(learner.hyper, KEY, state, BATCH)
    return learner.get_params(state)


@pytest.mark.parametrize("how", [rates.per_parameter, rates.per_array, rates.only(lambda path: True)])
@pytest.mark.parametrize("optimiser", [optimisers.sgd, optimisers.adam])
def test_equal_rates_in_a_tree_take_the_same_steps_as_one(how, optimiser):
    plain = learner(optimiser)
    made = stepped(rates.with_rates(plain, where, how))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), made, stepped(plain))


def test_partial_adaptation_moves_what_was_chosen_and_nothing_else():
    plain = learner()
    before = plain.get_params(plain.init(plain.hyper, KEY))
    after = stepped(rates.with_rates(plain, where, rates.only(lambda path: "[1]" in path)))
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a, b: ("[1]" in jax.tree_util.keystr(path), bool(jnp.any(a != b))), before, after
    )
    for chosen, did in jax.tree.leaves(moved, is_leaf=lambda x: isinstance(x, tuple)):
        assert did == chosen


def test_rates_of_two_players_spread_over_their_own_parameters():
    tree = rates.per_array([0.1, 0.2], [{"a": jnp.ones(2), "b": jnp.ones(3)}, jnp.ones(1)])
    assert jax.tree.map(float, tree) == [{"a": pytest.approx(0.1), "b": pytest.approx(0.1)}, pytest.approx(0.2)]
    shapes = jax.tree.map(jnp.shape, rates.per_parameter([0.1, 0.2], [{"a": jnp.ones(2)}, jnp.ones((1, 3))]))
    assert shapes == [{"a": (2,)}, (1, 3)]


@pytest.mark.slow
def test_the_rate_of_a_parameter_moves_by_the_products_of_its_slopes():
    """After one step w' = w − r∘g the query's slope by r is −g∘g', with g' that of the query at w' (Meta-SGD)."""
    spread = rates.with_rates(learner(), where, rates.per_parameter)
    low, high = 1e-3, 1.0
    learned = space(spread.hyper, {"rate": Interval(low, high, log=True)})
    meta = maml(spread, optimisers.sgd(1.0), steps=1, feed=inner.whole(), space=learned)
    state = meta.init(KEY)
    query = {"x": BATCH["x"] + 1.0, "y": BATCH["y"] - 2.0}
    (moved, _), _ = jax.jit(meta.meta_step)(KEY, state, jax.tree.map(lambda x: x[None], Task(BATCH, query)))
    begun = spread.init(spread.hyper, KEY, state.learned.params)

    def slopes(params, batch):
        return jax.grad(lambda p: spread.loss(spread.hyper, KEY, spread.set_params(begun, p), batch))(params)

    before = slopes(state.learned.params, BATCH)
    after = slopes(jax.tree.map(lambda w, g: w - 0.1 * g, state.learned.params, before), query)
    place = np.log(0.1 / low) / np.log(high / low)  # of the rate on its logarithmic scale
    by_coordinate = 0.1 * np.log(high / low) * place * (1 - place)
    for change, g, h in zip(
        *map(jax.tree.leaves, (jax.tree.map(jnp.subtract, moved.hyper, state.learned.hyper), before, after)),
        strict=True,
    ):
        np.testing.assert_allclose(change, g * h * by_coordinate, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("multiple", [0.0, 0.5, 3.0])
def test_a_scaled_learner_takes_its_steps_at_a_multiple_of_any_rates(multiple):
    plain = learner(optimisers.adam)
    spread = rates.with_rates(plain, where, rates.per_array)
    wanted = stepped(plain._replace(hyper={"rate": 0.1 * multiple}))
    for each in (plain, spread):
        made = stepped(rates.scaled(each, where, multiple))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), made, wanted)


def test_a_choice_of_no_parameter_is_refused():
    with pytest.raises(ValueError, match=r"no parameter would move: the paths are \['layers'\]"):
        rates.with_rates(learner(), where, rates.only(lambda path: False))
