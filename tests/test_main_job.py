"""The main job, with the real networks: killed and resumed bit for bit, and what the demo promises."""

import json
import random
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import gan_jax
from gan_jax import cli

SMALL = ["--width", "4", "--batch", "8"]


def train(run, *words):
    code = "import sys; from gan_jax.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code, "train", "mnist_dcgan", "--run", str(run), *words]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "size"),
    [(2, SMALL), pytest.param(6, SMALL, marks=pytest.mark.full), pytest.param(3, [], marks=pytest.mark.full)],
)
def test_a_dcgan_killed_at_any_moment_ends_as_one_that_was_not(tmp_path, kills, size):
    words = ["--steps", "200", "--checkpoint-every", "20", "--picture-every", "100", *size]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    began = time.monotonic()
    assert cli.main(["train", "mnist_dcgan", "--run", str(whole), *words]) == 0
    lasts = time.monotonic() - began
    moments = random.Random(kills)
    for _ in range(kills):
        resume = ["--resume"] if (killed / "config.json").exists() else []
        process = subprocess.Popen(train(killed, *words, *resume), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0, lasts))  # from before the first import to after the last step
        process.kill()
        process.wait()
    resume = ["--resume"] if (killed / "config.json").exists() else []
    assert cli.main(["train", "mnist_dcgan", "--run", str(killed), *words, *resume]) == 0
    states = [gan_jax.load(run).state for run in (killed, whole)]
    jax.tree.map(np.testing.assert_array_equal, *states)


@pytest.mark.slow
def test_the_rule_gets_as_many_batches_as_it_consumes(tmp_path):
    run = tmp_path / "run"
    words = ["--steps", "2", "--chunk", "1", "--d-steps", "3", *SMALL]
    assert cli.main(["train", "mnist_dcgan", "--run", str(run), *words]) == 0
    state = gan_jax.load(run).state
    assert (state.point.rule.count.generator, state.point.rule.count.discriminator) == (2, 6)


@pytest.mark.slow
def test_a_folder_of_ones_own_pictures_is_found_from_anywhere(tmp_path, monkeypatch):
    from PIL import Image

    (tmp_path / "mine").mkdir()
    for i in range(20):
        Image.fromarray(np.full((30, 40, 3), 10 * i, np.uint8)).save(tmp_path / "mine" / f"{i}.png")
    monkeypatch.chdir(tmp_path)
    words = ["train", "mnist_dcgan", "--data", "folder:mine", "--run", "run", "--chunk", "1", *SMALL]
    assert cli.main([*words, "--steps", "1"]) == 0
    monkeypatch.chdir("/")
    assert gan_jax.load(tmp_path / "run").sample(2).shape == (2, 28, 28, 3)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--steps", "2", "--resume"]) == 0
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "mine" / "more.png")
    assert cli.main([*words, "--steps", "3", "--resume"]) == 2  # another set is another run


@pytest.mark.parametrize(
    "words",
    [["--width", "0"], ["--generator-rate", "inf"], ["--smoothing", "-1"], ["--d-steps", "0"], ["--size", "30"]],
)
def test_a_number_that_cannot_be_is_refused_before_anything_is_written(tmp_path, capsys, words):
    run = tmp_path / "run"
    assert cli.main(["train", "mnist_dcgan", "--run", str(run), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert words[1] in line
    assert not run.exists()


@pytest.mark.full
@pytest.mark.parametrize("conditional", [False, True])
def test_the_demo_keeps_its_promises(tmp_path, conditional):
    run = tmp_path / "run"
    assert cli.main(["train", "mnist_dcgan", "--run", str(run), *(["--conditional"] if conditional else [])]) == 0
    assert cli.main(["evaluate", str(run), "--n", "1000"]) == 0
    measured = json.loads((run / "card.json").read_text())["measured"]
    assert measured["classes"]["covered"] == 10
    assert measured["classes"]["largest_share"] <= 0.25
    assert measured["frechet"]["gap_closed"] >= 0.9
    assert measured["confidence"] >= 0.9
    if conditional:
        assert measured["label_accuracy"] >= 0.95
