"""Lookup: a name or a path finds one file, and a file that is no experiment is told apart in a line."""

import subprocess
import sys
from pathlib import Path

import pytest

from gan_jax.training import lookup
from gan_jax.training.lookup import Experiment, catalogue, find, load, summary

TOY = Path(__file__).parents[1] / "experiment_file.py"
WHOLE = """
import dataclasses
@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    width: int = 3
def build(config, data=None, data_dir=None):
    return config.width
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with an experiments folder, and another folder for what is shipped."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "shipped").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lookup, "shipped", lambda: tmp_path / "shipped")
    return tmp_path


def test_a_path_is_an_experiment_named_after_its_file():
    assert find(str(TOY)) == Experiment("experiment_file", TOY)


def test_local_experiments_come_before_shipped_ones(here):
    for path in ("shipped/both.py", "shipped/there.py", "experiments/both.py", "experiments/here.py"):
        Path(path).touch()
    assert [experiment.name for experiment in catalogue()] == ["both", "here", "there"]
    assert find("both").path.resolve() == here / "experiments" / "both.py"
    assert find("there").path == here / "shipped" / "there.py"


def test_files_that_begin_with_an_underscore_are_none(here):
    Path("experiments/_shared.py").touch()
    assert catalogue() == ()


def test_what_is_shipped_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lookup.shipped().is_dir()
    assert catalogue()
    assert all(path.parent == lookup.shipped() for _, path in catalogue())


def test_an_unknown_name_is_answered_with_near_ones_or_all(here):
    Path("experiments/mnist_mlp.py").touch()
    Path("experiments/ring.py").touch()
    with pytest.raises(ValueError, match=r"'mnist_mpl': did you mean mnist_mlp\?"):
        find("mnist_mpl")
    with pytest.raises(ValueError, match="'zzz': there is mnist_mlp, ring"):
        find("zzz")
    with pytest.raises(ValueError, match=r"no experiment at ring\.py"):
        find("ring.py")


def test_the_first_name_that_is_not_known_is_refused():
    lookup.require_known("rule", ("a", "b", "a"), iter("abc"))
    with pytest.raises(ValueError, match="unknown rule 'x': there is a, b, c"):
        lookup.require_known("rule", ("a", "x", "y"), iter("abc"))


def test_the_summary_is_read_from_the_docstring():
    what, command, result, cost = summary(Experiment("toy", TOY))
    assert what.startswith("A noisy Dirac-GAN: ")
    assert command == "gan-jax train tests/experiment_file.py"
    assert result == "the generator stands within 0.1 of the mean."  # continued by indentation
    assert cost == "a second."


def test_the_last_result_counts_and_what_is_missing_is_empty(tmp_path):
    path = tmp_path / "some.py"
    path.write_text('"""Some.\n\nResult: old\nResult: new\nNot Cost: this\n"""\nraise SystemExit\n')
    assert summary(Experiment("some", path)) == ("Some.", "", "new", "")
    path.write_text("")
    assert summary(Experiment("some", path)) == ("", "", "", "")
    path.write_text("def broken(:\n")
    assert summary(Experiment("some", path)).what.startswith("does not parse: ")


def test_a_file_is_run_as_it_is_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "some.py"
    for width in (3, 4):  # the same size within the same second: bytecode would be stale
        path.write_text(WHOLE.replace("3", str(width)))
        module = load(Experiment("some", path))
        assert module.build(module.Config()) == width
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("def build(", "def bild(", "needs a function build"),
        ("class Config", "class Configuration", "needs a frozen dataclass Config"),
        ("@dataclasses.dataclass(frozen=True, kw_only=True)", "", "needs a frozen dataclass Config"),
        ("width: int = 3", "width: int", "the field width of Config needs a default"),
        ("import", "imprt", "does not parse: .*line 2"),
        ("import", "import beside;", "imports 'beside', which is not installed; the file beside it .* PYTHONPATH="),
        ("import", "import away;", "imports 'away', which is not installed$"),
    ],
)
def test_a_file_that_is_no_experiment_is_told_in_a_line(tmp_path, old, new, message):
    path = tmp_path / "some.py"
    path.write_text(WHOLE.replace(old, new))
    (tmp_path / "beside.py").touch()
    with pytest.raises(ValueError, match=message) as error:
        load(Experiment("some", path))
    assert "some.py" in str(error.value)
    assert "\n" not in str(error.value)


def test_looking_up_does_not_import_jax():
    code = "import sys; from gan_jax.training import lookup; [lookup.summary(e) for e in lookup.catalogue()]"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('jax' in sys.modules)"], check=True)
