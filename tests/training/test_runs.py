"""Run directories: what is recorded comes back, and a directory is never taken for what it is not."""

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Literal

import pytest
import tyro
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.training import runs
from gan_jax.training.lookup import Experiment
from gan_jax.training.runs import Record, check_same, create, flat, from_json, read, to_json

RECORD = Record(
    experiment="toy",
    path=None,
    sha256="0" * 64,
    config={"rates": {"generator": 0.1}, "width": 3},
    seed=0,
    data=None,
    data_dir=None,
    data_sha256="",
    steps=10,
    chunk=1,
    log_every=1,
    picture_every=1,
    checkpoint_every=1,
    provenance={"versions": {"jax": "0"}},
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1
    label: str | None = None
    path: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner = Inner()
    width: int = 3
    on: bool = False
    kind: Literal["a", "b", 3] = "a"
    pair: tuple[int, float] = (1, 2.0)
    several: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    either: int | float | str | tuple[int, ...] = 0


numbers = st.floats(allow_nan=False, allow_subnormal=True)
inners = st.builds(Inner, rate=numbers, label=st.none() | st.text(), path=st.lists(st.text(), max_size=3).map(tuple))
outers = st.builds(
    Outer,
    inner=inners,
    width=st.integers(),
    on=st.booleans(),
    kind=st.sampled_from(["a", "b", 3]),
    pair=st.tuples(st.integers(), numbers),
    several=st.lists(inners, max_size=2).map(tuple),
    maybe=st.none() | inners,
    either=st.integers() | numbers | st.text() | st.lists(st.integers(), max_size=2).map(tuple),
)


@pytest.mark.slow
@given(outers)
def test_a_configuration_comes_back_exactly(config):
    returned = from_json(Outer, json.loads(json.dumps(to_json(config))))
    assert returned == config
    assert repr(returned) == repr(config)  # types too: 1, 1.0 and True are equal


@given(outers)
def test_flat_names_are_those_of_the_command_line(config):
    values = flat(to_json(config))
    assert values["inner.rate"] == config.inner.rate
    assert values["width"] == config.width


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wdth": 4}, "unknown field 'wdth': did you mean width"),
        ({"inner": {"rte": 4}}, r"unknown field 'inner\.rte': did you mean inner\.rate"),
        ({"width": 1.5}, r"width is recorded as 1\.5, which is not int"),
        ({"width": True}, "width is recorded as True, which is not int"),
        ({"on": 1}, "on is recorded as 1, which is not bool"),
        ({"kind": "c"}, "kind is recorded as 'c'"),
        ({"pair": [1]}, r"pair is recorded as \[1\]"),
        ({"inner": {"rate": "fast"}}, r"inner\.rate is recorded as 'fast', which is not float"),
        ({"inner": 3}, "inner is recorded as 3, which is not Inner"),
        ({"maybe": "x"}, "maybe is recorded as 'x'"),
    ],
)
def test_what_does_not_fit_the_configuration_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        from_json(Outer, values)


def test_a_field_that_was_not_recorded_takes_its_default():
    assert from_json(Outer, {"width": 5}) == Outer(width=5)


def test_a_configuration_that_json_cannot_hold_is_refused():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Bad:
        function: object = print

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Changed:
        names: list[str] | tuple[str, ...] = dataclasses.field(default_factory=lambda: ["a"])

    for config in (Bad(), Changed()):
        with pytest.raises(ValueError, match="cannot be recorded"):
            to_json(config)


def test_a_record_comes_back(tmp_path):
    create(tmp_path / "deep" / "run", RECORD)
    assert read(tmp_path / "deep" / "run") == RECORD
    assert [path.name for path in (tmp_path / "deep" / "run").iterdir()] == ["config.json"]


def test_a_run_begins_where_nothing_is(tmp_path):
    create(tmp_path, RECORD)  # an empty folder will do
    with pytest.raises(ValueError, match="already holds a run of toy; give another --run, or --resume"):
        create(tmp_path, RECORD)


