"""Meta-learning through a GAN's inner loop: its gradient against finite differences, and the judges' closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from gan_jax import fewshot, latents, objectives, penalties, rules
from gan_jax.base import Network, Pair, Task
from gan_jax.divergences import integral
from gan_jax.gan import Hypers, adam, gan
from gan_jax.meta import inner
from gan_jax.meta.maml import fomaml

KEY = jax.random.key(1)
RULES = {
    "simultaneous": (rules.simultaneous, 1),
    "alternating": (functools.partial(rules.alternating, d_steps=2), 2),
    "extragradient": (rules.extragradient, 1),
}


def perceptron(inputs, outputs, width=3):
    """One hidden layer with batch normalisation, in the precision of its weights."""

    def init(key):
        first, second = jax.random.split(key)
        weights = {
            "in": jax.random.normal(first, (inputs, width)) / inputs**0.5,
            "scale": jnp.ones((1, width)),
            "shift": jnp.zeros((1, width)),
            "out": jax.random.normal(second, (width, outputs)) / width**0.5,
        }
        return weights, {"mean": jnp.zeros((1, width)), "variance": jnp.ones((1, width))}

    def apply(params, stats, x, *, label=None, train, key=None):
        h = x @ params["in"]
        moments = {"mean": h.mean(0, keepdims=True), "variance": h.var(0, keepdims=True)} if train else stats
        h = (h - moments["mean"]) / jnp.sqrt(moments["variance"] + 1e-3)
        out = jnp.tanh(h * params["scale"] + params["shift"]) @ params["out"]
        stats = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, stats, moments)
        return (out[:, 0] if outputs == 1 else out), stats

    return Network(init, apply)


def small(rule="alternating"):
    make, _ = RULES[rule]
    return gan(
        Pair(perceptron(2, 2), perceptron(2, 1)),
        latents.normal(2),
        hyper=Hypers(rates=Pair(0.01, 0.02), beta1=0.5, penalty=0.1),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: make(adam(hyper, epsilon_root=1e-8)),
        ema=0.0,
    )


def support(n=5, key=KEY):
    return {"x": jax.random.normal(key, (n, 2)) + 1.0}


def adapted_loss(model, batches, judge, levels):
    learner = model.learner(judge)
    run = inner.loop(learner, 3, feed=inner.whole(batches), levels=levels)

    def loss(params, hyper, key, data):
        begin, loop, last = jax.random.split(key, 3)
        state, _ = run(hyper, loop, learner.init(hyper, begin, params), data)
        return learner.loss(hyper, last, state, support(6, jax.random.key(8)))

    return loss, learner


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_the_meta_gradient_equals_central_differences(rule):
    """Through three steps under Adam and batch normalisation, of the initialisation and of all hyperparameters."""
    with jax.enable_x64(True):
        model = small(rule)
        # Not `query_losses`: with the other player held fixed it is no gradient of a function.
        judge = fewshot.distance(model, 4)
        loss, learner = adapted_loss(model, RULES[rule][1], judge, levels=0)
        start = learner.get_params(learner.init(model.hyper, KEY))
        hyper = model.hyper._replace(smoothing=0.1)
        flat, back = ravel_pytree(jax.tree.map(jnp.asarray, (start, hyper)))
        value = jax.jit(jax.vmap(lambda x: loss(*back(x), KEY, support())))
        slope = jax.jit(jax.grad(lambda x: loss(*back(x), KEY, support())))(flat)
        around = flat[None] + 1e-6 * np.concatenate([np.eye(len(flat)), -np.eye(len(flat))])
        above, below = np.split(np.asarray(value(around)), 2)
        numeric = (above - below) / 2e-6
        np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-5 * np.abs(numeric).max())


@pytest.mark.slow
def test_a_thousand_inner_runs_give_finite_meta_gradients():
    model = small()
    loss, learner = adapted_loss(model, 2, fewshot.distance(model, 4), levels=1)

    @jax.jit
    @jax.vmap
    def slopes(key):
        start = learner.get_params(learner.init(model.hyper, key))
        # A weight without a gradient is what Adam's root would turn into NaN.
        start = start._replace(generator=start.generator | {"out": jnp.zeros_like(start.generator["out"])})
        return ravel_pytree(jax.grad(loss, argnums=(0, 1))(start, model.hyper, key, support(5, key)))[0]

    assert np.isfinite(slopes(jax.random.split(KEY, 1000))).all()


def test_a_state_begins_at_the_parameters_that_it_is_given():
    model = small()
    learner = model.learner(fewshot.query_losses(model))
    params = jax.tree.map(lambda x: x + 1.0, learner.get_params(learner.init(model.hyper, KEY)))
    state = learner.init(model.hyper, KEY, params)
    jax.tree.map(np.testing.assert_array_equal, learner.get_params(state), params)
    jax.tree.map(np.testing.assert_array_equal, state.average.params, params.generator)
    moved = learner.set_params(state, jax.tree.map(jnp.zeros_like, params))
    assert not any(map(np.any, jax.tree.leaves(learner.get_params(moved))))
    jax.tree.map(np.testing.assert_array_equal, moved.point.rule, state.point.rule)
    jax.tree.map(np.testing.assert_array_equal, moved.current().average.params, moved.point.params.generator)
    assert not np.any(model.sample(KEY, moved.current(), 3))  # of the generator as it stands, whose weights are 0


@pytest.mark.slow
def test_a_distance_is_that_of_samples_in_the_feature_space():
    model = small()
    state = model.init(model.hyper, KEY)
    query, sampling = support(7), jax.random.key(5)

    def doubled(x):
        return 2.0 * x

    found = fewshot.distance(model, 6, features=doubled)(model.hyper, sampling, state, query)
    samples = np.asarray(model.sample(sampling, state, 6))
    assert found == pytest.approx(2 * float(integral.energy_distance(samples, query["x"])), rel=1e-5)


@pytest.mark.slow
def test_the_queries_losses_are_the_games_and_move_each_player_by_its_own():
    model = small()
    state = model.init(model.hyper, KEY)
    learner = model.learner(fewshot.query_losses(model))
    keys, losses = jax.random.split(KEY), model.game(model.hyper).losses

    def own(player, index):
        def value(params):
            return getattr(losses, player)(params, state.point.stats, keys[index], support())[0]

        return jax.value_and_grad(value)(state.point.params)

    def judged(params):
        return learner.loss(model.hyper, KEY, learner.set_params(state, params), support())

    value, slope = jax.value_and_grad(judged)(state.point.params)
    (generator, ours), (discriminator, theirs) = own("generator", 0), own("discriminator", 1)
    assert value == pytest.approx(float(generator + discriminator), rel=1e-6)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), slope.generator, ours.generator)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), slope.discriminator, theirs.discriminator)


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["distance", "query_losses"])
def test_a_state_is_judged_by_the_parameters_that_it_has_now(judge):
    """What first-order learners lean on: replaced parameters are judged, not the average that went before."""
    model = small()
    judges = {"distance": lambda: fewshot.distance(model, 4), "query_losses": lambda: fewshot.query_losses(model)}
    learner = model.learner(judges[judge]())
    state = learner.init(model.hyper, KEY)
    params = jax.tree.map(lambda x: 1.5 * x, learner.get_params(state))
    found = [
        learner.loss(model.hyper, KEY, each, support())
        for each in (learner.set_params(state, params), learner.init(model.hyper, KEY, params))
    ]
    assert found[0] == pytest.approx(float(found[1]), rel=1e-5)
    assert found[0] != learner.loss(model.hyper, KEY, state, support())


@pytest.mark.slow
def test_first_order_learners_need_a_judge_that_reaches_both_players():
    model = small()
    tasks = jax.tree.map(lambda x: x[None], Task(support(4), support(4, jax.random.key(2))))
    moved = {}
    for name, judge in {
        "distance": fewshot.distance(model, 4),
        "total": fewshot.total(fewshot.distance(model, 4), fewshot.query_losses(model)),
    }.items():
        meta = fomaml(model.learner(judge), optax.sgd(1.0), steps=1, feed=inner.whole(2))
        state = meta.init(KEY)
        (learned, _), _ = jax.jit(meta.meta_step)(KEY, state, tasks)
        change = jax.tree.map(jnp.subtract, learned.params, state.learned.params)
        moved[name] = [any(map(np.any, jax.tree.leaves(player))) for player in change]
    assert moved == {"distance": [True, False], "total": [True, True]}


def test_learned_hyperparameters_do_not_move_what_they_are_judged_by():
    model = small()
    state, judge = model.init(model.hyper, KEY), fewshot.query_losses(model)
    smoothed = model.hyper._replace(smoothing=0.4)
    assert judge(smoothed, KEY, state, support()) == judge(model.hyper, KEY, state, support())


def test_a_total_is_the_sum():
    model = small()
    state, query = model.init(model.hyper, KEY), support()
    judges = (fewshot.distance(model, 4), fewshot.query_losses(model))
    apart = [judge(model.hyper, KEY, state, query) for judge in judges]
    assert fewshot.total(*judges)(model.hyper, KEY, state, query) == pytest.approx(float(sum(apart)))


def test_a_distance_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="n is 1"):
        fewshot.distance(small(), 1)


def test_scales_of_images_are_their_block_means_weighted_by_the_side():
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 1)).astype(np.float32)
    found = np.asarray(fewshot.scales(x))
    assert found.shape == (2, 32 + 8 + 2)
    np.testing.assert_allclose(found[:, :32], x.reshape(2, -1))
    np.testing.assert_allclose(found[1, 32], 2 * x[1, :2, :2].mean(), rtol=1e-5)
    np.testing.assert_allclose(found[1, -1], 4 * x[1, 4:].mean(), rtol=1e-4)
    flat = np.asarray(fewshot.scales(np.ones((1, 8, 8, 1), np.float32)))[0]
    for part in np.split(flat, [64, 80]):
        assert np.linalg.norm(part) == pytest.approx(8.0)
    assert fewshot.scales(np.ones((1, 7, 8, 1), np.float32)).shape == (1, 56)  # an odd side is not halved
