"""The assembly, on networks small enough to be computed by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gan_jax import latents, objectives, penalties, rules
from gan_jax.base import Network, Pair
from gan_jax.gan import Hypers, adam, adversarial, gan
from gan_jax.networks import dcgan, lowerings, mlp

KEY = jax.random.key(0)
LOG2 = np.log(2.0)


def linear(inputs, outputs, value):
    """X @ w with all weights `value`; its stats count the calls in train mode."""

    def apply(params, stats, x, *, label=None, train, key=None):
        out = x @ params["w"] + (0.0 if label is None else label[:, None])
        out = out[:, 0] if outputs == 1 else out
        return out, {"calls": stats["calls"] + train}

    return Network(lambda key: ({"w": jnp.full((inputs, outputs), value)}, {"calls": jnp.float32(0)}), apply)


def small(hyper=None, *, critic=0.5, classes=0, rule=None, **kwargs):
    return gan(
        Pair(linear(3, 2, 1.0), linear(2, 1, critic)),
        latents.normal(3),
        hyper=hyper or Hypers(rates=Pair(0.1, 0.2), beta1=0.0),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        rule=rule or (lambda hyper: rules.alternating(Pair(*(optax.sgd(rate) for rate in hyper.rates)))),
        classes=classes,
        **kwargs,
    )


def batch(n=4, count=1):
    return {"x": jax.random.normal(jax.random.key(9), (count, n, 2)), "label": jnp.zeros((count, n), jnp.int32)}


@pytest.mark.slow
def test_an_undecided_discriminator_has_the_losses_of_the_ideal_saddle():
    model = small(Hypers(rates=Pair(0.0, 0.0)), critic=0.0)
    _, metrics = model.step(model.hyper, KEY, model.init(model.hyper, KEY), batch())
    assert metrics["discriminator/loss"] == pytest.approx(2 * LOG2)
    assert metrics["generator/loss"] == pytest.approx(LOG2)
    assert (metrics["discriminator/real"], metrics["discriminator/fake"]) == (0.5, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["mlp", "dcgan"])
def test_real_networks_with_a_zero_head_start_at_the_ideal_saddle(pair):
    if pair == "mlp":
        networks = Pair(mlp.generator(5, (28, 28, 1), widths=(8,)), mlp.discriminator((28, 28, 1), widths=(8,)))
    else:
        networks = Pair(dcgan.generator(5, 28, 1, width=2), dcgan.discriminator(28, 1, width=2))
    made = Pair(*(network.init(KEY) for network in networks))
    params, stats = Pair(*(m[0] for m in made)), Pair(*(m[1] for m in made))
    params = params._replace(discriminator=jax.tree.map(jnp.zeros_like, params.discriminator))
    game = adversarial(networks, latents.normal(5), objectives.non_saturating())
    images = {"image": jnp.ones((4, 28, 28, 1))}
    assert game.losses.discriminator(params, stats, KEY, images)[0] == pytest.approx(2 * LOG2)
    assert game.losses.generator(params, stats, KEY, images)[0] == pytest.approx(LOG2)


def test_the_average_follows_parameters_and_statistics():
    decay = 0.6
    model = small(ema=decay)
    state = model.init(model.hyper, KEY)
    expected = jax.tree.map(np.asarray, (state.average.params, state.average.stats))
    for t in range(8):
        state, _ = model.step(model.hyper, jax.random.key(t), state, batch())
        weight = min(decay, (1 + t) / (10 + t))
        now = (state.point.params.generator, state.point.stats.generator)
        expected = jax.tree.map(lambda old, new, w=weight: w * old + (1 - w) * np.asarray(new), expected, now)
    assert weight == pytest.approx(8 / 17)  # the warm-up was met and the limit was not
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), tuple(state.average), expected)
    assert float(state.average.stats["calls"]) > 0
    assert state.steps == 8
    held = jax.tree.map(jnp.copy, state)
    constant = gan_with_ema_zero = small(ema=0.0)
    state, _ = constant.step(gan_with_ema_zero.hyper, KEY, held, batch())
    jax.tree.map(np.testing.assert_array_equal, state.average.params, state.point.params.generator)


def test_samples_come_from_the_average_in_evaluation_mode():
    model = small()
    state = model.init(model.hyper, KEY)
    average = state.average._replace(params={"w": jnp.full((3, 2), 5.0)})
    z_key, _ = jax.random.split(KEY)
    expected = 5.0 * np.asarray(latents.normal(3)(z_key, 7)).sum(1, keepdims=True) * np.ones((1, 2))
    np.testing.assert_allclose(model.sample(KEY, state._replace(average=average), 7), expected, rtol=1e-5)


@pytest.mark.slow
def test_frames_go_from_one_latent_to_another_along_the_circle_at_one_label():
    model = small(classes=5)
    state = model.init(model.hyper, KEY)
    z_key, label_key = jax.random.split(KEY)
    z = np.asarray(latents.normal(3)(z_key, 8), np.float64).reshape(2, 4, 3)
    first, last = z[:, 0], z[:, -1]
    angle = np.arccos((first * last).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(last, axis=1))
    third, two = (np.sin(share * angle)[:, None] / np.sin(angle)[:, None] for share in (1 / 3, 2 / 3))
    path = np.stack([first, two * first + third * last, third * first + two * last, last], axis=1)
    labels = np.asarray(jax.random.randint(label_key, (2,), 0, 5))
    state = state._replace(average=state.average._replace(params={"w": jnp.ones((3, 2))}))
    expected = path.sum(-1) + labels[:, None]
    np.testing.assert_allclose(model.sample(KEY, state, 8, frames=4)[:, 0], expected.ravel(), rtol=1e-4)
    with pytest.raises(ValueError, match="9 samples are no whole number of rows of 4: give a multiple of 4"):
        model.sample(KEY, state, 9, frames=4)


@pytest.mark.slow
def test_labels_reach_both_networks_only_when_they_are_asked_for():
    plain, conditional = small(), small(classes=5)
    state = plain.init(plain.hyper, KEY)
    label = jnp.array([4, 4, 4])
    difference = conditional.sample(KEY, state, 3, label) - plain.sample(KEY, state, 3)
    np.testing.assert_allclose(difference, 4.0, rtol=1e-5)  # the linear network adds its label
    np.testing.assert_array_equal(conditional.sample(KEY, state, 3, 4), conditional.sample(KEY, state, 3, label))
    ones = {**batch(), "label": jnp.full((1, 4), 2)}
    moved = [model.step(model.hyper, KEY, state, ones)[1]["discriminator/real"] for model in (plain, conditional)]
    assert moved[1] > moved[0]  # +2 on every logit
    with pytest.raises(ValueError, match="label 3 .* unconditional"):
        plain.sample(KEY, state, 3, 3)
    with pytest.raises(ValueError, match=r"label 5 .* 0\.\.\.4"):
        conditional.sample(KEY, state, 3, 5)


def test_without_a_label_a_conditional_gan_draws_all_of_them():
    model = small(classes=3)
    state = model.init(model.hyper, KEY)
    z_key, _ = jax.random.split(KEY)
    base = np.asarray(latents.normal(3)(z_key, 60)).sum(1)
    labels = np.asarray(model.sample(KEY, state, 60))[:, 0] - base
    assert set(np.round(labels).astype(int)) == {0, 1, 2}


def test_the_penalty_sees_its_losses_fakes():
    seen = []

    def spy(key, critic, real, fake):
        seen.append(np.asarray(fake))
        return jnp.sum(jnp.square(fake), axis=1)

    networks = Pair(linear(3, 2, 1.0), linear(2, 1, 0.5))
    game = adversarial(networks, latents.normal(3), objectives.wasserstein(), spy)
    made = Pair(*(network.init(KEY) for network in networks))
    params, stats = Pair(*(m[0] for m in made)), Pair(*(m[1] for m in made))
    data = {"x": jnp.zeros((4, 2))}
    loss, _ = game.losses.discriminator(params, stats, KEY, data)
    game.penalties.discriminator(params, stats, KEY, data)
    # Wasserstein's loss on zero data is the mean logit of the fakes: ½ of the sum of each.
    assert loss == pytest.approx(0.5 * seen[0].sum(1).mean(), rel=1e-5)


def test_a_penalty_enters_the_step_with_its_weight():
    def penalised(weight):
        model = small(Hypers(rates=Pair(0.0, 1.0), penalty=weight), penalty=lambda hyper: penalties.r1(hyper.penalty))
        state, metrics = model.step(model.hyper, KEY, model.init(model.hyper, KEY), batch())
        return np.asarray(state.point.params.discriminator["w"]), metrics

    (without, _), (with_it, metrics) = penalised(0.0), penalised(3.0)
    # R1 of a linear critic is (γ/2)|w|², of slope γw with w = ½.
    np.testing.assert_allclose(without - with_it, 1.5 * np.ones((2, 1)), rtol=1e-5)
    assert metrics["discriminator/penalty"] == pytest.approx(0.75)


@pytest.mark.slow
def test_every_hyperparameter_is_read_from_hyper_alone():
    """A step's outcome is differentiable in each number, so nothing was fixed when the GAN was assembled."""
    model = gan(
        Pair(linear(3, 2, 1.0), linear(2, 1, 0.5)),
        latents.normal(3),
        hyper=Hypers(rates=Pair(0.1, 0.1), beta1=0.5, penalty=1.0, smoothing=0.1),
        objective=lambda hyper: objectives.non_saturating(hyper.smoothing),
        penalty=lambda hyper: penalties.r1(hyper.penalty),
        rule=lambda hyper: rules.alternating(Pair(*(optax.sgd(r, momentum=hyper.beta1) for r in hyper.rates))),
    )

    def outcome(hyper):
        state = model.init(hyper, KEY)
        for i in range(2):  # momentum acts from the second step on
            state, _ = model.step(hyper, jax.random.key(i), state, batch())
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(state.point.params))

    slopes = jax.grad(outcome)(jax.tree.map(jnp.float32, model.hyper))
    assert all(np.isfinite(leaf) and leaf != 0 for leaf in jax.tree.leaves(slopes))


