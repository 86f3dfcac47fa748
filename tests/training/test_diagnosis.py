"""A diagnosis says of made-up records what they were made to show."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Batches, Pair, Point, Program
from gan_jax.games import saddle
from gan_jax.training import diagnosis, runs
from gan_jax.training.diagnosis import diagnose, prober

RECORD = runs.Record(
    experiment="toy", path=None, sha256="", config={}, seed=0, data=None, data_dir=None, data_sha256="", steps=1000,
    chunk=1, log_every=100, picture_every=100, checkpoint_every=100, provenance={}, score_every=100,
)  # fmt: skip
KEY = jax.random.key(0)
HEALTHY = {
    "generator/loss": 0.8,
    "discriminator/loss": 1.3,
    "discriminator/real": 0.55,
    "discriminator/fake": 0.45,
    "generator/saturated": 0.0,
    "discriminator/saturated": 0.01,
    "discriminator/accuracy": 0.7,
    "discriminator/margin": 0.4,
}
FALLING = [100.0, 50.0, 30.0, 20.0, 15.0, 12.0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def records(tmp_path):
    """Write the records of a run of so many rows; changes are of the last one."""

    def make(scores=FALLING, *, diversity=1.0, alarms=(), **changes):
        metrics = [{"step": 100 * (i + 1), **HEALTHY} for i in range(len(scores))]
        metrics[-1] |= changes
        rows = [
            {"step": 100 * (i + 1), "name": "frechet", "score": score, "seconds": 0.5, "diversity": diversity}
            for i, score in enumerate(scores)
        ]
        write(tmp_path / "metrics.jsonl", metrics)
        write(tmp_path / "scores.jsonl", rows)
        write(tmp_path / "alarms.jsonl", alarms)
        return tmp_path

    return make


def test_a_healthy_run_is_well_and_its_numbers_are_said(records):
    found = diagnose(records(), RECORD)
    text = "\n".join(found.lines)
    assert found.word == "well"
    for words in (
        "well at step 600 of 1000",
        "frechet 12 at step 600",
        "6 scores took 3.0 s",
        "no alarm",
        "70% of pairs",
    ):
        assert words in text
    assert len(found.lines) <= 10


def test_a_run_at_its_last_step_is_done(records):
    assert diagnose(records([*FALLING, 11.0, 10.0, 9.0, 8.0]), RECORD).word == "done"


@pytest.mark.parametrize(
    ("changes", "sign", "remedy"),
    [
        ({"generator/saturated": 0.9}, "90% of the generator's logits are saturated", "non-saturating"),
        ({"discriminator/saturated": 0.8}, "80% of the discriminator's logits are saturated", "lower its rate"),
        ({"diversity": 0.1}, "modes are missing, diversity 0.10", "R1"),
        ({"diversity": 0.0}, "modes are missing, diversity 0.00", "R1"),  # one point
        ({"scores": [*FALLING, 40.0, 40.0, 40.0]}, "collapse, the score is 40, 2 times", "lower the rates"),
        (
            {"alarms": [{"step": 700, "reason": "a loss is nan", "try": "lower the rates"}]},
            "alarm at step 700, a loss is nan",
            "lower the rates",
        ),
    ],
    ids=["generator", "discriminator", "modes", "point", "collapse", "recorded"],
)
def test_each_illness_is_named_with_what_to_try(records, changes, sign, remedy):
    found = diagnose(records(**changes), RECORD)
    line = next(line for line in found.lines if sign in line)
    assert found.word == "ill"
    assert remedy in line


def test_a_run_without_scores_or_a_discriminator_has_a_diagnosis_too(tmp_path):
    write(tmp_path / "metrics.jsonl", [{"step": 100, "loss": 1.0}])
    assert diagnose(tmp_path, RECORD).word == "well"


def test_a_run_without_rows_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no rows in metrics.jsonl yet: wait for step 100"):
        diagnose(tmp_path, RECORD)


def test_the_page_shows_what_was_recorded(records):
    figure = diagnose(records(), RECORD).figure
    losses, outputs, shares, scores, _, _ = figure.axes
    np.testing.assert_allclose(losses.lines[0].get_ydata(), 0.8)
    np.testing.assert_allclose(outputs.lines[1].get_ydata(), 0.45)
    np.testing.assert_allclose(shares.lines[2].get_ydata(), 0.7)
    np.testing.assert_allclose(scores.lines[0].get_ydata(), FALLING)


def test_a_probe_finds_the_eigenvalues_of_a_game_that_is_known(records):
    """The quadratic saddle of THEORY.md: (1, .2, .5) has −0.6 ± 0.3i."""
    known = saddle(alpha=1.0, beta=0.2, gamma=0.5)
    point = Point(Pair(jnp.array(0.3), jnp.array(-0.7)), Pair({}, {}), ())
    program = Program(
        init=lambda key: point,
        step=lambda key, state, batch: (state, {}),
        batches=Batches({}, lambda arrays, key, step: {}),
        observe=lambda key, state: {},
        game=lambda state: (known.game, state),
    )
    found = prober(program, products=2)(KEY, point)
    assert abs(found.spectrum.rightmost - complex(-0.6, 0.3)) < 1e-5
    assert found.spectrum.kind == "stable focus"
    assert found.gradients["generator/gradient"] == pytest.approx(abs(0.5 * -0.7 + 0.2 * 0.3), rel=1e-5)
    text = "\n".join(diagnose(records(), RECORD, found, 600).lines)
    assert "rightmost -0.6+0.3i (error 0%)" in text
    assert "gradients at step 600" in text


def test_the_probe_sees_at_most_64_examples(monkeypatch):
    sizes = []

    def spy(game, key, point, batch):
        sizes.append(len(jax.tree.leaves(batch)[0]))
        raise RuntimeError

    monkeypatch.setattr(diagnosis, "gradients", spy)
    batches = Batches({}, lambda arrays, key, step: {"x": jnp.zeros((2, 100, 3))})
    program = Program(*[None] * 2, batches, None, game=lambda state: (None, None))
    with pytest.raises(RuntimeError):
        prober(program, products=2)(KEY, jnp.zeros(1))
    assert sizes == [64]
