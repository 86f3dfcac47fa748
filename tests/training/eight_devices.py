"""What needs eight devices: run by test_parallel in a process of its own, which has them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gan_jax
from gan_jax import cli
from gan_jax.augment import compose, instance_noise, translation
from gan_jax.base import Batches, Continue, Hook, Program
from gan_jax.data import images
from gan_jax.meta import inner, tasks
from gan_jax.meta.maml import maml
from gan_jax.training import loop, parallel, plan
from gan_jax.training.checkpoints import Checkpoints
from tests.meta.quadratic import quadratic
from tests.training.gans import FAMILIES, program
from tests.training.toy import same, toy

KEY = jax.random.key(4)
EXECUTORS = ("vmap", "shard_map", "pmap")
SINGLE = 1e-4  # after 20 steps in float32

OPTIMISERS = ("adam", "sgd")

full = pytest.mark.full


def devices(count):
    return parallel.mesh(jax.devices()[:count])


def meta():
    """MAML on quadratics, two differentiated steps on each of sixteen tasks."""
    learned = maml(quadratic(), optax.adam(0.1), steps=2, feed=inner.whole())
    stream = tasks.batches(tasks.blobs(4, 4), 16)
    return Program(learned.init, learned.meta_step, stream, lambda key, state: {})


META = meta()
META_ON_EIGHT = parallel.global_view(META, devices(8))


def train(made, steps=20, chunk=1):
    return loop.train(made, KEY, steps=steps, chunk=chunk).state


def apart(left, right):
    """The largest difference of two states; of keys, whether they differ."""

    def numbers(leaf):
        return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    pairs = zip(*(jax.tree.leaves(jax.device_get(jax.tree.map(numbers, tree))) for tree in (left, right)), strict=True)
    return max(float(np.max(np.abs(np.float64(a) - np.float64(b)), initial=0)) for a, b in pairs)


def moved(made, state):
    return apart(loop.init(made, KEY).point.params, state.point.params)


def compiled(made):
    """The text of a step's compiled program, and its operations on one device."""
    key, state, arrays, step = loop._settled((KEY, loop.init(made, KEY), made.batches.arrays, np.int32(0)))
    whole = loop.compile_chunk(made, 1).lower(key, state, arrays, step).compile()
    return whole.as_text(), whole.cost_analysis()["flops"]


def reductions(text):
    return len(re.findall(r" all-reduce(?:-start)?\(", text))


def replicas(state):
    """The bits of each leaf on each device that has all of it."""
    return [[bytes(np.asarray(shard.data)) for shard in leaf.addressable_shards] for leaf in jax.tree.leaves(state)]


@pytest.mark.parametrize(
    ("family", "optimiser", "counts"),
    [
        ("mlp", "adam", (8,)),
        *(pytest.param(family, optimiser, (1, 2, 8), marks=full) for family in FAMILIES for optimiser in OPTIMISERS),
    ],
)
def test_any_number_of_devices_computes_the_same_run(family, optimiser, counts):
    """Latents, dropout, batch and spectral normalisation, R1, two discriminator steps: one global step."""
    with jax.enable_x64(True):
        made = program(family, optimiser=optimiser, dtype=jnp.float64)
        alone = train(made)
        assert moved(made, alone) > 1e-3
        for count in counts:
            state = train(parallel.global_view(made, devices(count)))
            assert apart(alone, state) < 1e-10
            for bits in replicas(state):
                assert len(bits) == count and len(set(bits)) == 1


@full
@pytest.mark.parametrize(("family", "optimiser"), [("mlp", "adam"), *((family, "sgd") for family in FAMILIES)])
def test_single_precision_is_the_same_run_within_a_bound(family, optimiser):
    """With augmentation, in chunks that are scans.

    A bias before batch normalisation has no slope but its rounding, along which Adam makes steps of full length: with
    it, only what has no such bias is compared.
    """
    augment = compose(translation(), instance_noise()) if family in ("dcgan", "resnet") else instance_noise()
    made = program(family, optimiser=optimiser, augment=augment)
    alone = train(made, chunk=5)
    assert moved(made, alone) > 1e-3
    for count in (2, 8):
        assert apart(alone, train(parallel.global_view(made, devices(count)), chunk=5)) < SINGLE


