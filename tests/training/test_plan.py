"""Plans: what is read from a compiled step, against counting by hand. As a script, it plans on eight host devices."""

import json
import math
import os
import subprocess
import sys
from collections import deque
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Batches, Program
from gan_jax.cli import planning, process
from gan_jax.training import lookup, parallel
from gan_jax.training import plan as plans
from gan_jax.training.plan import FAMILIES, Chip, Collective, Plan, Times

ROOT = Path(__file__).parents[2]
TOY = str(Path(__file__).parents[1] / "experiment_file.py")
BATCH, ROWS, COLUMNS = 64, 96, 160
PARAMETERS = 8 * 4096

full = pytest.mark.full
needs_libtpu = pytest.mark.skipif(find_spec("libtpu") is None, reason="libtpu is not installed")


# Programs whose costs are known, planned on eight devices.


def program(shape, update, width):
    """A step that changes an array of a shape, given a batch of rows."""

    def draw(arrays, key, step):
        return {"x": arrays["x"][None, (jnp.arange(BATCH) + step) % (2 * BATCH)]}

    data = jnp.ones((2 * BATCH, width))
    return Program(
        init=lambda key: jnp.ones(shape),
        step=lambda key, state, batch: (update(state, batch["x"][0]), {}),
        batches=Batches({"x": data}, draw),
        observe=lambda key, state: {},
    )


def descent(size):
    """A step along the gradient of a mean over the batch."""
    loss = jax.grad(lambda w, x: jnp.mean(jnp.sum(jnp.sin(x * w), axis=1)))
    return program((1, size), lambda w, x: w - loss(w, x), size)


def product_of(times):
    """Matrix products, which cannot be left out, in a loop where there are several."""

    def update(w, x):
        def once(w, _):
            return w + jnp.max(x @ w), None

        return once(w, None)[0] if times == 1 else jax.lax.scan(once, w, None, length=times)[0]

    return program((ROWS, COLUMNS), update, ROWS)


PLANNED = {
    "gradient": (descent(PARAMETERS), {}),
    "divided": (descent(PARAMETERS), {"fully_sharded": True}),
    "product": (product_of(1), {}),
    "loop": (product_of(5), {}),
}


def script():
    mesh = parallel.mesh(plans.devices("cpu:8"))
    one = parallel.mesh(plans.devices("cpu:1"))
    found = {name: plans.plan(made, mesh, **options) for name, (made, options) in PLANNED.items()}
    found["alone"] = plans.plan(PLANNED["gradient"][0], one)
    print(json.dumps({name: each._asdict() for name, each in found.items()}))


@pytest.fixture(scope="module")
def planned():
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    words = [sys.executable, "-m", "tests.training.test_plan"]
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-4000:]

    def read(values):
        return Plan(**values | {"collectives": tuple(Collective(*each) for each in values["collectives"])})

    return {name: read(values) for name, values in json.loads(ended.stdout).items()}


@pytest.mark.slow
def test_a_gradient_is_one_all_reduce_of_its_size(planned):
    assert planned["gradient"].collectives == (Collective("all-reduce", 1, 4 * PARAMETERS),)
    assert planned["alone"].collectives == ()


