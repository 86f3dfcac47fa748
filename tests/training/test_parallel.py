"""One step on any number of devices: here what one device shows; `eight_devices` is run in a process that has them."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AbstractMesh

from gan_jax import rules
from gan_jax.base import Batches, Game, Pair, Point, Program, Task
from gan_jax.rules import PLAIN_RULES, RULES
from gan_jax.training import loop, parallel
from gan_jax.training.parallel import AXIS
from tests.training.gans import program

KEY = jax.random.key(2)
FOUR = AbstractMesh((4,), (AXIS,))
ROOT = Path(__file__).parents[2]


def eight_devices(marks):
    """Run the file of that name, without this process's devices."""
    words = ["-m", "pytest", "-q", "-p", "no:xdist", "-m", marks, "tests/training/eight_devices.py"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]


@pytest.mark.slow
def test_what_needs_eight_devices():
    eight_devices("not full")


@pytest.mark.full
def test_what_needs_eight_devices_and_time():
    eight_devices("full")


# A game whose losses are means over the batch, of no randomness: shares of it average to the whole.


def losses():
    def value(index, player):
        def loss(params, stats, key, batch):
            x = batch["x"] @ params.generator["w"]  # [B]
            y = jnp.sin(batch["x"]) @ params.discriminator
            each = jnp.square(x) / 2 + (-1) ** index * x * jnp.tanh(y) + index * jnp.square(y)
            new = Pair(*(0.9 * mine + batch["x"].mean() for mine in stats))
            return each.mean(), (new, {f"{player}/loss": each.mean()})

        return loss

    def penalty(params, stats, key, batch):
        return jnp.mean(jnp.square(batch["x"] @ params.discriminator)), (stats, {})

    return Game(Pair(value(0, "generator"), value(1, "discriminator")), Pair(None, penalty))


def rule(name):
    rates = Pair(0.1, 0.05)
    return RULES[name](Pair(*map(optax.sgd, rates))) if name in RULES else PLAIN_RULES[name](rates)


def start(rule, seed):
    w, y = jax.random.normal(jax.random.key(seed), (2, 3))
    params = Pair({"w": w}, y)
    return Point(params, Pair(jnp.zeros(()), jnp.zeros(())), rule.init(params))


def batch(rule, seed, size=8):
    return {"x": jax.random.normal(jax.random.key(seed + 1), (rule.batches, size, 3))}