@pytest.mark.parametrize(
    ("family", "optimiser", "executors", "options"),
    [
        ("maxout", "sgd", EXECUTORS[:2], {"penalty": False, "d_steps": 1}),
        *(pytest.param(family, name, EXECUTORS, {}, marks=full) for family in FAMILIES for name in OPTIMISERS),
    ],
)
def test_the_executors_of_the_per_device_form_agree(family, optimiser, executors, options):
    with jax.enable_x64(True):
        made = program(family, optimiser=optimiser, dtype=jnp.float64, axis_name=parallel.AXIS, **options)
        oracle, *states = (train(parallel.per_device(made, devices(8), executor=executor)) for executor in executors)
        assert moved(made, oracle) > 1e-3
        for state in states:
            assert apart(oracle, state) < 1e-10
            assert same(states[0], state)
            for bits in replicas(state):
                assert len(bits) == 8 and len(set(bits)) == 1


@pytest.mark.parametrize("form", ["per_device", pytest.param("global_view", marks=full)])
def test_each_move_of_a_player_is_one_collective(form):
    """The gradient, its statistics and its metrics are reduced together: two moves of the one, one of the other."""
    axis_name = parallel.AXIS if form == "per_device" else None
    made = program("mlp", penalty=False, d_steps=2, axis_name=axis_name)
    assert reductions(compiled(getattr(parallel, form)(made, devices(8)))[0]) == 3


def test_a_generator_step_alone_is_divided():
    """Its loss does not look at the batch, so nothing but the latents can say where it is computed."""
    made = program("mlp", d_steps=1, penalty=False, batch=64)
    game, point = made.game(loop.init(made, KEY))
    batch = {"x": jnp.zeros((64, 2))}
    mesh = devices(8)

    def slope(params):
        def loss(mine):
            return game.losses.generator(params._replace(generator=mine), point.stats, KEY, batch)[0]

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return jax.grad(loss)(params.generator)

    place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    one, eight = (
        jax.jit(slope).lower(params).compile().cost_analysis()["flops"]
        for params in (point.params, jax.device_put(point.params, place))
    )
    assert eight < one / 4


def test_a_state_of_every_kind_of_leaf_trains_on_all_devices():
    """Integers, booleans, keys, an empty leaf, bfloat16; in chunks that are scans."""
    made = toy(chunk=2)
    alone = train(made, steps=6, chunk=2)
    state = train(parallel.global_view(made, devices(4)), steps=6, chunk=2)
    assert jax.tree.structure(alone) == jax.tree.structure(state)
    assert apart(alone, state) < 1e-6


@full
def test_a_divided_state_is_the_same_run_and_a_share_of_the_memory(monkeypatch):
    monkeypatch.setattr(parallel, "SMALLEST_SHARDED", 16)
    made = program("mlp", penalty=False, d_steps=1)
    seen = []

    def look(step, state, metrics):
        seen.append(jax.tree.map(jnp.copy, state))
        return Continue()

    view = parallel.global_view(made, devices(8), fully_sharded=True)
    state = loop.train(view, KEY, steps=20, hooks=[parallel.seeing_whole(Hook(20, look))]).state
    assert apart(train(made), state) < SINGLE
    for tree in (state.point.params, state.point.rule.optimisers.generator[0].mu, state.average.params):
        layers = getattr(tree, "generator", tree)["layers"]
        assert {shard.data.shape for shard in layers[0]["kernel"].addressable_shards} == {(3, 1)}
    assert apart(seen[0], state) == 0
    assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(seen[0]))