def test_as_a_learner_it_is_the_same_gan():
    model = small()
    learner = model.learner(lambda hyper, key, state, batch: jnp.float32(0))
    state = learner.init(learner.hyper, KEY)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, learner.get_params(state))
    assert learner.get_params(learner.set_params(state, doubled)) is doubled
    mine, _ = learner.step(learner.hyper, KEY, state, batch())
    plain, _ = model.step(model.hyper, KEY, state, batch())
    jax.tree.map(np.testing.assert_array_equal, mine, plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(ema=1.0), "ema=1.0"),
        (lambda: adam(Hypers(rates=Pair(-1e-4, 1e-4))), "rate -0.0001"),
        (lambda: adam(Hypers(beta1=1.0)), "beta1=1.0"),
        (lambda: small(Hypers(smoothing=1.5)), "smoothing=1.5"),
        (lambda: small(Hypers(rates=Pair(0.1, -0.1)), rule=lambda h: rules.alternating(adam(h))), "rate -0.1"),
    ],
)
def test_numbers_out_of_range_are_refused_when_assembled(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.slow
def test_a_packed_critic_judges_whole_packs():
    """On a linear critic of packs of two, w applied to each member: a pack's logit is the sum of its members'."""
    networks, seen = Pair(linear(3, 2, 1.0), None), []

    def apply(params, stats, x, *, label=None, train, key=None):
        seen.append(x)
        return jnp.sum(x @ params["w"], axis=(1, 2)), stats

    critic = Network(lambda key: ({"w": jnp.array([[0.5], [-2.0]])}, {}), apply)
    game = adversarial(networks._replace(discriminator=critic), latents.normal(3), objectives.wasserstein(), pack=2)
    params, stats = (Pair(networks.generator.init(KEY)[i], critic.init(KEY)[i]) for i in range(2))
    data = {"x": jax.random.normal(KEY, (6, 2))}
    loss, _ = game.losses.discriminator(params, stats, KEY, data)
    real, fake = seen
    assert real.shape == fake.shape == (3, 2, 2)
    np.testing.assert_array_equal(real.reshape(6, 2), data["x"])
    w = np.array([0.5, -2.0])
    expected = (np.asarray(fake) @ w).sum(axis=1).mean() - (np.asarray(real) @ w).sum(axis=1).mean()
    assert loss == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="a batch of 5 is no whole number of packs of 2"):
        game.losses.discriminator(params, stats, KEY, {"x": jnp.ones((5, 2))})


