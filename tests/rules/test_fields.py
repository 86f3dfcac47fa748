"""What is common to the rules that differentiate through the other player."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Game, Pair, Point
from gan_jax.rules.competitive import competitive
from gan_jax.rules.consensus import consensus
from gan_jax.rules.symplectic import symplectic
from gan_jax.rules.unrolled import unrolled
from tests.rules.quadratics import KEY, Quadratic, game, place, random, sgd, start

PLAIN = {
    "consensus": lambda rates, **options: consensus(rates, 0.5, **options),
    "symplectic": symplectic,
    "aligned": lambda rates, **options: symplectic(rates, align=True, **options),
    "competitive": competitive,
}
RULES = PLAIN | {"unrolled": lambda rates, **options: unrolled(sgd(rates), unroll=2, **options)}
SHAPE = (2, 3)
of_rules = pytest.mark.parametrize("name", RULES)


def example(seed=0):
    return jax.tree.map(jnp.float32, random(seed, SHAPE)), jnp.float32(place(seed, SHAPE))


@of_rules
def test_a_fixed_point_stays_and_a_zero_rate_moves_nothing(name):
    quadratic, w = example()

    @jax.jit
    def moved(rates, scene, at):
        rule = RULES[name](rates)
        return rule.step(game(scene), KEY, start(rule, at, SHAPE), {})[0].params

    centred = quadratic._replace(offsets=Pair(jnp.zeros(5), jnp.zeros(5)))
    for rates, scene, at in ((Pair(0.3, 0.2), centred, jnp.zeros(5)), (Pair(0.0, 0.0), quadratic, w)):
        np.testing.assert_array_equal(jnp.concatenate(moved(rates, scene, at)), at)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("lazy", [1, 3])
def test_a_lazy_penalty_belongs_to_the_losses_every_nth_step_n_times(name, lazy):
    quadratic, w = example()
    penalty = Pair(random(5, SHAPE).matrices.generator, random(5, SHAPE).offsets.generator)
    rule, whole = PLAIN[name](Pair(0.1, 0.05), lazy=lazy), PLAIN[name](Pair(0.1, 0.05))
    step = jax.jit(lambda point: rule.step(game(quadratic, penalty), KEY, point, {}))

    @jax.jit
    def folded(point, scale):
        added = jax.tree.map(lambda mine, more: mine + scale * more, (quadratic[0][1], quadratic[1][1]), tuple(penalty))
        scene = Quadratic(Pair(quadratic[0][0], added[0]), Pair(quadratic[1][0], added[1]))
        return whole.step(game(scene), KEY, point, {})

    point = start(rule, w, SHAPE)
    for count in range(4):
        scale = lazy if count % lazy == 0 else 0
        expected, _ = folded(point, float(scale))
        here = jnp.concatenate(point.params)
        point, metrics = step(point)
        jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, rtol=1e-4, atol=1e-5), point, expected)
        value = here @ (penalty.generator @ here) / 2 + penalty.discriminator @ here
        np.testing.assert_allclose(metrics["discriminator/penalty"], scale * value, rtol=1e-4)
        assert {"generator/loss", "discriminator/loss"} < set(metrics)
    assert point.rule.count == Pair(4, 4)


def recording_game(note):
    """Each player's loss is its parameter times its own random number and the batch's; stats and `note` record them."""

    def loss(player):
        def value(params, stats, key, batch):
            note(player, key)
            seen = stats._replace(generator=batch["x"] * 10, discriminator=batch["x"] * 100)
            return getattr(params, player) * batch["x"], (seen, {player: batch["x"]})

        return value

    return Game(Pair(*map(loss, Pair._fields)), Pair(*map(loss, Pair._fields)))


@of_rules
def test_each_player_has_its_own_stats_and_its_own_key_which_its_penalty_shares(name):
    keys = {player: set() for player in Pair._fields}
    rule = RULES[name](Pair(0.1, 0.1))
    assert rule.batches == 1
    params = Pair(jnp.float32(1), jnp.float32(2))
    point = Point(params, Pair(jnp.float32(0), jnp.float32(0)), rule.init(params))
    scene = recording_game(lambda player, key: keys[player].add(tuple(jax.random.key_data(key).tolist())))
    point, metrics = rule.step(scene, jax.random.key(3), point, {"x": jnp.full(1, 2.0)})
    assert point.stats == Pair(20.0, 200.0)
    assert metrics == {"generator": 2.0, "discriminator": 2.0}
    # The keys of `simultaneous`, so that its runs are compared on the same fakes.
    expected = [{tuple(jax.random.key_data(jax.random.fold_in(jax.random.key(3), index)).tolist())} for index in (0, 1)]
    assert [keys["generator"], keys["discriminator"]] == expected


@of_rules
def test_a_stream_of_another_number_of_batches_is_refused(name):
    rule = RULES[name](Pair(0.1, 0.1))
    params = Pair(jnp.float32(1), jnp.float32(2))
    point = Point(params, Pair(jnp.float32(0), jnp.float32(0)), rule.init(params))
    with pytest.raises(AssertionError, match="prefix"):
        rule.step(recording_game(lambda *_: None), KEY, point, {"x": jnp.ones(2)})


@of_rules
def test_any_pytree_of_any_precision_will_do(name):
    quadratic, w = example()

    def flat(params):
        theta, phi = params
        return Pair(
            jnp.stack([theta["gain"], theta["bias"][0]]),
            jnp.concatenate([phi[0].astype(jnp.float32), phi[1].ravel()]),
        )

    def bent(loss):
        return lambda params, stats, key, batch: loss(flat(params), stats, key, batch)

    # Rates that are wider than a leaf, as learnt ones are.
    rule = RULES[name](Pair(jnp.float32(0.1), jnp.float32(0.2)))
    step = jax.jit(lambda point, scene: rule.step(scene, KEY, point, {})[0], static_argnums=1)
    straight = step(start(rule, w, SHAPE), game(quadratic))
    params = Pair({"gain": w[0], "bias": w[1:2]}, (w[2:3].astype(jnp.float16), w[3:].reshape(2, 1)))
    point = Point(params, Pair({}, {}), rule.init(params))
    point = step(point, Game(Pair(*map(bent, game(quadratic).losses))))
    assert jax.tree.map(jnp.result_type, point.params) == jax.tree.map(jnp.result_type, params)
    for one, other in zip(flat(point.params), straight.params, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-2)  # of half precision


@pytest.mark.slow
@of_rules
def test_it_is_transparent_to_jit_vmap_and_grad_by_traced_rates(name):
    quadratic, w = example()

    @jax.jit
    def moved(rate):
        rule = RULES[name](Pair(rate, rate / 2))
        return jnp.concatenate(rule.step(game(quadratic), KEY, start(rule, w, SHAPE), {})[0].params)

    def batched(rate):
        return moved(rate), jax.jacrev(moved)(rate)

    rates = jnp.array([0.099, 0.1, 0.101])
    (below, here, above), (_, slope, _) = jax.jit(jax.vmap(batched))(rates)
    np.testing.assert_allclose(here, moved(rates[1]), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slope, (above - below) / 2e-3, rtol=2e-2, atol=2e-2)