def test_divided_data_are_drawn_alike_and_only_the_batch_is_sent(monkeypatch):
    """61 rows on 8 devices, which do not divide them: 8 on each, the last 3 of which are nobody's."""
    monkeypatch.setattr(parallel, "SMALLEST_SHARDED", 16)
    pixels = np.random.default_rng(0).integers(0, 256, (61, 4, 4, 1), np.uint8)
    split = images.Split("train", pixels, np.arange(61, dtype=np.int32))
    made = program("mlp")._replace(batches=images.batches(split, 8))
    view = parallel.global_view(made, devices(8), fully_sharded=True)
    arrays, draw = view.batches
    assert {shard.data.shape for shard in arrays["image"].addressable_shards} == {(8, 16)}
    np.testing.assert_array_equal(np.asarray(arrays["image"])[:61], pixels.reshape(61, 16))
    for step in range(8):  # an epoch and the beginning of the next
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.jit(draw)(arrays, KEY, step),
            jax.jit(made.batches.draw)(made.batches.arrays, KEY, step),
        )
    text = jax.jit(draw).lower(arrays, KEY, 0).compile().as_text()
    assert sum(found.bytes for found in plan.collectives(text)) < 2 * 8 * 16


@pytest.mark.parametrize("fully_sharded", [pytest.param(False, marks=full), True])
def test_a_checkpoint_is_restored_on_another_number_of_devices(tmp_path, monkeypatch, fully_sharded):
    """Bit for bit; from there on a run on as many devices goes on exactly, and on others up to rounding."""
    monkeypatch.setattr(parallel, "SMALLEST_SHARDED", 2)
    made, options = toy(), {"fully_sharded": fully_sharded}
    four = parallel.global_view(made, devices(4), **options)
    state = train(four, steps=2)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(2, state)
    like = loop.abstract(made, KEY)
    whole = train(four, steps=4)
    for mesh in (None, devices(2), devices(4)):
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            target = like if mesh is None else parallel.placed(like, mesh, **options)
            restored = checkpoints.restore(target).state
        assert same(restored, state)
        view = made if mesh is None else parallel.global_view(made, mesh, **options)
        ended = loop.train(view, KEY, steps=4, start=(2, restored)).state
        assert apart(whole, ended) < 1e-5
    assert same(whole, ended)


def test_a_meta_step_with_its_tasks_divided_is_that_of_one_device():
    ends = [train(view, steps=5) for view in (META, META_ON_EIGHT)]
    assert apart(loop.init(META, KEY), ends[0]) > 0.1
    assert apart(*ends) < SINGLE


def test_a_meta_step_divides_its_tasks_and_its_gradient_is_one_collective():
    text, work = compiled(META_ON_EIGHT)
    assert work < compiled(META)[1] / 4
    assert reductions(text) <= 2