@pytest.mark.parametrize(
    ("axes", "width", "message"),
    [
        (1, 2, r"the discriminator gives \[6, 1\] for 6 examples: give logits \[B\]"),
        (0, 3, r"the generator gives \[6, 2\] where the data are \[6, 3\]: give one shape"),
    ],
)
def test_networks_that_do_not_fit_are_refused(axes, width, message):
    critic = Network(lambda key: ({}, {}), lambda params, stats, x, **_: (x[:, :axes] if axes else x[:, 0], stats))
    generator = linear(3, 2, 1.0)
    game = adversarial(Pair(generator, critic), latents.normal(3), objectives.wasserstein())
    params, stats = (Pair(mine, {}) for mine in generator.init(KEY))
    for loss in game.losses:
        with pytest.raises(ValueError, match=message):
            loss(params, stats, KEY, {"x": jnp.ones((6, width))})


@pytest.mark.parametrize("pack", [0, -1, 1.5, True])
def test_a_pack_that_is_not_whole_and_positive_is_refused(pack):
    with pytest.raises(ValueError, match=f"pack={pack!r}"):
        small(pack=pack)


def test_a_conditional_gan_does_not_pack():
    with pytest.raises(ValueError, match="pack=2 with classes=3"):
        small(pack=2, classes=3)


