"""Many runs side by side are the runs that they would be alone; their memory is reckoned before it is spent."""

import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gan_jax
from gan_jax import cli
from gan_jax.base import Tunable
from gan_jax.cli import training
from gan_jax.training import lookup, sweeps
from tests.training.toy import same, toy

RING = ["train", "ring", "--batch", "8", "--widths", "4", "--chunk", "2", "--log-every", "2"]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def near(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), left, right)


@pytest.mark.slow
def test_each_member_is_the_run_that_its_seed_would_train_alone(tmp_path, capsys):
    many = tmp_path / "many"
    words = [*RING, "--steps", "4", "--seeds", "3..5", "--group", "2", "--run", str(many)]
    assert cli.main([*words, "--cells", "3-4"]) == 0
    assert "1 of 2 are finished" in capsys.readouterr().err
    assert cli.main(["train", "ring", "--run", str(many), "--resume"]) == 0
    report = capsys.readouterr().out
    scores = {}
    for seed in (3, 4, 5):
        member, alone = many / "members" / str(seed), tmp_path / str(seed)
        assert cli.main([*RING, "--steps", "4", "--seed", str(seed), "--run", str(alone)]) == 0
        trained, expected = gan_jax.load(member), gan_jax.load(alone)
        near(trained.state, expected.state)
        assert trained.record == expected.record
        assert [row["step"] for row in rows(member)] == [2, 4]
        for ours, theirs in zip(rows(member), rows(alone), strict=True):
            assert ours["generator/loss"] == pytest.approx(theirs["generator/loss"], rel=1e-4)
        key = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
        scores[seed] = next(iter(expected.program.score(key, expected.state).values()))
    order = sorted(scores, key=scores.get)
    shown = [line.split("|")[1].strip() for line in report.splitlines() if line.startswith("|")][2:]
    assert shown == [str(seed) for seed in order]
    best = gan_jax.load(many)  # of many runs the best
    assert best.record.seed == order[0] and same(best.state, gan_jax.load(many / "members" / str(order[0])).state)
    member = many / "members" / "4"
    assert cli.main(["train", "ring", "--run", str(member), "--resume", "--steps", "6"]) == 0
    assert cli.main(["train", "ring", "--run", str(tmp_path / "4"), "--resume", "--steps", "6"]) == 0
    near(gan_jax.load(member).state, gan_jax.load(tmp_path / "4").state)