def test_batch_statistics_over_eight_devices_are_those_of_the_whole_batch():
    """Against NumPy: what a replica's own share says would be another mean, and a smaller variance."""
    from gan_jax.networks.layers import BatchNorm
    from gan_jax.networks.network import network

    class Norm(BatchNorm):
        def __call__(self, x, *, label, train, key):
            return super().__call__(x, label, train=train)

    x = jax.random.normal(KEY, (16, 3)) * jnp.array([[1.0, 5.0, 0.1]]) + jnp.arange(16.0)[:, None]
    net = network(lambda rngs: Norm(3, axis_name=parallel.AXIS, rngs=rngs))
    params, stats = net.init(KEY)
    spec = jax.sharding.PartitionSpec
    run = jax.shard_map(
        lambda x: net.apply(params, stats, x, train=True),
        mesh=devices(8),
        in_specs=spec(parallel.AXIS),
        out_specs=(spec(parallel.AXIS), spec()),
        check_vma=False,
    )
    out, new = jax.jit(run)(x)
    data = np.asarray(x, np.float64)
    mean, variance = data.mean(0), data.var(0)
    np.testing.assert_allclose(out, (data - mean) / np.sqrt(variance + 1e-5), atol=1e-4)
    np.testing.assert_allclose(new["normalise"]["mean"], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(new["normalise"]["var"], 0.9 + 0.1 * variance, rtol=1e-3)


def test_a_batch_that_the_devices_do_not_divide_is_refused():
    made = program("mlp", batch=12)
    for view in (
        parallel.global_view(made, devices(8)),
        parallel.per_device(program("mlp", batch=12, axis_name=parallel.AXIS), devices(8)),
    ):
        with pytest.raises(ValueError, match="a batch of 12 examples cannot be divided over 8 devices"):
            loop.check(view, KEY)
    meta = made._replace(batches=tasks.batches(tasks.sinusoids(4, 4), 3))
    with pytest.raises(ValueError, match="a batch of 3 tasks cannot be divided over 8 devices"):
        loop.check(parallel.global_view(meta, devices(8)), KEY)


@full
def test_members_train_on_a_mesh():
    made = program("mlp", penalty=False, d_steps=1)
    keys = jax.random.split(KEY, 2)
    together = loop.train(parallel.global_view(made, devices(8)), keys, steps=5).state
    assert apart(loop.train(made, keys, steps=5).state, together) < SINGLE


def test_members_are_divided_over_devices_and_have_nothing_to_say_to_each_other():
    made, mesh = program("mlp", penalty=False, d_steps=1), devices(8)
    keys = jax.vmap(jax.random.key)(jnp.arange(8, dtype=jnp.uint32))
    placed = jax.device_put(keys, NamedSharding(mesh, PartitionSpec(parallel.AXIS)))
    together = loop.train(made, placed, steps=3).state
    assert apart(loop.train(made, keys, steps=3).state, together) < 1e-6
    assert all(leaf.addressable_data(0).shape[0] == 1 for leaf in jax.tree.leaves(together))
    arguments = loop._settled((placed, loop.init(made, placed), made.batches.arrays, np.int32(0)))
    assert plan.collectives(loop.compile_chunk(made, 1).lower(*arguments).compile().as_text()) == ()


def test_the_command_says_what_the_devices_do_not_divide(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "ring", "--batch", "12", "--widths", "4", "--run", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: a batch of 12 examples cannot be divided over 8 devices")
    # A meta-learner's build has no axis: its tasks are divided, and not the examples of a step.
    assert cli.main(["train", "mixture_maml_gan", "--parallel", "shard_map", "--run", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --parallel shard_map: mixture_maml_gan does not say axis_name")
    assert not run.exists()


@full
@pytest.mark.parametrize("words", [[], ["--fully-sharded"], ["--parallel", "shard_map"]])
def test_the_command_trains_on_all_devices_and_resumes(tmp_path, words):
    run, whole = tmp_path / "run", tmp_path / "whole"
    every = ["--score-every", "2", "--probe-every", "2", "--picture-every", "2", "--checkpoint-every", "2"]
    train = ["train", "ring", "--widths", "64", "64", "--batch", "16", "--chunk", "2", *every, *words]
    assert cli.main([*train, "--steps", "4", "--run", str(run)]) == 0
    assert cli.main([*train[:2], *words, "--steps", "8", "--run", str(run), "--resume"]) == 0
    assert cli.main([*train, "--steps", "8", "--run", str(whole)]) == 0
    assert same(*(gan_jax.load(path).state for path in (run, whole)))
    assert gan_jax.load(run).sample(3).shape == (3, 2)


def test_a_key_for_each_device_is_the_same_under_every_executor():
    """What a device draws follows from the move's key and its place on the axis: no two draw alike."""
    mesh = devices(8)

    def step(key, state, batch):
        mine = jax.random.normal(jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS)), ())
        return jax.lax.all_gather(mine, parallel.AXIS), {}

    made = Program(
        lambda key: jnp.zeros(8),
        step,
        Batches({}, lambda arrays, key, i: {"x": jnp.zeros((1, 8))}),
        lambda key, state: {},
    )
    drawn = [
        jax.jit(parallel.per_device(made, mesh, executor=executor).step)(KEY, jnp.zeros(8), {"x": jnp.zeros((1, 8))})[0]
        for executor in EXECUTORS
    ]
    assert len(set(np.asarray(drawn[0]).tolist())) == 8
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)