def test_real_and_fake_are_augmented_apart_before_the_critic_and_its_penalty_see_them():
    """An augmentation that adds one shows in both means; noise differs between real and fake; gradients pass."""
    penalised = []

    def spy(key, critic, real, fake):
        penalised.append((real, fake))
        return jnp.zeros(real.shape[0])

    def losses(augment):
        networks = Pair(linear(3, 2, 1.0), linear(2, 1, 0.5))
        game = adversarial(networks, latents.normal(3), objectives.wasserstein(), spy, augment=augment)
        params, stats = (Pair(*(network.init(KEY)[i] for network in networks)) for i in range(2))
        game.penalties.discriminator(params, stats, KEY, {"x": jnp.zeros((4, 2))})
        return jax.grad(lambda params: game.losses.generator(params, stats, KEY, {"x": jnp.zeros((4, 2))})[0])(params)

    plain, shifted = losses(None), losses(lambda key, x: 3.0 * x + 1.0)
    (real, fake), (shifted_real, shifted_fake) = penalised
    np.testing.assert_array_equal(shifted_real, 3.0 * real + 1.0)
    np.testing.assert_allclose(shifted_fake, 3.0 * fake + 1.0, rtol=1e-6)
    np.testing.assert_allclose(shifted.generator["w"], 3.0 * plain.generator["w"], rtol=1e-5)
    losses(lambda key, x: x + jax.random.normal(key, x.shape))
    noisy_real, noisy_fake = penalised[-1]
    assert not np.allclose(noisy_real - real, noisy_fake - fake)