@pytest.mark.slow
def test_what_means_nothing_side_by_side_is_refused(tmp_path, capsys):
    def refused(*words):
        assert cli.main([*words, "--run", str(tmp_path / "run")]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err.strip()

    for text in ("5", "3..1", "0..x", "-1..2", "0..4294967296"):
        assert f"--seeds {text}: give A..B" in refused(*RING, f"--seeds={text}")
    for name, value in (("seed", "1"), ("probe-every", "5"), ("patience", "3"), ("picture-every", "7")):
        assert f"--{name} {value} means nothing here" in refused(*RING, "--seeds", "0..1", f"--{name}", value)
    assert "--group 2 means nothing here" in refused(*RING, "--group", "2")
    assert "is a study" in refused("train", "sinusoid_maml", "--seeds", "0..1")
    assert cli.main([*RING, "--steps", "2", "--seeds", "0..1", "--run", str(tmp_path / "many")]) == 0
    capsys.readouterr()
    assert cli.main(["train", "ring", "--run", str(tmp_path / "many"), "--resume", "--steps", "4"]) == 2
    assert "begun with steps 2, not 4" in capsys.readouterr().err


@pytest.mark.slow
def test_members_of_a_grid_are_the_runs_that_their_fields_would_train_alone(tmp_path, capsys):
    many = tmp_path / "many"
    grid = ["--grid", "generator-rate=1e-3,1e-1", "--grid", "batch=8,6"]
    words = [*RING, "--steps", "4", "--seeds", "1..2", *grid]
    assert cli.main([*words, "--run", str(many), "--cells", "*batch=6*"]) == 0
    assert "1 of 2 are finished" in capsys.readouterr().err  # another batch is another program
    assert cli.main(["train", "ring", "--run", str(many), "--resume"]) == 0
    report = capsys.readouterr().out
    assert [line.split("|")[1:5] for line in report.splitlines() if "seed" in line] == [
        [" generator_rate ", " batch ", " seed ", " sliced_wasserstein "]
    ]
    assert (many / "grid.png").read_bytes().startswith(b"\x89PNG")
    each = itertools.product(("1e-3", "1e-1"), (8, 6), (1, 2))
    names = {f"generator_rate={rate},batch={batch},{seed}" for rate, batch, seed in each}
    assert {path.name for path in (many / "members").iterdir()} == names
    for rate, batch, seed in (("1e-3", "8", "1"), ("1e-1", "6", "2")):
        alone = tmp_path / f"{rate}-{batch}-{seed}"
        fields = ["--generator-rate", rate, "--batch", batch, "--seed", seed]
        assert cli.main(["train", "ring", "--run", str(alone), "--steps", "4", *RING[4:], *fields]) == 0
        member = many / "members" / f"generator_rate={rate},batch={batch},{seed}"
        trained, expected = gan_jax.load(member), gan_jax.load(alone)
        near(trained.state, expected.state)
        assert trained.record == expected.record
    other = gan_jax.load(many / "members" / "generator_rate=1e-1,batch=8,1").state.point.params.generator
    with pytest.raises(AssertionError):  # the rate has come through
        near(other, gan_jax.load(many / "members" / "generator_rate=1e-3,batch=8,1").state.point.params.generator)


def test_a_grid_is_each_value_with_each_and_nothing_else(tmp_path, capsys):
    assert sweeps.grid(()) == ({},)
    assert sweeps.grid(("a.b=1,2", "c-d=x")) == ({"a.b": "1", "c_d": "x"}, {"a.b": "2", "c_d": "x"})
    for words in (("a",), ("=1",), ("a=",), ("a=1,,2",), ("a=1,1",), ("a=1", "a=2"), ("a-b=1", "a_b=2")):
        with pytest.raises(ValueError, match=f"--grid {words[-1]}: "):
            sweeps.grid(words)
    with pytest.raises(ValueError, match="'data=a/b,3' cannot name a directory"):
        sweeps.name({"data": "a/b"}, 3)
    for words, message in (
        (["rate=1"], "ring has batch, latent, widths"),
        (["seed=1,2"], "seeds go to --seeds"),
        (["widths.x=1"], "ring has batch"),
        (["beta1=2"], "beta"),
        (["beta1=x"], "beta1"),
    ):
        assert cli.main([*RING, "--grid", *words, "--run", str(tmp_path / "run")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (tmp_path / "run").exists()


def test_fields_of_any_kind_may_be_in_a_grid(tmp_path):
    module = lookup.load(lookup.find("mnist_dcgan"))
    experiment = lookup.find("mnist_dcgan")
    made = training._set(experiment, module.Config(), {"conditional": "True", "lowering": "xla", "batch": "7"})
    assert made == module.Config(conditional=True, lowering="xla", batch=7)
    ring = lookup.find("ring")
    made = training._set(ring, lookup.load(ring).Config(), {"widths": "4x5x6"})
    assert made.widths == (4, 5, 6)


@pytest.mark.slow
def test_a_cell_that_was_killed_as_its_members_were_written_down_goes_on(tmp_path, monkeypatch):
    many, other = tmp_path / "many", tmp_path / "other"
    words = [*RING, "--steps", "4", "--grid", "penalty=1,2", "--grid", "generator_rate=1e-3,1e-1"]
    with monkeypatch.context() as patched:
        patched.setattr(sweeps, "_kept", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            cli.main([*words, "--run", str(many)])
    assert not list((many / "cells").glob("*.json"))
    (own,) = (path for path in (many / "cells").iterdir() if path.is_dir())
    with (own / "penalty=2,generator_rate=1e-3,0.jsonl").open("a") as file:
        file.write('{"step": 4, "genera')  # a line that is torn
    assert cli.main(["train", "ring", "--run", str(many), "--resume"]) == 0
    assert cli.main([*words, "--run", str(other)]) == 0
    for member in (other / "members").iterdir():
        assert same(gan_jax.load(many / "members" / member.name).state, gan_jax.load(member).state)
        assert rows(many / "members" / member.name) == rows(member)


@pytest.mark.slow
def test_what_each_setting_makes_of_its_chunk_is_kept(tmp_path):
    """The steps of a call may follow from a field: what is recorded is what was typed, and not what it led to."""
    source = lookup.find("ring").path.read_text()
    assert source.count("chunk=100,") == 1
    path = tmp_path / "chunked.py"
    path.write_text(source.replace("chunk=100,", "chunk=config.d_steps,"))
    many = tmp_path / "many"
    words = ["train", str(path), "--batch", "4", "--widths", "4", "--steps", "4", "--grid", "d_steps=1,2"]
    assert cli.main([*words, "--run", str(many), "--cells", "*=1,*"]) == 0
    assert cli.main(["train", str(path), "--run", str(many), "--resume"]) == 0
    chunks = {
        path.name: json.loads((path / "config.json").read_text())["chunk"] for path in (many / "members").iterdir()
    }
    assert chunks == {"d_steps=1,0": 1, "d_steps=2,0": 2}


@pytest.mark.slow
def test_a_sweep_of_before_there_were_grids_is_still_read(tmp_path):
    many = tmp_path / "many"
    assert cli.main([*RING, "--steps", "2", "--seeds", "3..4", "--run", str(many)]) == 0
    (cell,) = (many / "cells").glob("*.json")
    values = json.loads(cell.read_text())
    for member in values["result"]["members"]:
        del member["name"], member["setting"], member["steps"]
    cell.write_text(json.dumps(values))
    assert gan_jax.load(many).record.seed in (3, 4)
    assert cli.main(["train", "ring", "--run", str(many), "--resume"]) == 0


def counting(rate, *, bias=0.0, tunable=True):
    """A program that counts up by its hyperparameter; where it is marked it is not finite any more beyond 3."""

    def step(hyper, key, state, batch):
        count, marked = state
        return (jnp.where((count > 3) & marked, jnp.nan, count + hyper + bias), marked), {"count": count}

    program = toy()._replace(init=lambda key: (jnp.zeros(()), jnp.array(False)), step=partial(step, rate))
    return program._replace(tunable=Tunable(rate, step, lambda *_: None, lambda *_: None) if tunable else None)


def test_programs_are_one_if_they_differ_in_hyperparameters_alone():
    known = sweeps.signature(counting(1.0))
    assert sweeps.signature(counting(2.0)) == known
    assert sweeps.signature(counting(1.0, bias=1.0)) != known
    assert sweeps.signature(counting(1.0)._replace(steps=7)) != known
    other = counting(1.0).batches
    other = other._replace(arrays=jax.tree.map(lambda leaf: leaf + 1, other.arrays))
    assert sweeps.signature(counting(1.0)._replace(batches=other)) != known
    assert sweeps.signature(counting(2.0, tunable=False)) != sweeps.signature(counting(1.0, tunable=False))


def test_those_that_are_one_program_are_together_in_their_order():
    members = [
        sweeps.Member(bias + rate + seed, {"bias": bias, "rate": rate}, None, counting(float(rate), bias=float(bias)))
        for rate in "12"
        for bias in "01"
        for seed in "89"
    ]
    groups = [[member.name for member in group] for group in sweeps.together(members)]
    assert groups == [["018", "019", "028", "029"], ["118", "119", "128", "129"]]


@pytest.mark.parametrize("turned", [False, True])
def test_a_member_that_is_not_finite_stays_what_it_was_and_holds_up_no_other(turned):
    program, key = sweeps.held(counting(2.0), turned=turned), jax.random.key(0)
    state = jax.vmap(program.init)(jax.random.split(key, 3))
    state = state._replace(trained=(state.trained[0], jnp.array([False, True, False])))
    for _ in range(6):
        state, metrics = jax.vmap(program.step, (None, 0, None))(key, state, {})
    np.testing.assert_array_equal(state.trained[0], [12.0, 4.0, 12.0])
    np.testing.assert_array_equal(state.alive, [True, False, True])
    np.testing.assert_array_equal(state.steps, [6, 2, 6])
    np.testing.assert_array_equal(metrics["count"], [10.0, 4.0, 10.0])


def test_a_program_without_hyperparameters_has_no_members_that_differ_in_them():
    with pytest.raises(ValueError, match="the program has none"):
        sweeps.held(counting(1.0, tunable=False), turned=True)


@given(st.integers(1, 10**6), st.integers(1, 10**4), st.integers(1, 300), st.integers(1, 10**8))
def test_as_many_train_at_once_as_the_memory_holds(fixed, each, count, memory):
    """Members that take so much each, besides what they share, fill at most four fifths, and one more would not fit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweeps, "_bytes", lambda program, chunk, members: fixed + each * members)
        patched.setattr(sweeps, "_memory", lambda: memory)
        chosen = sweeps.fitting(None, 1, count)
    assert 1 <= chosen <= count
    room = 0.8 * memory + 1e-3
    assert chosen == 1 or fixed + each * chosen <= room
    assert chosen == count or fixed + each * (chosen + 1) > room - 2e-3


@pytest.mark.slow
def test_members_need_more_memory_one_by_one():
    one, two, four = (sweeps._bytes(toy(), 1, members) for members in (1, 2, 4))
    assert 0 < one < two < four and sweeps._memory() > 2**28
