"""Many runs side by side are the runs that they would be alone; their memory is reckoned before it is spent."""

import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gan_jax
from gan_jax import cli
from gan_jax.training import sweeps
from tests.training.toy import same, toy

RING = ["train", "ring", "--batch", "8", "--widths", "4", "--chunk", "2", "--log-every", "2"]


def rows(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def near(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), left, right)


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


def test_members_need_more_memory_one_by_one():
    one, two, four = (sweeps._bytes(toy(), 1, members) for members in (1, 2, 4))
    assert 0 < one < two < four and sweeps._memory() > 2**28