@pytest.mark.slow
@pytest.mark.parametrize("name", objectives.OBJECTIVES)
def test_permuting_real_fake_and_their_draws_together_changes_nothing(name):
    """The i-th fake comes of the i-th latent: as long as pairs stay together, their order is no matter."""
    z, x, order = (
        jax.random.normal(KEY, (6, 3)),
        jax.random.normal(jax.random.key(1), (6, 2)),
        jnp.array([3, 0, 5, 1, 4, 2]),
    )
    penalty = penalties.total(penalties.r1(0.7), penalties.r2(0.3))
    networks = Pair(mlp.generator(3, (2,), widths=(8,)), mlp.discriminator((2,), widths=(8,), dropout=0.0))
    params, stats = (Pair(*(network.init(KEY)[i] for network in networks)) for i in range(2))

    def values(z, x):
        game = adversarial(networks, lambda key, n: z, objectives.OBJECTIVES[name](), penalty)
        terms = (*game.losses, game.penalties.discriminator)
        return [jax.value_and_grad(lambda p, term=term: term(p, stats, KEY, {"x": x})[0])(params) for term in terms]

    for plain, permuted in zip(*map(jax.tree.leaves, (values(z, x), values(z[order], x[order]))), strict=True):
        np.testing.assert_allclose(permuted, plain, rtol=1e-4, atol=1e-6)
    if name == "relativistic":  # which pairs, alone matters
        repaired = jax.tree.leaves(values(z, x[order]))
        assert not np.allclose(repaired[0], jax.tree.leaves(values(z, x))[0], rtol=1e-4)


def test_an_augmentation_is_made_of_the_hyperparameters():
    model = small(Hypers(rates=Pair(0.1, 0.1), smoothing=0.5), augment=lambda hyper: lambda key, x: x + hyper.smoothing)
    slope = jax.grad(
        lambda shift: model.game(model.hyper._replace(smoothing=shift)).losses.generator(
            *model.init(model.hyper, KEY).point[:2], KEY, jax.tree.map(lambda x: x[0], batch())
        )[0]
    )(0.25)
    assert slope != 0


@pytest.mark.slow
@pytest.mark.parametrize(
    # At how many points there are gradients; how often fakes are made at each, and the discriminator judges, forwards.
    ("rule", "points", "made", "judged"),
    [
        (rules.alternating, 1, 2, 3),  # real and fake, and fake again once it has moved
        (partial(rules.alternating, reuse=True), 1, 1, 3),
        (rules.simultaneous, 1, 2, 3),  # other fakes for each
        (partial(rules.simultaneous, reuse=True), 1, 1, 2),
        (rules.optimistic, 1, 2, 3),
        (partial(rules.optimistic, reuse=True), 1, 1, 2),
        (rules.extragradient, 2, 2, 3),
        (partial(rules.extragradient, reuse=True), 2, 1, 2),
    ],
)
def test_what_both_players_need_is_computed_once(rule, points, made, judged):
    """The generator is differentiated in one move and not in the other; the compiler still sees that it is the same."""
    lowering = lowerings.xla()
    model = gan(
        Pair(
            dcgan.generator(2, 28, 1, width=2, lowering=lowering),
            dcgan.discriminator(28, 1, width=2, lowering=lowering),
        ),
        latents.normal(2),
        hyper=Hypers(rates=Pair(1e-3, 1e-3)),
        objective=lambda hyper: objectives.non_saturating(),
        rule=lambda hyper: rule(adam(hyper)),
    )
    key = jax.random.key(0)
    state = jax.eval_shape(partial(model.init, model.hyper), key)
    batch = {"image": jax.ShapeDtypeStruct((1, 4, 28, 28, 1), jnp.float32)}
    text = jax.jit(partial(model.step, model.hyper)).lower(key, state, batch).compile().as_text()
    ups, downs = 2, 2
    forward = made * ups + judged * downs
    # Each layer's gradient of its kernel, and of its images but where those are data, or latents.
    backward = 2 * (2 * downs - 1) + downs + 2 * ups
    assert text.count(" convolution(") == points * (forward + backward)
