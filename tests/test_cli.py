"""The command line: what it trains, how it ends, and what it says to wrong input."""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

import gan_jax
from gan_jax import cli
from gan_jax.cli import models, process
from gan_jax.networks import inception
from gan_jax.training import lookup, profiling, records, runs, watch
from tests.training.toy import same

KEEP_COMPILED = process.keep_compiled
TOY = str(Path(__file__).parent / "experiment_file.py")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    """Leave this process's compilation cache as it is."""
    monkeypatch.setattr(process, "keep_compiled", lambda: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of 40 steps."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "keep_compiled", lambda: None)
        words = ["--conditional", "--checkpoint-every", "10", "--picture-every", "10"]
        assert cli.main(["train", TOY, "--run", str(directory), *words]) == 0
    return directory


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of that run, to be changed."""
    return shutil.copytree(trained, tmp_path / "run")


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything that is in a folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def rows(directory: Path) -> list[dict]:
    """The rows of metrics.jsonl, but for the clock."""
    clock = ("time", "images_per_second")
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in clock} for line in lines]


def gan_jax_command(*words: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from gan_jax.cli import main; sys.exit(main())", *words]


# Training


@pytest.mark.slow
def test_a_run_leaves_everything_behind(trained, capsys):
    names = {path.name for path in trained.iterdir()}
    assert {"config.json", "metrics.jsonl", "samples", "checkpoints"} < names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert [row["step"] for row in rows(trained)] == [40]
    assert (trained / "samples" / "00000040.png").stat().st_size > 0
    assert {path.name for path in (trained / "checkpoints").iterdir()} == {"20", "30", "40"}
    record = runs.read(trained)
    assert (record.experiment, record.path, record.seed, record.steps, record.chunk) == (
        "experiment_file",
        TOY,
        0,
        40,
        1,
    )
    assert record.config["conditional"] is True
    assert record.provenance["versions"]["jax"] == jax.__version__


def test_the_default_directory_is_named_after_experiment_and_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", TOY, "--seed", "3", "--steps", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "run: runs/experiment_file-3",
        "picture: runs/experiment_file-3/samples/00000002.png",
    ]
    assert runs.read(Path("runs/experiment_file-3")).seed == 3


@pytest.mark.slow
def test_what_is_typed_is_what_is_trained(tmp_path):
    words = ["--rates.generator", "0.5", "--decay", "None", "--shape", "1", "2", "--data", "far", "--chunk", "3"]
    assert cli.main(["train", TOY, "--run", str(tmp_path), "--steps", "4", *words]) == 0
    record = runs.read(tmp_path)
    assert record.config["rates"] == {"generator": 0.5, "discriminator": 0.1}
    assert (record.config["decay"], record.config["shape"]) == (None, [1, 2])
    assert (record.data, record.chunk, record.steps) == ("far", 3, 4)
    trained = gan_jax.load(tmp_path)
    assert trained.step == 4
    assert trained.state[0].generator.shape == (1, 2)


@pytest.mark.slow
def test_a_profiled_run_prints_where_its_time_goes_and_trains_as_it_would(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(profiling, "SECONDS", 1e-9)
    monkeypatch.setattr(profiling, "ceilings", lambda: profiling.Ceilings({"float32": 1.0, "bfloat16": 1.0}, 1.0))
    words = ["--steps", "20", "--log-every", "20"]
    assert cli.main(["train", TOY, "--run", str(tmp_path / "profiled"), "--profile", *words]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "profiled" / "profile" / "report.md").read_text() in text
    assert list((tmp_path / "profiled").rglob("*.xplane.pb"))
    assert cli.main(["train", TOY, "--run", str(tmp_path / "plain"), *words]) == 0
    assert same(gan_jax.load(tmp_path / "profiled").state, gan_jax.load(tmp_path / "plain").state)
    assert cli.main(["train", TOY, "--run", str(tmp_path / "short"), "--profile", "--steps", "2"]) == 0
    assert "over before it could be profiled: give it more steps" in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_seed_trains_the_same_model_and_another_another(tmp_path):
    def state(name, seed):
        assert cli.main(["train", TOY, "--run", str(tmp_path / name), "--steps", "5", "--seed", seed]) == 0
        return gan_jax.load(tmp_path / name).state

    assert same(state("a", "1"), state("b", "1"))
    assert not same(state("c", "2"), gan_jax.load(tmp_path / "a").state)


def test_help_shows_options_and_fields_with_their_documentation(capsys):
    assert cli.main(["train", TOY, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "A noisy Dirac-GAN" in text
    assert "--checkpoint-every INT Steps between checkpoints. (default: 500)" in text
    assert "--rates.generator FLOAT (default: 0.05)" in text
    assert "The critic's weight decay. (default: 0.1)" in text  # a docstring
    assert "examples in a batch (default: 8)" in text  # a comment


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["sample", "--help"], ["evaluate", "-h"]])
def test_every_command_has_help(words, capsys):
    assert cli.main(words) == 0
    assert "usage: gan-jax" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["list"], ["train", "--help"], ["sampel"]])
def test_jax_is_not_imported_before_it_is_needed(words):
    code = f"import sys; from gan_jax import cli; cli.main({words}); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_list_shows_what_the_files_say(tmp_path, monkeypatch, capsys):
    (tmp_path / "experiments").mkdir()
    shutil.copy(TOY, tmp_path / "experiments" / "mine.py")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert "mine: A noisy Dirac-GAN" in out
    assert "command: gan-jax train tests/experiment_file.py" in out
    assert "result: the generator stands within 0.1 of the mean." in out
    assert cli.main(["train", "mine", "--steps", "1"]) == 0


@pytest.mark.parametrize("name", [experiment.name for experiment in lookup.catalogue()])
def test_no_experiment_reuses_the_name_of_a_run_option(name, capsys):
    assert cli.main(["train", name, "--help"]) == 0


# Studies

STUDY = '''"""Squares, one a cell."""
import dataclasses
import os
import signal
from gan_jax.base import Report, Study

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    numbers: tuple[int, ...] = (2, 3)

def build(config, data=None, data_dir=None):
    def cell(number):
        def compute(directory):
            if (directory / "../../interrupt").exists():
                os.kill(os.getpid(), signal.SIGTERM)
            return {"square": number**2}
        return compute
    def report(results):
        return Report("\\n".join(f"{name}: {result['square']}" for name, result in results.items()))
    return Study({f"n{number}": cell(number) for number in config.numbers}, report)
'''


def test_a_study_is_computed_interrupted_and_resumed_by_the_same_words(tmp_path, capsys):
    (tmp_path / "squares.py").write_text(STUDY)
    run = tmp_path / "run"
    words = ["train", str(tmp_path / "squares.py"), "--run", str(run)]
    assert cli.main([*words, "--numbers", "2", "5", "7", "--cells", "n5"]) == 0
    out, err = capsys.readouterr()
    assert "n5: 25" in out
    assert f"report: {run / 'report.md'}" in out
    assert "1 of 3 are finished" in err
    assert cli.main(words) == 2
    assert "already holds a run of squares" in capsys.readouterr().err
    (run / "interrupt").touch()
    assert cli.main([*words, "--resume"]) == 75
    assert f"--run {run} --resume" in capsys.readouterr().err
    assert cli.main([*words, "--resume", "--cells", "n[27]"]) == 75
    assert f"--run {run} --resume --cells 'n[27]'" in capsys.readouterr().err
    (run / "interrupt").unlink()
    assert cli.main([*words, "--resume"]) == 0
    assert "n2: 4\nn5: 25\nn7: 49\n" in capsys.readouterr().out  # in the study's order, not in that of computing
    with (tmp_path / "squares.py").open("a") as file:
        file.write("# changed")
    assert cli.main([*words, "--resume"]) == 0
    assert "note: the file of squares has changed since n2, n5, n7 were computed" in capsys.readouterr().err
    before = tree(run)
    for wrong, named in {
        "--resume --numbers 2": ["numbers [2, 5, 7], not [2]"],
        "--resume --cells n6": ["--cells n6", "n2, n5, n7"],
        "--resume --steps 3": ["--steps 3", "is a study"],
    }.items():
        assert cli.main([*words, *wrong.split()]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in named)
    assert cli.main(["sample", str(run)]) == 2
    assert "is a study, squares" in capsys.readouterr().err
    assert tree(run) == before


# Endings


def test_an_alarm_ends_a_run_at_its_last_finite_state(tmp_path, capsys):
    words = ["--explodes-at", "17", "--log-every", "1", "--checkpoint-every", "5"]
    assert cli.main(["train", TOY, "--run", str(tmp_path), *words]) == 3
    last = capsys.readouterr().err.splitlines()[-1]
    assert "at step 17" in last
    assert last.endswith(f"rolled back to {tmp_path}/checkpoints/15")
    assert gan_jax.load(tmp_path).step == 15
    (alarm,) = watch.rows(tmp_path / "alarms.jsonl")
    assert (alarm["kind"], alarm["step"], alarm["back_to"]) == ("not finite", 17, 15)


@pytest.mark.slow
def test_a_run_that_collapses_is_rolled_back_and_diagnosed(tmp_path, capsys):
    """Rates of .5 on two neurons: whatever they learn they lose."""
    run = tmp_path / "run"
    words = [
        "--widths",
        "4",
        "--batch",
        "8",
        "--rate",
        "0.5",
        "--steps",
        "4000",
        "--chunk",
        "10",
        "--score-every",
        "20",
    ]
    assert cli.main(["train", "collapse_demo", "--run", str(run), *words]) == 3
    best = json.loads((run / "best.json").read_text())["step"]
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"rolled back to {run}/checkpoints/{best}")
    assert gan_jax.load(run).step == best
    assert cli.main(["diagnose", str(run), "--products", "2"]) == 0
    out = capsys.readouterr().out
    assert ": ill at step" in out and "times its best" in out
    assert (run / "diagnosis.png").stat().st_size > 0


@pytest.mark.slow
def test_a_run_that_no_longer_improves_is_done(tmp_path, capsys):
    words = ["--widths", "4", "--batch", "8", "--rate", "0", "--steps", "200", "--chunk", "10", "--score-every", "10"]
    assert cli.main(["train", "collapse_demo", "--run", str(tmp_path), *words, "--patience", "3"]) == 0
    # A verdict takes five scores.
    assert "done at step 50: plateau" in capsys.readouterr().err
    assert not (tmp_path / "alarms.jsonl").exists()


@pytest.mark.slow
def test_a_probe_of_a_state_that_is_not_finite_is_said_to_be_that(tmp_path, capsys):
    words = ["--widths", "4", "--batch", "8", "--rate", "1e38", "--steps", "10", "--chunk", "10", "--score-every", "0"]
    assert cli.main(["train", "collapse_demo", "--run", str(tmp_path), *words, "--probe-every", "10"]) == 3
    assert "rightmost eigenvalue not finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--patience", "-1"], ["--equilibrium", "0.5"], ["--score-every", "-5"], ["--probe-every", "-1"]], ids=str
)
def test_a_wrong_watch_is_refused(tmp_path, capsys, words):
    assert cli.main(["train", TOY, "--run", str(tmp_path / "run"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {' '.join(words)}: give 0 or more") and not (tmp_path / "run").exists()


def test_a_diagnosis_of_what_is_no_run_is_refused(tmp_path, capsys):
    assert cli.main(["diagnose", str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_state_that_is_not_finite_is_never_saved(tmp_path, capsys):
    """Also where nothing looked before the end."""
    words = ["--explodes-at", "2", "--steps", "3", "--log-every", "9", "--checkpoint-every", "9"]
    assert cli.main(["train", TOY, "--run", str(tmp_path), *words]) == 3
    assert "none was saved" in capsys.readouterr().err.splitlines()[-1]
    assert cli.main(["sample", str(tmp_path)]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_resume_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch, capsys, number):
    words = ["train", TOY, "--seed", "5", "--picture-every", "7", "--log-every", "4"]
    with monkeypatch.context() as patch:
        patch.setattr(records, "save", lambda batch, path: signal.raise_signal(number))
        assert cli.main([*words, "--run", str(tmp_path / "stopped")]) == 75
    last = capsys.readouterr().err.splitlines()[-1]
    resume = f"gan-jax train {TOY} --run {tmp_path}/stopped --resume"
    assert last == f"interrupted by {number.name} at step 7; resume with: {resume}"
    assert gan_jax.load(tmp_path / "stopped").step == 7
    assert cli.main(resume.split()[1:]) == 0
    assert cli.main([*words, "--run", str(tmp_path / "whole")]) == 0
    stopped, whole = gan_jax.load(tmp_path / "stopped"), gan_jax.load(tmp_path / "whole")
    assert stopped.step == whole.step == 40
    assert same(stopped.state, whole.state)
    assert rows(tmp_path / "stopped") == rows(tmp_path / "whole")


def test_a_full_disk_ends_a_run_with_a_line(tmp_path, monkeypatch, capsys):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "some.png")

    monkeypatch.setattr(records, "save", full)
    words = ["--picture-every", "20", "--checkpoint-every", "10"]
    assert cli.main(["train", TOY, "--run", str(tmp_path), *words]) == 4
    assert capsys.readouterr().err.splitlines()[-1] == "error: [Errno 28] No space left on device: 'some.png'"
    assert gan_jax.load(tmp_path).step == 10  # the last good step is kept


def test_a_bug_shows_its_traceback(tmp_path, monkeypatch):
    def bug(*args):
        raise ValueError("a bug")

    monkeypatch.setattr(records, "save", bug)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["train", TOY, "--run", str(tmp_path)])


# Resuming


def test_a_finished_run_resumed_is_left_as_it_is(run, capsys):
    before = {name: content for name, content in tree(run).items() if "tfevents" not in name}
    assert cli.main(["train", TOY, "--run", str(run), "--resume"]) == 0
    assert {name: content for name, content in tree(run).items() if "tfevents" not in name} == before


@pytest.mark.slow
def test_a_resumed_run_may_be_longer(run, tmp_path):
    assert cli.main(["train", TOY, "--run", str(run), "--resume", "--steps", "60"]) == 0
    assert runs.read(run).steps == 60
    whole = tmp_path / "whole"
    assert cli.main(["train", TOY, "--run", str(whole), "--steps", "60", "--conditional"]) == 0
    assert same(gan_jax.load(run).state, gan_jax.load(whole).state)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_again(run, capsys):
    state = gan_jax.load(run).state
    shutil.rmtree(run / "checkpoints")
    assert cli.main(["train", TOY, "--run", str(run), "--resume"]) == 0
    assert same(gan_jax.load(run).state, state)
    assert [row["step"] for row in rows(run)] == [40]


def test_a_damaged_checkpoint_is_passed_over_and_told(run, capsys):
    state = gan_jax.load(run).state
    largest = max(
        (run / "checkpoints" / "40" / "state").rglob("*"), key=lambda path: path.stat().st_size * path.is_file()
    )
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    loaded = gan_jax.load(run)
    assert loaded.step == 30
    assert any("checkpoint 40 is damaged" in note for note in loaded.notes)
    assert cli.main(["train", TOY, "--run", str(run), "--resume"]) == 0
    assert "note: checkpoint 40 is damaged" in capsys.readouterr().err
    assert gan_jax.load(run).step == 40
    assert same(gan_jax.load(run).state, state)


@pytest.mark.slow
def test_an_experiment_that_has_changed_is_told(tmp_path, capsys):
    path = shutil.copy(TOY, tmp_path / "mine.py")
    run = tmp_path / "run"
    assert cli.main(["train", str(path), "--run", str(run), "--steps", "2"]) == 0
    path.write_text(path.read_text() + "# changed\n")
    capsys.readouterr()
    assert cli.main(["sample", str(run)]) == 0
    assert f"note: {path} has changed since {run} was trained" in capsys.readouterr().err
    assert cli.main(["train", str(path), "--run", str(run), "--resume", "--steps", "3"]) == 0
    assert "note: the file of mine has changed" in capsys.readouterr().err
    assert cli.main(["sample", str(run), "--label", "1"]) == 2  # notes do not come before an error
    assert len(capsys.readouterr().err.splitlines()) == 1


def kill_at_random(command: list[str], directory: Path, moments: random.Random) -> None:
    """Start a run and end it, without a word, once it trains."""
    seen = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = directory / "metrics.jsonl"
    while process.poll() is None and not (rows.exists() and rows.stat().st_mtime_ns != seen.get(rows)):
        time.sleep(0.01)
    time.sleep(moments.uniform(0, 0.5))
    process.kill()
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.full)])
def test_a_run_killed_at_any_moment_ends_as_one_that_was_not(tmp_path, kills):
    # A picture a hundred steps makes it last as long as the kills take.
    words = ["train", TOY, "--steps", str(500 * kills + 1000), "--log-every", "50"]
    words += ["--checkpoint-every", "100", "--picture-every", "100", "--run"]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    moments = random.Random(kills)
    for attempt in range(kills):
        resume = ["--resume"] if attempt else []
        kill_at_random(gan_jax_command(*words, str(killed), *resume), killed, moments)
    assert cli.main([*words, str(killed), "--resume"]) == 0
    assert cli.main([*words, str(whole)]) == 0
    assert same(gan_jax.load(killed).state, gan_jax.load(whole).state)
    assert rows(killed) == rows(whole)
    assert [path.name for path in sorted((killed / "samples").glob("*.png"))] == [
        path.name for path in sorted((whole / "samples").glob("*.png"))
    ]


# Sampling and measuring


def test_samples_are_drawn_or_kept(trained, tmp_path, capsys):
    assert cli.main(["sample", str(trained), "--n", "5", "--out", str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "averaged weights" in capsys.readouterr().out
    assert cli.main(["sample", str(trained), "--n", "5", "--out", str(tmp_path / "new" / "a.npz"), "--seed", "2"]) == 0
    drawn = np.load(tmp_path / "new" / "a.npz")["samples"]
    assert drawn.shape == (5, 2)
    np.testing.assert_array_equal(drawn, gan_jax.load(trained).sample(5, seed=2))
    assert not np.array_equal(drawn, gan_jax.load(trained).sample(5, seed=3))


def test_the_label_reaches_the_model(trained, tmp_path):
    model = gan_jax.load(str(trained))
    np.testing.assert_allclose(model.sample(4, label=7), model.sample(4) + 7, rtol=1e-6)
    assert cli.main(["sample", str(trained), "--label", "0", "--out", str(tmp_path / "zero.npz")]) == 0


def test_the_pictures_of_a_run_become_an_animation(run, tmp_path, capsys):
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "film.gif")]) == 0
    kept = len(list((run / "samples").glob("[0-9]*.png")))
    assert f"{kept} pictures, of steps" in capsys.readouterr().out
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == kept
    assert cli.main(["sample", str(run), "--frames", "0"]) == 2
    assert "0 frames: give 2 or more" in capsys.readouterr().err
    assert cli.main(["sample", str(run), "--n", "5", "--out", str(tmp_path / "other.gif")]) == 2
    assert "--n 5: a .gif is of pictures that were drawn" in capsys.readouterr().err
    for path in (run / "samples").glob("[0-9]*.png"):
        path.unlink()
    assert cli.main(["sample", str(run), "--out", str(tmp_path / "other.gif")]) == 2
    assert "has kept 0 pictures" in capsys.readouterr().err
    assert not (tmp_path / "other.gif").exists()


def test_samples_go_into_the_run_unless_told(run, capsys):
    assert cli.main(["sample", str(run), "--label", "0"]) == 0
    out = run / "samples" / "samples-00000040-seed0-label0.png"
    assert out.exists()
    assert capsys.readouterr().out.rstrip().endswith(str(out))


def test_the_card_says_what_was_measured_and_where_it_comes_from(run, capsys):
    assert cli.main(["evaluate", str(run), "--n", "100", "--seed", "4"]) == 0
    card = json.loads((run / "card.json").read_text())
    assert card["measured"]["counts"] == {"samples": 100}
    assert (card["step"], card["seed"], card["n"], card["experiment"]) == (40, 4, 100, "experiment_file")
    assert (card["run"], card["data"], card["config"]) == (str(run), None, runs.read(run).config)
    assert card["provenance"]["versions"]["jax"] == jax.__version__
    out = capsys.readouterr().out
    assert f"distance        {card['measured']['distance']:.6g}" in out
    assert "counts.samples  100" in out


PICTURES = '''"""Pictures of noise that never learn."""
import dataclasses
import jax, jax.numpy as jnp, numpy as np
from gan_jax import evaluation
from gan_jax.base import Batches, Program
from gan_jax.data.images import Images, Split

@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Nothing is varied."""

class Model:
    hyper, classes = None, 0

    @staticmethod
    def init(hyper, key):
        return jnp.zeros(())

    @staticmethod
    def sample(key, state, n, label):
        return jax.random.uniform(key, (n, 4, 4, 1), minval=-1)

def split(name, count):
    return Split(name, np.random.default_rng(count).integers(0, 256, (count, 4, 4, 1)).astype(np.uint8), None)

def build(config, data=None, data_dir=None):
    source = Images("noise", "1", split("train", 30), split("test", 20), 0)
    batches = Batches({}, lambda arrays, key, step: {})
    init = lambda key: jnp.zeros(())
    step = lambda key, state, batch: (state + 1, {"loss": state})
    return Program(init, step, batches, observe=lambda key, state: {}, sample=Model.sample,
                   measure=evaluation.images(Model, source), steps=1)
'''


def pictures(folder: Path) -> Path:
    """A run of one step of that experiment."""
    (folder / "noise.py").write_text(PICTURES)
    assert cli.main(["train", str(folder / "noise.py"), "--run", str(folder / "pictures")]) == 0
    return folder / "pictures"


@pytest.mark.slow
def test_a_card_by_inception_stands_beside_the_other(tmp_path, monkeypatch, capsys):
    """A file of weights is read and named; the network itself, which takes minutes to compile, gives way to means."""

    def means(params, x):
        return x.mean((1, 2)), jnp.broadcast_to(params["fc.bias"], (len(x), 1008))

    weights = tmp_path / "weights.npz"
    np.savez_compressed(weights, **{name: np.zeros(shape, np.float32) for name, shape in inception.shapes().items()})
    monkeypatch.setattr(inception, "apply", means)
    monkeypatch.setattr(inception, "FEATURES", 3)
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / "cache"))
    run = pictures(tmp_path)
    (run / "card.json").write_text("another's")
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--n", "25", "--inception", str(weights)]) == 0
    assert (run / "card.json").read_text() == "another's"
    measured = json.loads((run / "card-inception.json").read_text())["measured"]
    about = measured["extractor"]
    assert about["name"] == "inception" and about["standard"] is False
    assert about["file_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "299x299" in about["preprocessing"]
    assert measured["counts"] == {"reference": 30, "held_out": 20, "samples": 25}
    assert "confidence" not in measured
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1] == f"card: {run / 'card-inception.json'}"
    assert "generated: 25 images" in captured.err and "train: 30 images" in captured.err


def test_progress_is_said_at_most_once_in_an_interval_with_what_is_left(monkeypatch, capsys):
    now = iter([0, 10, 30, 45, 70])
    monkeypatch.setattr(models, "time", SimpleNamespace(monotonic=lambda: next(now)))
    progress = models._progress()
    for done in (0, 100, 200, 300, 400):
        progress("train", done, 1000)
    # 200 images in 30 seconds, and 800 are left; 400 in 70, and 600 are left.
    assert capsys.readouterr().err.splitlines() == [
        "train: 1000 images",
        "train: 200 of 1000 images, 2m00s left",
        "train: 400 of 1000 images, 1m45s left",
    ]


# Wrong input

RUN, PLAIN, SHAPED, EMPTY, OTHER = "{trained}", "{plain}", "{shaped}", "{empty}", "{other}"


@pytest.fixture(scope="module")
def places(trained, tmp_path_factory) -> dict[str, str]:
    """The directories that wrong input speaks of."""
    folder = tmp_path_factory.mktemp("places")
    for name, words in {"plain": ["--no-judged"], "shaped": ["--shape", "3"]}.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process, "keep_compiled", lambda: None)
            assert cli.main(["train", TOY, "--run", str(folder / name), "--steps", "1", *words]) == 0
    pictures(folder)
    np.savez(folder / "few.npz", weight=np.zeros(3))
    shutil.copytree(trained, folder / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    (folder / "other").mkdir()
    (folder / "other" / "thesis.tex").write_text("years")
    shutil.copytree(trained, folder / "torn")
    (folder / "torn" / "config.json").write_text('{"experiment": ')
    for name, old, new in (
        ("clash", "batch", "steps"),
        ("broken", "def build", "def buil"),
        ("bad", "import", "imprt"),
    ):
        (folder / f"{name}.py").write_text(Path(TOY).read_text().replace(old, new))
    return {path.stem: str(path) for path in folder.iterdir()} | {"trained": str(trained), "toy": TOY}


WRONG = [
    ("", ["train", "list"]),
    ("trian x", ["'trian'", "did you mean train"]),
    ("--version", ["--version"]),
    ("train", ["EXPERIMENT"]),
    ("train --steps 3 {toy}", ["--steps", "EXPERIMENT"]),
    ("train mnist_dcgam", ["mnist_dcgam", "did you mean mnist_dcgan"]),
    ("train nowhere.py", ["nowhere.py"]),
    ("train {broken}", ["broken.py", "build"]),
    ("train {bad}", ["bad.py", "does not parse"]),
    ("train {clash}", ["clash.py", "steps"]),
    ("train {toy} --rates.generater 1", ["--rates.generater", "did you mean --rates.generator FLOAT"]),
    ("train ring --step 4", ["--step", "did you mean --steps INT"]),
    ("train {toy} --nonsense 1", ["--nonsense", "--help"]),
    ("train {toy} stray", ["stray"]),
    ("train {toy} --batch many", ["--batch", "'many'", "INT"]),
    ("train {toy} --rates.generator fast", ["--rates.generator", "'fast'", "FLOAT"]),
    ("train {toy} --noise loud", ["--noise", "'loud'", "normal", "uniform"]),
    ("train {toy} --shape 1 x", ["--shape", "x", "INT"]),
    ("train {toy} --conditional maybe", ["maybe"]),
    ("train {toy} --steps few", ["--steps", "few", "INT"]),
    ("train {toy} --steps", ["--steps"]),
    ("train {toy} --steps 0", ["--steps 0", "1 or more"]),
    ("train {toy} --chunk 0", ["--chunk 0", "1 or more"]),
    ("train {toy} --checkpoint-every -1", ["--checkpoint-every -1", "1 or more"]),
    ("train {toy} --seed -1", ["--seed -1"]),
    ("train {toy} --cells x", ["--cells x", "is no study"]),
    ("train mixture_modes --seed 1", ["--seed 1", "is a study"]),
    ("train mixture_modes --methods gan gam", ["method 'gam'", "did you mean gan?"]),
    ("train mixture_modes --trials 0", ["trials=0", "at least 1"]),
    ("train mixture_modes --rate -1", ["-1"]),
    ("train mixture_modes --cells none", ["--cells none", "ring-gan"]),
    ("train {toy} --seed 4294967296", ["--seed 4294967296"]),
    ("train {toy} --rates.generator -1", ["rates.generator -1.0", "0 or more"]),
    ("train {toy} --data cifar", ["'cifar'", "near, far"]),
    ("train {toy} --run {trained}", ["already holds a run of experiment_file", "--resume"]),
    ("train {toy} --run {other}", ["{other}", "is no run"]),
    ("train {toy} --run {other}/thesis.tex", ["thesis.tex", "is no run"]),
    ("train {toy} --resume", ["runs/experiment_file-0", "does not exist"]),
    ("train {toy} --run {other} --resume", ["{other}", "config.json"]),
    ("train {toy} --run {torn} --resume", ["{torn}", "is not what a run records"]),
    ("train {toy} --run {trained} --resume --batch 9", ["batch 8, not 9"]),
    ("train {toy} --run {trained} --resume --no-conditional", ["conditional True, not False"]),
    ("train {toy} --run {trained} --resume --seed 1", ["seed 0, not 1"]),
    ("train {toy} --run {trained} --resume --data far", ["data None, not far"]),
    ("train {toy} --run {trained} --resume --chunk 2", ["chunk 1, not 2"]),
    ("train {toy} --run {trained} --resume --steps 39", ["--steps 39", "40"]),
    ("train mnist_dcgan --run {trained} --resume", ["run of experiment_file, not of mnist_dcgan"]),
    ("sample", ["RUN"]),
    ("sample nowhere", ["nowhere", "does not exist"]),
    ("sample {other}", ["{other}", "config.json"]),
    ("sample {empty}", ["{empty}", "no checkpoint yet"]),
    ("sample {trained} --n 0", ["0 samples"]),
    ("sample {trained} --n x", ["--n", "'x'", "INT"]),
    ("sample {trained} --seed -2", ["--seed -2"]),
    ("sample {trained} --out a.jpg", ["a.jpg", ".png", ".npz", ".gif"]),
    ("sample {plain} --label 3", ["unconditional"]),
    ("sample {shaped}", ["[64, 3]", ".npz"]),
    ("evaluate nowhere", ["nowhere"]),
    ("evaluate {plain}", ["{plain}", "nothing to measure"]),
    ("evaluate {trained} --n 0", ["--n 0"]),
    ("evaluate {trained} --inception {few}", ["--inception", "{trained}", "not measured by images"]),
    ("evaluate {pictures}", ["no feature extractor is shipped for 'noise'"]),
    ("evaluate {pictures} --inception nowhere.pth", ["nowhere.pth is no file"]),
    ("evaluate {pictures} --inception {few}", ["few.npz has no Conv2d_1a_3x3.conv.weight"]),
    ("evaluate {pictures} --inception {toy}", ["experiment_file.py: weights are read from .pth"]),
]


@pytest.mark.parametrize(("line", "named"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_input_is_answered_in_one_line_and_nothing_is_written(line, named, places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / "cache"))
    capsys.readouterr()
    folders = {Path(place).parent for place in places.values() if place != TOY}
    before = [tree(folder) for folder in (tmp_path, *folders)]
    assert cli.main([word.format(**places) for word in line.split()]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (said,) = captured.err.splitlines()
    assert said.startswith("error: ")
    for word in named:
        assert word.format(**places) in said
    assert [tree(folder) for folder in (tmp_path, *folders)] == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--rates.generater", "1"],
            "Unrecognized options: --rates.generater, 1; did you mean --rates.generator FLOAT",
        ),
        (["--batch"], f"Missing value for argument '--batch'. Expected 1 values; gan-jax train {TOY} --help shows"),
    ],
)
def test_a_narrow_terminal_does_not_change_the_message(words, said, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    assert cli.main(["train", TOY, *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")


@pytest.mark.slow
def test_a_message_without_boxes_of_unicode_is_read_as_well():
    code = f"import sys; from gan_jax.cli import main; sys.exit(main(['train', {TOY!r}, '--batch', 'x']))"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr == "error: --batch: invalid literal for int() with base 10: 'x'; it takes --batch INT\n"


# The compilation cache


@pytest.mark.slow
def test_compiled_programs_are_kept_and_change_no_bit(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"GAN_JAX_CACHE": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    words = ["train", TOY, "--steps", "3", "--run"]
    for name in ("cold", "warm"):
        command = gan_jax_command(*words, str(tmp_path / name))
        subprocess.run(command, check=True, capture_output=True, env=environment)
    assert any((tmp_path / "cache" / "xla").iterdir())
    assert cli.main([*words, str(tmp_path / "none")]) == 0
    states = [gan_jax.load(tmp_path / name).state for name in ("cold", "warm", "none")]
    assert same(states[0], states[1])
    assert same(states[0], states[2])


@pytest.fixture
def no_cache() -> Iterator[None]:
    """JAX without a compilation cache, until the test is over; then as it was."""
    options = {"jax_compilation_cache_dir": None, "jax_persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, name) for name in options}
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_the_cache_is_used_although_something_was_compiled_before(tmp_path, monkeypatch, no_cache):
    jax.jit(lambda x: x + 1)(1.0)  # as an experiment's build may
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path))
    KEEP_COMPILED()
    jax.jit(lambda x: x + 2)(1.0)
    assert any((tmp_path / "xla").iterdir())


def test_the_cache_has_a_place_unless_it_has_one_already_or_there_is_none(tmp_path, monkeypatch, no_cache):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / "file"))
    KEEP_COMPILED()
    assert jax.config.jax_compilation_cache_dir is None
    for name in ("first", "second"):
        monkeypatch.setenv("GAN_JAX_CACHE", str(tmp_path / name))
        KEEP_COMPILED()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "first" / "xla")
    assert not (tmp_path / "second").exists()
