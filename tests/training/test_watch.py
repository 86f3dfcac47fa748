"""A watched run: its scores, the checkpoint that is kept, and where an alarm takes it back to."""

import json
import math
from contextlib import ExitStack

import jax
import pytest

from gan_jax.base import Stop
from gan_jax.diagnostics.termination import Criteria
from gan_jax.training import loop, watch
from gan_jax.training.checkpoints import Checkpoints
from gan_jax.training.watch import Watch

from .toy import same, toy

EVERY = 2
COLLAPSING = [100.0, 40.0, 20.0, 19.0, 18.0, 18.5, 18.2, 90.0, 95.0, 99.0, 99.0, 99.0, 99.0]
KEY = jax.random.key(3)


def scored(values):
    """The toy, whose score at step n is the n / EVERY-th of the values."""
    return toy()._replace(score=lambda key, state: {"value": values[int(state.count) // EVERY - 1], "other": 1.0})


def run(directory, values, *, steps=2 * len(COLLAPSING), start=None, criteria=Criteria(), keep=2):  # noqa: B008
    """Train with a watch and checkpoints; return the result, the checkpoint rolled back to, and those that are left."""
    program = scored(values)
    with Checkpoints(directory / "checkpoints", keep=keep) as checkpoints:
        restored = checkpoints.restore(loop.abstract(program, KEY)) if start else None
        begun = (restored.step, restored.state) if restored else None
        watched = Watch(
            directory, program, jax.random.key(0), checkpoints, start=begun[0] if begun else 0, criteria=criteria
        )
        hooks = (watched.hook(EVERY), checkpoints.hook(EVERY))
        result = loop.train(program, KEY, steps=steps, start=begun, hooks=hooks)
        back = watched.roll_back(result.step, result.stop.reason) if result.stop and result.stop.code == 3 else None
    with Checkpoints(directory / "checkpoints", read_only=True) as left:
        return result, back, left.steps


def read(directory, name):
    return watch.rows(directory / name)


@pytest.mark.slow
def test_a_collapsing_run_is_stopped_and_returns_to_its_best_checkpoint(tmp_path):
    result, back, left = run(tmp_path, COLLAPSING)
    # The median of five is past 1.5 times 19 with the third bad score, the tenth in all.
    assert (result.step, result.stop.code) == (20, 3)
    best = json.loads((tmp_path / "best.json").read_text())
    assert back == best["step"] == max(left)
    assert best["score"] == 18.2 or best["score"] == 18.0
    (alarm,) = read(tmp_path, "alarms.jsonl")
    assert (alarm["kind"], alarm["step"], alarm["back_to"]) == ("collapse", 20, back)
    assert alarm["try"]


@pytest.mark.slow
def test_what_is_restored_after_an_alarm_is_the_state_of_the_best_step(tmp_path):
    _, back, _ = run(tmp_path, COLLAPSING)
    program = scored(COLLAPSING)
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(loop.abstract(program, KEY))
    assert restored.step == back
    assert same(restored.state, loop.train(program, KEY, steps=back).state)


@pytest.mark.slow
def test_the_best_checkpoint_stays_however_many_follow(tmp_path):
    values = [100.0, 50.0, 10.0] + [12.0] * 10
    result, back, left = run(tmp_path, values, criteria=Criteria(window=1))
    assert result.stop is None and back is None
    assert left == (6, 24, 26)


@pytest.mark.slow
def test_a_better_checkpoint_takes_the_place_of_the_one_that_was_kept(tmp_path):
    values = [100.0, 50.0, 10.0, 12.0, 12.0, 9.0, 12.0, 12.0, 12.0]
    _, _, left = run(tmp_path, values, steps=18, criteria=Criteria(window=1))
    assert left == (12, 16, 18)


def test_a_plateau_ends_a_run_as_done(tmp_path):
    result, _, _ = run(tmp_path, [50.0] * 13, criteria=Criteria(patience=4))
    assert (result.step, result.stop.code) == (10, 0)
    assert not (tmp_path / "alarms.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("at", [4, 8, 14, 18])
def test_a_resumed_run_scores_and_ends_as_if_it_had_never_stopped(tmp_path, at):
    whole, back, left = run(tmp_path / "whole", COLLAPSING)
    run(tmp_path / "parts", COLLAPSING, steps=at)
    resumed, again, remaining = run(tmp_path / "parts", COLLAPSING, start=True)
    assert (resumed.step, resumed.stop, again, remaining) == (whole.step, whole.stop, back, left)
    assert same(resumed.state, whole.state)

    def numbers(directory):
        return [
            {name: value for name, value in row.items() if name not in ("time", "seconds")}
            for row in read(directory, "scores.jsonl")
        ]

    assert numbers(tmp_path / "whole") == numbers(tmp_path / "parts")


@pytest.mark.slow
def test_rows_of_a_killed_run_past_its_checkpoint_are_scored_again(tmp_path):
    run(tmp_path, COLLAPSING, steps=8)
    with (tmp_path / "scores.jsonl").open("a") as file:
        file.write('{"step": 10, "score": 1.0}\n{"step": 12, "sc')
    run(tmp_path, COLLAPSING, steps=12, start=True)
    assert [row["step"] for row in read(tmp_path, "scores.jsonl")] == [2, 4, 6, 8, 10, 12]
    assert read(tmp_path, "scores.jsonl")[4]["score"] == COLLAPSING[4]


def test_a_score_that_is_not_finite_is_recorded_as_null_and_ends_the_run(tmp_path):
    result, back, _ = run(tmp_path, [9.0, 8.0, math.nan])
    assert (result.step, result.stop.code, back) == (6, 3, 4)
    assert read(tmp_path, "scores.jsonl")[-1]["score"] is None
    assert read(tmp_path, "alarms.jsonl")[0]["kind"] == "not finite"


def test_without_scores_an_alarm_returns_to_the_newest_checkpoint(tmp_path):
    program = toy()
    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(tmp_path / "checkpoints"))
        watched = Watch(tmp_path, program, KEY, checkpoints)
        assert watched.roll_back(5, "nothing was saved") is None
        result = loop.train(program, KEY, steps=6, hooks=(checkpoints.hook(2),))
        assert watched.roll_back(result.step, "a loss is nan") == 6
    assert [row["back_to"] for row in read(tmp_path, "alarms.jsonl")] == [None, 6]


def test_a_last_step_between_two_scores_is_not_scored(tmp_path):
    run(tmp_path, COLLAPSING, steps=3)
    assert [row["step"] for row in read(tmp_path, "scores.jsonl")] == [2]


def test_a_program_without_a_score_cannot_be_watched(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints, pytest.raises(ValueError, match="has no score"):
        Watch(tmp_path, toy(), KEY, checkpoints).hook(1)


@pytest.mark.slow
def test_the_watch_says_stop_in_words(tmp_path):
    result, _, _ = run(tmp_path, COLLAPSING)
    assert isinstance(result.stop, Stop)
    assert result.stop.reason.startswith("collapse: the score is 90, 4.")