def test_a_matrix_product_costs_two_operations_for_each_multiplication(planned):
    products = 2 * (BATCH // 8) * ROWS * COLUMNS
    others = ROWS * COLUMNS + BATCH * (ROWS + COLUMNS)  # additions, the largest, which rows are drawn
    assert products <= planned["product"].flops <= products + others
    assert planned["product"].images == BATCH and planned["product"].chips == 8


def test_what_a_loop_repeats_counts_once_and_is_told(planned):
    assert planned["loop"].loops == 1
    assert [planned[name].loops for name in ("gradient", "product", "alone")] == [0, 0, 0]
    assert planned["loop"].flops < 2 * planned["product"].flops
    assert "note: what loops repeat is counted once, and 1 of them hold" in plans.text(planned["loop"])
    assert "note:" not in plans.text(planned["product"])


def test_arguments_are_the_state_and_the_data(planned):
    step = 4  # bytes: the number of the step is an argument too
    for name, width, parameters in (
        ("gradient", PARAMETERS, PARAMETERS),
        ("alone", PARAMETERS, PARAMETERS),
        ("product", ROWS, ROWS * COLUMNS),
        ("divided", PARAMETERS, PARAMETERS // 8),
    ):
        one = planned[name]
        shares = 8 if name == "divided" else 1
        assert (one.state, one.data) == (4 * parameters, 4 * 2 * BATCH * width // shares)
        assert one.arguments == one.state + one.data + step
        assert one.outputs <= 128  # the state is donated
        assert plans.used(one) == one.arguments + one.outputs + one.temporaries + one.code
    assert planned["alone"].temporaries >= 4 * BATCH * PARAMETERS  # the batch, which eight devices divide
    assert planned["gradient"].temporaries < planned["alone"].temporaries / 4


def test_a_divided_state_is_gathered_and_a_batch_of_divided_data_is_summed(planned):
    """Each device has the rows of a batch that are its own, and zeros for the others'."""
    found = {each.kind: each for each in planned["divided"].collectives}
    which_rows = 4 * BATCH // 8
    gathered, reduced = found["all-gather"], found["all-reduce"]
    assert 4 * PARAMETERS // 8 <= gathered.bytes <= 4 * PARAMETERS // 8 + which_rows
    assert plans.sent(gathered, 8) == 7 * gathered.bytes
    assert reduced == Collective("all-reduce", 2, 4 * PARAMETERS + 4 * BATCH * PARAMETERS)


# Rooflines.


def costing(flops=0.0, traffic=0.0, collectives=(), **changes):
    blank = dict.fromkeys(("state", "data", "arguments", "outputs", "temporaries", "code", "loops", "hops"), 0)
    values = {"chips": 4, "images": 8, "parameters": None, "optimal": None, "seconds": 1.0, **blank}
    return Plan(**values | {"flops": flops, "bytes": traffic, "collectives": collectives} | changes)


CHIP = Chip(flops=1000.0, hbm=500.0, hbm_bandwidth=100.0, ici_bandwidth=10.0)


def test_the_roofline_is_the_largest_of_three_times_and_names_it():
    reduced = (Collective("all-reduce", 3, 20), Collective("collective-permute", 1, 5))
    # Of 4 chips each sends 3/4 of the bytes twice: 30 and 5 bytes at 10 a second.
    limits = plans.times(costing(2000.0, 100.0, reduced), CHIP)
    assert limits == Times(compute=2.0, memory=1.0, interconnect=3.5)
    assert plans.bottleneck(limits) == "interconnect"
    assert plans.bottleneck(plans.times(costing(4000.0, 100.0, reduced), CHIP)) == "compute"
    assert plans.bottleneck(plans.times(costing(2000.0, 400.0, reduced), CHIP)) == "memory"
    text = plans.text(costing(2000.0, 100.0, reduced, chip=CHIP, hops=6, optimal=5.0))
    assert "2 images/s, bound by interconnect" in text  # 8 images in 3.5 s
    assert "4 collectives over 6 hops" in text
    assert plans.latency(costing(collectives=reduced, hops=6)) == pytest.approx(24e-6)


@pytest.mark.parametrize("chips", [1, 2, 3, 8])
def test_what_a_chip_sends_is_what_a_ring_of_chips_sends(chips):
    """Parts are passed on to the next chip until each holds all of them, and sums of parts until each holds one."""
    part = 6
    holds = [{chip} for chip in range(chips)]
    passed = 0
    while any(len(held) < chips for held in holds):
        newest = [(chip - len(holds[chip]) + 1) % chips for chip in range(chips)]
        assert all(newest[chip] in holds[chip] for chip in range(chips))
        for chip in range(chips):
            holds[(chip + 1) % chips].add(newest[chip])
        passed += part
    assert plans.sent(Collective("all-gather", 1, part), chips) == pytest.approx(passed)
    assert plans.sent(Collective("reduce-scatter", 1, part * chips), chips) == pytest.approx(passed)
    assert plans.sent(Collective("all-reduce", 1, part * chips), chips) == pytest.approx(2 * passed)
    assert plans.sent(Collective("all-to-all", 1, part * chips), chips) == pytest.approx(part * (chips - 1))
    assert plans.sent(Collective("collective-permute", 1, part), chips) == (part if chips > 1 else 0)


def test_efficiency_is_images_a_second_and_chip_against_the_first():
    first = costing(2000.0, chips=2, images=8, chip=CHIP)  # 2 s
    second = costing(4000.0, chips=8, images=32, chip=CHIP)  # 4 s, for as many images a chip
    head, _, *rows = plans.table({"one": first, "two": second}).splitlines()
    column = [cell.strip() for cell in head.split("|")].index("efficiency")
    assert [row.split("|")[column].strip() for row in rows] == ["1.000", "0.500"]
    assert all(row.count("|") == head.count("|") for row in rows)


def test_chips_are_those_of_the_vendors_pages():
    """The pages give whole pods too: PFLOP/s and the bandwidth of all-reduce; others count links both ways, in GB/s."""
    pods = {"v5e": (256, 50.63e15, 51.2e12), "v6e": (256, 234.9e15, 102.4e12), "v4": (4096, 1.1e18, 1.1e15)}
    for family, (chips, flops, bandwidth) in pods.items():
        assert chips * FAMILIES[family].chip.flops == pytest.approx(flops, rel=0.03)
        assert chips * FAMILIES[family].chip.ici_bandwidth == pytest.approx(bandwidth, rel=0.12)
    both_ways = {"v5e": 400e9, "v5p": 1200e9, "v6e": 800e9}
    for family, bandwidth in both_ways.items():
        assert FAMILIES[family].chip.ici_bandwidth == bandwidth / 2
    assert [FAMILIES[family].chip.hbm / 2**30 for family in ("v4", "v5e", "v5p", "v6e")] == [32, 16, 95, 32]


# The program's text.

ASYNC = """HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[10]{0})->f32[10]{0}}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%a, %b)
}

%fused (p: bf16[4,8]) -> bf16[4,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %ar.9 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} all-reduce(%p), channel_id=9, replica_groups=[1,4]<=[4], to_apply=%add
}

ENTRY %main (x: f32[10]) -> f32[10] {
  %p = f32[10]{0:T(128)} parameter(0), sharding={replicated}, metadata={op_name="all-reduce(x)"}
  %q = pred[3,5]{1,0:T(8,128)(4,1)S(1)} parameter(1)
  %start = f32[10]{0:T(128)} all-reduce-start(%p), channel_id=1, to_apply=%add
  %done = f32[10]{0:T(128)} all-reduce-done(%start)
  %two = (f32[10]{0:T(128)}, pred[3,5]{1,0:T(8,128)(4,1)S(1)}) all-reduce(%done, /*index=5*/%q), channel_id=2
  %gs = (f32[10]{0:T(128)}, f32[40]{0:T(128)}) all-gather-start(%p), channel_id=3, dimensions={0}
  %gd = f32[40]{0:T(128)} all-gather-done(%gs)
  %rs = f32[10]{0} reduce-scatter(f32[40]{0:T(8,128)} %elsewhere), channel_id=4, dimensions={0}, to_apply=%add
  %ps = (f32[10]{0}, f32[10]{0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1},{1,0}}
  %pd = f32[10]{0:T(128)} collective-permute-done(%ps)
  %s = s4[7]{0} parameter(2)
  %aa = s4[7]{0} all-to-all(%s), channel_id=5
  ROOT %f = bf16[4,8]{1,0} fusion(%two), kind=kCustom, calls=%fused
}
"""


def test_collectives_are_read_from_the_text():
    """Begun and ended by two instructions, of several arrays, within a fusion; by what goes in, not what comes out."""
    assert plans.collectives(ASYNC) == (
        Collective("all-gather", 1, 40),
        Collective("all-reduce", 3, 2 * 4 * 8 + 40 + (40 + 15)),
        Collective("all-to-all", 1, 3),  # seven times four bits
        Collective("collective-permute", 1, 40),
        Collective("reduce-scatter", 1, 160),
    )
    assert plans.collectives("HloModule empty\n") == ()


def test_loops_count_if_products_are_anywhere_in_them():
    text = """%deep (p: f32[2,2]) -> f32[2,2] {
  ROOT %d = f32[2,2]{1,0} OP(%p, %p), window={size=1}
}

%body (p: f32[2,2]) -> f32[2,2] {
  ROOT %f = f32[2,2]{1,0} fusion(%p), kind=kOutput, calls=%deep
}

%idle (p: f32[2,2]) -> f32[2,2] {
  ROOT %n = f32[2,2]{1,0} negate(%p)
}

ENTRY %main (p: f32[2,2]) -> f32[2,2] {
  %w = f32[2,2]{1,0} while(%p), condition=%c, body=%body
  %v = f32[2,2]{1,0} while(%w), condition=%c, body=%idle
  ROOT %outside = f32[2,2]{1,0} dot(%v, %v)
}
"""
    assert plans.loops(text.replace("OP", "convolution")) == plans.loops(text.replace("OP", "dot")) == 1
    assert plans.loops(text.replace("OP", "add")) == 0


# The largest batch.


@given(
    fixed=st.floats(0, 1e3),
    each=st.floats(1e-3, 1e2),
    bend=st.floats(0.5, 2.0),
    start=st.sampled_from([1, 64, 4096]),
    limit=st.sampled_from([0, 1, 100, 2**20]),
)
def test_the_largest_batch_is_that_of_trying_all(fixed, each, bend, start, limit):
    """For what grows less or more than in proportion, and where there is an end to what can be asked."""
    looks = []

    def needs(n):
        looks.append(n)
        return fixed + each * n**bend if n <= limit else math.inf

    found = plans.largest(needs, 1e4, start=start)
    assert found == max(
        (2**k for k in range(25) if 2**k <= limit and fixed + each * 2 ** (k * bend) <= 1e4), default=None
    )
    assert len(looks) == len(set(looks)) <= 25


@given(fixed=st.floats(0, 5e3), each=st.floats(1e-3, 1e2))
def test_it_takes_few_looks_where_memory_grows_in_proportion(fixed, each):
    looks = []
    plans.largest(lambda n: looks.append(n) or fixed + each * n, 1e4, start=64)
    assert len(looks) <= 7


# Slices.


def test_a_slice_is_read_and_others_are_refused():
    assert plans.slice_of("v5e:4x8") == (FAMILIES["v5e"], (4, 8))
    assert plans.slice_of("v5p:4x4x8")[1] == (4, 4, 8)
    for name in ("v5e:3x3", "v5e:4x4x4", "v5e", "v5e-16", "v7:2x2", ""):
        with pytest.raises(ValueError, match="unknown slice '.*': there is .*2x2"):
            plans.slice_of(name)
    for family in FAMILIES.values():
        chips = [math.prod(map(int, size.split("x"))) for size in family.slices]
        assert chips == sorted(chips)


@pytest.mark.parametrize(
    ("shape", "ring"),
    [
        ((4, 4, 1), [False] * 3),
        ((8, 16, 1), [False, True, False]),
        ((16, 16, 1), [True, True, False]),
        ((2, 2, 1), [False] * 3),
        ((2, 4, 4), [False] * 3),
        ((4, 4, 8), [True] * 3),
    ],
)
def test_hops_are_the_longest_way_between_two_chips(shape, ring):
    """By walking: breadth first, from a corner and from the middle."""
    places = list(product(*map(range, shape)))
    mesh = SimpleNamespace(devices=np.array([SimpleNamespace(coords=list(place)) for place in places], object))

    def farthest(start):
        away, queue = {start: 0}, deque([start])
        while queue:
            place = queue.popleft()
            for axis, move in product(range(3), (-1, 1)):
                there = list(place)
                there[axis] += move
                if ring[axis]:
                    there[axis] %= shape[axis]
                if (near := tuple(there)) not in away and 0 <= there[axis] < shape[axis]:
                    away[near] = away[place] + 1
                    queue.append(near)
        return max(away.values())

    assert plans.hops(mesh) == max(farthest((0, 0, 0)), farthest(tuple(size // 2 for size in shape)))


# The command.


def command(topology="cpu", experiment=TOY, **changes):
    return planning.Plan(experiment=experiment, topology=topology, **changes)


def wrong(command, words=()):
    with pytest.raises(process.WrongInput) as caught:
        planning.plan(command, words)
    return " ".join(str(caught.value).split())


@pytest.mark.slow
def test_the_command_prints_a_plan(capsys):
    assert planning.plan(command(), ["--batch", "16"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("experiment_file on cpu: 1 chips, 16 images a step; compiled in ")
    assert planning.plan(command(batch="32"), ["--batch", "16"]) == 0
    assert ": 1 chips, 32 images a step" in capsys.readouterr().out


def test_wrong_input_is_told_in_a_line(monkeypatch):
    assert wrong(command("v5e:3x3")).startswith("unknown slice 'v5e:3x3': there is v5e:1x1, v5e:2x2, v5e:2x4")
    assert wrong(command("cpu:two")).startswith("cpu:two: there are 1 devices of the host")
    assert wrong(command(batch="some")) == "--batch some: give a number of images, or auto"
    assert wrong(command(batch="0")) == "--batch 0: give a number of images, or auto"
    assert wrong(command(batch="auto")).startswith("--batch auto: nothing says what memory cpu has")
    assert wrong(command(sizes="2x2")).startswith("--sizes 2x2 means nothing with --topology cpu")
    assert "did you mean --batch" in wrong(command(), ["--bacth", "3"])
    assert wrong(command(experiment="nothing")).startswith("unknown experiment 'nothing'")
    assert wrong(command(), ["--rates.generator", "-1"]) == "rates.generator -1.0: use a rate of 0 or more"
    assert wrong(command(experiment="alarms")).startswith("alarms is a study of many cells")
    assert wrong(command(experiment="sinusoid_maml", batch="4")).startswith("sinusoid_maml has no field named batch")
    monkeypatch.setattr(plans, "find_spec", lambda name: None)
    assert wrong(command("v5e:4x4")) == (
        "libtpu, which compiles for v5e:4x4, is not installed: "
        'pip install "gan-jax[tpu]", or libtpu alone, in the version of requirements-tpu.txt'
    )


def test_the_largest_batch_that_fits_is_found_by_the_command(monkeypatch, capsys):
    """On a device that is said to be a TPU of a little memory; the data end before it does, or they do not."""
    monkeypatch.setattr(plans, "devices", lambda name: jax.devices()[:1])

    def costs(made, mesh, chip, *, fully_sharded):
        images = jax.eval_shape(made.batches.draw, {}, jax.random.key(0), 0)["x"].shape[1]
        if images > limit:
            raise ValueError("the data end here")
        return costing(1e9, 1e6, images=images, chips=1, chip=chip, temporaries=images * 125 * 10**6)

    monkeypatch.setattr(plans, "plan", costs)
    for limit, best in ((10**6, 64), (20, 16)):
        assert planning.plan(command("v5e:1x1", batch="auto")) == 0
        out, err = capsys.readouterr()
        assert f"1 chips, {best} images a step" in out  # 128 would need 16 GB of 17.2, and a tenth is left free
        assert ("the data end here" in err) == (limit == 20)
    limit = 0
    assert wrong(command("v5e:1x1", batch="auto")) == "--batch auto: a batch of 1: the data end here"


def test_further_sizes_have_as_many_images_on_a_chip(monkeypatch, capsys):
    counts = {"v5e:2x4": 8, "v5e:4x4": 16}
    monkeypatch.setattr(plans, "devices", lambda name: counts[name])
    monkeypatch.setattr(parallel, "mesh", lambda count: SimpleNamespace(size=count))

    def costs(made, mesh, chip, *, fully_sharded):
        images = jax.eval_shape(made.batches.draw, {}, jax.random.key(0), 0)["x"].shape[1]
        return costing(1e9, 1e6, images=images, chips=mesh.size, chip=chip)

    monkeypatch.setattr(plans, "plan", costs)
    assert planning.plan(command("v5e:2x4", sizes="4x4", batch="24")) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split("|")[1:4] for row in rows[2:]] == [[" v5e:2x4 ", " 8 ", " 24 "], [" v5e:4x4 ", " 16 ", " 48 "]]


# The compiler for TPUs itself.


def described(name):
    return parallel.mesh(plans.devices(name))


@needs_libtpu
def test_every_family_has_one_device_a_chip():
    for name in ("v4:2x2x1", "v5e:1x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x2"):
        assert described(name).size == math.prod(plans.slice_of(name)[1])
    assert plans.hops(described("v5e:4x4")) == 6
    assert plans.hops(described("v5e:16x16")) == 16


@needs_libtpu
def test_a_gradient_is_one_all_reduce_on_a_slice_too():
    one = plans.plan(descent(PARAMETERS), described("v5e:4x4"), FAMILIES["v5e"].chip)
    assert one.collectives == (Collective("all-reduce", 1, 4 * PARAMETERS),)
    assert one.arguments >= one.state + one.data
    assert one.optimal is not None and one.optimal > 0


@full
@needs_libtpu
def test_what_does_not_fit_is_told():
    made = program((2**16, 2**16), lambda w, x: w * jnp.mean(x), ROWS)  # 16 GiB
    with pytest.raises(plans.DoesNotFit, match="the step does not fit: .* available HBM .15.75G.; take fewer images"):
        plans.plan(made, described("v5e:4x4"))


@full
@needs_libtpu
def test_mnist_dcgan_on_sixteen_chips():
    """Its collectives are those that batch normalisation and gradients cannot do without.

    The generator normalises twice, the discriminator once. A move of the discriminator goes forward through three and
    back through one, then comes its gradient: 5, one after the other. A move of the generator: 3, back through 3, its
    gradient. Of these 7 the way forward through the generator may coincide with what came before. One more agrees on
    which examples are drawn.
    """
    module = lookup.load(lookup.find("mnist_dcgan"))
    made = module.build(module.Config(batch=1024))
    text = plans.compile_step(made, described("v5e:4x4")).as_text()
    assert text is not None
    reduced = {each.kind: each for each in plans.collectives(text)}["all-reduce"]
    assert 1 + 5 + 5 <= reduced.count <= 1 + 5 + 7
    params = jax.eval_shape(lambda key: made.game(made.init(key))[1].params, jax.random.key(0))
    gradients = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    assert gradients < reduced.bytes < 1.1 * gradients  # each once
    assert " convolution(" in text and plans.loops(text) == 0


if __name__ == "__main__":
    script()