def test_a_run_does_not_begin_among_other_things(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    for directory in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match="exists and is no run"):
            create(directory, RECORD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_killed_before_it_was_recorded_is_begun_again(tmp_path, monkeypatch):
    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            create(tmp_path / "run", RECORD)
    assert not (tmp_path / "run" / "config.json").exists()
    create(tmp_path / "run", RECORD)
    assert read(tmp_path / "run") == RECORD


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json"),
        ("{", "is not what a run records"),
        ("[]", "is not what a run records"),
        ('{"seed": 0}', "is not what a run records"),
        ("\xff", "is not what a run records"),
    ],
)
def test_what_is_no_run_is_told_in_a_line(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_directory_that_is_not_there_is_no_run(tmp_path):
    with pytest.raises(ValueError, match="no run: it does not exist"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed 0, not 1"),
        ({"data": "mnist"}, "data None, not mnist"),
        ({"chunk": 2}, "chunk 1, not 2"),
        ({"experiment": "other"}, "experiment toy, not other"),
        ({"config": {"rates": {"generator": 0.2}, "width": 3}}, r"rates\.generator 0\.1, not 0\.2"),
    ],
)
def test_a_resumed_run_differs_in_nothing_that_its_numbers_follow_from(change, message):
    with pytest.raises(ValueError, match=message):
        check_same(Path("run"), RECORD, dataclasses.replace(RECORD, **change))


@pytest.mark.parametrize(
    ("change", "notes"),
    [
        ({}, 0),
        ({"steps": 20, "data_dir": "moved", "log_every": 7}, 0),
        ({"sha256": "1" * 64}, 1),
        ({"sha256": "1" * 64, "provenance": {}}, 2),
        ({"config": {**RECORD.config, "new": 1}}, 0),
    ],
)
def test_a_resumed_run_may_be_longer_and_tells_what_else_has_changed(change, notes):
    assert len(check_same(Path("run"), RECORD, dataclasses.replace(RECORD, **change))) == notes


def test_the_path_of_a_shipped_experiment_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.lookup, "shipped", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    assert runs.recorded_path(Experiment("a", Path("a.py"))) is None
    assert runs.recorded_path(Experiment("a", Path("sub/a.py"))) == str(tmp_path / "sub" / "a.py")


@dataclasses.dataclass(frozen=True)
class Part:
    on: bool = False
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part = Part()
    well_known: bool = True
    names: tuple[str, ...] = ("a b", "c")
    rate: float = 0.1
    few: int | None = 3


@pytest.mark.parametrize(
    "config",
    [
        Whole(),
        Whole(part=Part(on=True, sizes=(3, 4, 5)), well_known=False),
        Whole(names=("x",), rate=-1e-3, few=None),
        Whole(part=Part(sizes=())),
    ],
)
def test_the_command_of_a_study_makes_the_same_configuration(config):
    record = runs.StudyRecord(experiment="some", path=None, config=to_json(config), data=None, data_dir=None)
    words = shlex.split(record.command(Whole()))
    assert words[:3] == ["gan-jax", "train", "some"]
    assert tyro.cli(Whole, args=words[3:]) == config


def test_the_command_of_many_runs_says_which():
    members = {"seeds": "0..3", "grid": ["rate=0.1,1", "few=2,3"], "steps": 100, "chunk": None, "group": 8}
    record = runs.StudyRecord(
        experiment="mine", path="/home/me/mine.py", config={}, data="folder:/home/me/x", data_dir="/y", members=members
    )
    expected = "gan-jax train mine.py --data folder:DIR --steps 100 --seeds 0..3 --grid rate=0.1,1 --grid few=2,3"
    assert record.command(Whole()) == expected
    known = dataclasses.replace(record, data=None, members=None)
    assert known.command(Whole(), "gan-jax train mine.py --data-dir DIR") == "gan-jax train mine.py --data-dir DIR"
