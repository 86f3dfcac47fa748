"""The study of control: what its tasks are, and what one run of it has learned in another."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from gan_jax import cli
from gan_jax.meta import control, strategies, tuners
from gan_jax.meta.environments import trial
from gan_jax.training import lookup

STUDY = lookup.load(lookup.find("gan_control_rl2"))
SMALLEST = STUDY.SMALLEST


def with_(**changes):
    return dataclasses.replace(SMALLEST, **changes)


@pytest.mark.slow
def test_varied_tasks_know_of_fewer_points_and_train_narrower_networks():
    environment = STUDY.varied(with_(shots=32, widths=(8, 8))).environments["train"]
    starts = jax.vmap(environment.draw)(jax.random.split(jax.random.key(0), 40))
    different = set()
    for points in np.asarray(starts.task.support["x"]):
        _, counts = np.unique(points, axis=0, return_counts=True)
        assert len(counts) in (2, 4, 8, 16, 32)
        assert (counts == 32 // len(counts)).all(), "each as often"
        different.add(len(counts))
    assert len(different) > 3
    assert set(np.asarray(starts.task.support["width"])[:, 0].tolist()) == {0.25, 0.5, 1.0}
    reset = jax.jit(jax.vmap(lambda key, start: environment.reset(key, start)[1].learner))
    begun = reset(jax.random.split(jax.random.key(1), 40), starts)
    for params in begun.point.params:
        kernel = np.asarray(params["layers"][1]["kernel"])
        units = (kernel != 0).any(axis=1).sum(axis=1)
        np.testing.assert_array_equal(units, 8 * np.asarray(starts.task.support["width"])[:, 0])


def test_a_search_costs_its_points_times_its_repeats():
    config = with_(lattice=(2, 3, 1, 1), repeats=5, horizon=2, updates=4, members=7, episodes=3)
    costs = {name: STUDY.per_task(config, name) for name in STUDY.TITLES}
    episode = 8
    assert costs.pop("grid") == costs.pop("random") == (2 * 3 * 5 + 1) * episode
    assert costs.pop("population") == 7 * episode
    assert costs.pop("rl2") == 3 * episode
    assert set(costs.values()) == {episode}


@pytest.mark.slow
def test_a_search_judges_its_points_by_as_many_trainings(monkeypatch):
    asked = []

    def search(environment, candidates, key, start, seeds):
        asked.append((len(candidates), seeds))
        raise KeyError("enough is known")

    monkeypatch.setattr(STUDY.tuners, "search", search)
    config = with_(lattice=(2, 3, 1, 1), repeats=5)
    for name in ("grid", "random"):
        with pytest.raises(KeyError, match="enough"):
            STUDY.test(config, STUDY.mixtures(config), name, None)
    assert asked == [(6, 5)] * 2
    with pytest.raises(ValueError, match="repeats=0"):
        STUDY.build(with_(repeats=0))


@pytest.mark.slow
def test_images_are_controlled_too(tmp_path):
    config = with_(sets=("digits",), tuners=("constant",), width=1, shots=16, points=16)
    found = STUDY.build(config).cells["digits-constant"](tmp_path)["tested"]["unseen classes"]
    score = np.array(found["score"])
    assert score.shape == (2, 1, 3)
    assert (score > 0).all()
    assert (score <= STUDY.LIMITS["digits"][1]).all()


def test_regret_is_none_at_the_best_and_all_at_the_defaults():
    default, best = np.array([3.0, 5.0]), np.array([1.0, 2.0])
    regret = {final: STUDY._regret(np.array(final), default, best) for final in ((1.0, 2.0), (3.0, 5.0), (2.0, 3.5))}
    assert [float(words.split()[0]) for words in regret.values()] == [0, 100, 50]
    assert "no worse" in STUDY._regret(default, best, default)
    assert "none in" not in regret[1.0, 2.0]
    # Where the defaults are worse in one task of two, a quarter of the resamples is of the other alone.
    (share,) = re.findall("none in (.*)% of resamples", STUDY._regret(best, np.array([3.0, 2.0]), best))
    assert abs(float(share) - 25) < 5 * 100 * np.sqrt(0.25 * 0.75 / STUDY.RESAMPLES)


def test_a_score_is_reached_where_it_is_first_at_it_or_below():
    score = np.array([[9.0, 4.0, 6.0, 2.0], [9.0, 8.0, 7.0, 7.5]])
    first, reached = STUDY.reaching(score, np.array([4.0, 3.0]), updates=50)
    np.testing.assert_array_equal(first, [50, 150])
    np.testing.assert_array_equal(reached, [True, False])


def test_what_cannot_be_is_refused_before_anything_is_computed():
    wrong = dict.fromkeys(("updates", "horizon", "hidden", "members", "d_steps", "shots", "points", "width"), 0)
    for name, value in {**wrong, "rate": float("nan"), "evolution_rate": 0.0, "entropy": -1.0}.items():
        with pytest.raises(ValueError, match=f"^{name}={value} "):
            STUDY.build(with_(**{name: value}))
    for lattice in ((), (2, 0), (1,) * 6):
        with pytest.raises(ValueError, match="lattice="):
            STUDY.build(with_(lattice=lattice))


@pytest.mark.slow
def test_a_replay_trains_at_the_mean_of_what_was_done_elsewhere_whatever_is_seen(monkeypatch):
    """An agent of chance in the place of RL²: the schedule is the mean of its places on the dials, task by task."""
    config = with_(horizon=3, tested=5, d_steps=3)
    parts = STUDY.mixtures(config)
    environment = trial(parts.environments["train"], 1)
    agent = strategies.uniform(environment.choices)
    monkeypatch.setattr(STUDY, "controller", lambda *given: agent)
    row = STUDY.replayed(config, parts, {"before": 7})
    assert row.spent == 7 + 5 * 3 * config.updates
    begun = parts.environments["train"].draw(jax.random.key(3))
    done = [
        np.asarray(tuners.follow(parts.environments["train"], row.tuner, jax.random.key(seed), begun).numbers[0])
        for seed in (0, 1)
    ]
    np.testing.assert_array_equal(*done)
    default = np.asarray(control.numbers(parts.panel))
    # A dial is turned by a factor of 2 at most, and five chances in the same direction are rare.
    moved = np.abs(np.log2(done[0][0, :2] / default[:2]))
    assert (moved > 0).any() and (moved < 1).all()


@pytest.fixture
def learned(tmp_path):
    """A run in which a linear policy has been learned, as its record says: no training is waited for."""
    directory = tmp_path / "learned"
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    arguments = ["--run", str(directory), "--tuners", "constant", "schedule", "--cells", "mixtures-constant", *options]
    assert cli.main(["train", "gan_control_rl2", *arguments]) == 0
    parts = STUDY.mixtures(with_(d_steps=2, horizon=2))
    policy = tuners.linear(trial(parts.environments["train"], 1))
    cell = json.loads((directory / "cells" / "mixtures-constant.json").read_bytes())
    cell["result"] |= {
        "before": 16,
        "weights": jax.tree.map(lambda x: np.asarray(x).tolist(), policy._asdict()),
        "signature": control.signature(parts.panel, parts.watch)._asdict(),
    }
    (directory / "cells" / "mixtures-schedule.json").write_text(json.dumps(cell))
    return directory


OPTIONS = {"updates": 1, "horizon": 2, "budget": 16, "trials": 4, "tested": 2, "d-steps": 2, "shots": 4, "points": 4}


@pytest.mark.slow
def test_what_was_learned_on_mixtures_is_tested_elsewhere_without_learning(learned, tmp_path, capsys):
    options = [f"--{name}={value}" for name, value in (OPTIONS | {"batch": 2, "learned": learned}).items()]
    arguments = ["train", "gan_control_rl2", "--sets", "varied", "--run", str(tmp_path / "elsewhere"), *options]
    assert cli.main([*arguments, "--tuners", "constant", "schedule", "--widths", "4"]) == 0
    cells = tmp_path / "elsewhere" / "cells"
    here, constant = (json.loads((cells / f"varied-{row}.json").read_bytes()) for row in ("schedule", "constant"))
    assert here["result"]["before"] == 16
    assert constant["result"]["before"] == 0
    assert "What is learned was learned on mixtures." in (tmp_path / "elsewhere" / "report.md").read_text()
    # RL² has not learned there, and a controller of other dials is refused by name.
    assert cli.main([*arguments, "--tuners", "rl2", "--run", str(tmp_path / "none"), "--widths", "4"]) == 2
    assert "mixtures-rl2: is not done" in capsys.readouterr().err
    assert cli.main([*arguments, "--tuners", "schedule", "--d-steps=1", "--run", str(tmp_path / "other")]) == 2
    assert "it needs d_steps" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_not_there_is_refused_before_anything_is_written(tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", "gan_control_rl2", "--learned", str(tmp_path / "no"), "--run", str(run)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not run.exists()