def close(left, right, rtol=2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-6), left, right)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*RULES, *PLAIN_RULES])
def test_every_rule_on_shares_makes_the_step_of_the_whole_batch(name):
    """Those that differentiate gradients too, forwards and backwards: their products are means over devices."""
    made, game = rule(name), losses()
    shared = game._replace(axis_name=AXIS)

    @jax.jit
    def steps(seed):
        point, data = start(made, seed), batch(made, seed)
        shares = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], 4, 2, 3), data)
        for _ in range(2):  # the second has a past
            point, _ = made.step(game, KEY, point, data)
        own = start(made, seed)
        for _ in range(2):
            own, _ = jax.vmap(
                lambda point, share: made.step(shared, KEY, point, share),
                in_axes=(None, 1),
                out_axes=None,
                axis_name=AXIS,
            )(own, shares)
        return point, own

    for seed in (0, 5):
        close(*steps(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simultaneous", "alternating", "optimistic", "consensus"])
def test_a_rule_on_slices_makes_the_step_of_the_whole_batch(name):
    made, game = rule(name), losses()
    point, data = start(made, 3), batch(made, 3)
    step = jax.jit(made.step, static_argnums=0)
    whole, metrics = step(game, KEY, point, data)
    sliced, also = step(game._replace(slices=4), KEY, point, data)
    close((whole, metrics), (sliced, also))


def test_slices_that_cannot_be_are_refused():
    game = losses()._replace(slices=3)
    made = rule("simultaneous")
    with pytest.raises(ValueError, match="a batch of 8 is no whole number of slices: 3 do not divide it"):
        made.step(game, KEY, start(made, 0), batch(made, 0))
    unrolled = rules.unrolled(Pair(optax.sgd(0.1), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="cuts it into 3: take 1 slice"):
        unrolled.step(game, KEY, start(unrolled, 0), batch(unrolled, 0))
    for wrong in (0, 2.0):
        with pytest.raises(ValueError, match="slices"):
            program(slices=wrong)


@pytest.mark.slow
def test_slices_are_shares_that_come_one_after_another():
    """The same keys too: latents and dropout of slice i are those of device i."""
    options = {"penalty": False, "d_steps": 1}
    sliced = loop.train(program(slices=4, **options), KEY, steps=3).state
    view = parallel.per_device(program(axis_name=AXIS, **options), FOUR, executor="vmap")
    shared = loop.train(view, KEY, steps=3).state
    close(sliced, shared, rtol=1e-4)


@pytest.mark.slow
def test_a_forgotten_average_is_caught_while_tracing():
    made = program(penalty=False, d_steps=1)
    with pytest.raises(ValueError, match="differ from device to device: build networks and GAN with axis_name='data'"):
        loop.check(parallel.per_device(made, FOUR, executor="vmap"), KEY)
    batch_norm = program("maxout", penalty=False, d_steps=1, axis_name=AXIS)
    loop.check(parallel.per_device(batch_norm, FOUR, executor="vmap"), KEY)


def test_a_batch_that_the_shards_do_not_divide_is_refused():
    view = parallel.per_device(program(batch=10, axis_name=AXIS), FOUR, executor="vmap")
    with pytest.raises(ValueError, match="10 examples cannot be divided over 4 devices: take a multiple of 4"):
        loop.check(view, KEY)
    with pytest.raises(ValueError, match="unknown executor 'tmap': there is shard_map, pmap, vmap"):
        parallel.per_device(program(), FOUR, executor="tmap")


@pytest.mark.slow
def test_what_was_built_for_an_axis_can_be_probed_outside_of_it():
    """Diagnostics play a program's game on one device: its batch normalisation needs no axis then."""
    own, plain = (program("maxout", penalty=False, d_steps=1, axis_name=name) for name in (AXIS, None))
    view = parallel.per_device(own, FOUR, executor="vmap")
    state = loop.init(plain, KEY)
    data = {"x": jax.random.normal(KEY, (8, 2))}
    played = []
    for made in (view, plain):
        game, point = made.game(state)
        assert game.axis_name is None
        played.append([jax.jit(loss)(point.params, point.stats, KEY, data)[0] for loss in game.losses])
    np.testing.assert_allclose(*played, rtol=1e-6)


@pytest.mark.parametrize("batch", [{"x": jnp.zeros((1, 4, 2))}, Task({"x": jnp.zeros((4, 3, 2))}, {})])
def test_a_step_knows_the_mesh_unless_it_is_given_tasks(batch):
    """Tasks are divided as wholes: a GAN within one must not divide its latents once more."""
    seen = []

    def step(key, state, batch):
        seen.append(jax.sharding.get_abstract_mesh().axis_names)
        return state, {}

    made = Program(lambda key: jnp.zeros(()), step, Batches({}, lambda arrays, key, step: batch), lambda *_: {})
    loop.check(parallel.global_view(made, parallel.mesh(jax.devices()[:1])), KEY)
    assert seen == [() if isinstance(batch, Task) else (AXIS,)]


@given(seed=st.integers(0, 2**32 - 1))
def test_large_leaves_are_divided_along_their_largest_axis_that_allows_it(seed):
    rng = np.random.default_rng(seed)
    leaf = jax.ShapeDtypeStruct(tuple(rng.choice([1, 3, 8, 16, 24, 100], rng.integers(0, 5))), jnp.float32)
    mesh = AbstractMesh((8,), (AXIS,))
    spec = parallel.layout(leaf, mesh, fully_sharded=True).spec
    divisible = [size for size in leaf.shape if size % 8 == 0]
    if leaf.size < parallel.SMALLEST_SHARDED or not divisible:
        assert spec == jax.sharding.PartitionSpec()
    else:
        assert spec[-1] == AXIS and leaf.shape[len(spec) - 1] == max(divisible)
    assert parallel.layout(leaf, mesh).spec == jax.sharding.PartitionSpec()
