"""Experiments by name or path: Python files with a docstring, a `Config` and a `build`.

The docstring's first line says what. Lines `Command: ...`, `Result: ...` and `Cost: ...`, each
continued by indented lines, say how, with what outcome and at what price; where one comes twice,
the last counts. Nothing here imports JAX, but an experiment that is loaded may.
"""

import ast
import dataclasses
import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

PACKAGE = Path(__file__).parents[1]
LOCAL = Path("experiments")

_FIELD = re.compile(r"^(Command|Result|Cost):(.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)


class Experiment(NamedTuple):
    """A file that says what to train, and the name it goes by."""

    name: str
    path: Path


class Summary(NamedTuple):
    """What an experiment's docstring says of it; "" where it is silent."""

    what: str
    command: str
    result: str
    cost: str


def unknown(kind: str, name: str, names: Iterable[str]) -> ValueError:
    """Return the ValueError for a name of a kind, such as "field", that is not among `names`: the near ones, or all."""
    names = sorted(names)
    near = difflib.get_close_matches(name, names)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there is {', '.join(names) or 'none'}"
    return ValueError(f"unknown {kind} {name!r}: {hint}")


def require_known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a name of a kind that is not known.

    Raises:
        ValueError: of `unknown`, for the first such name.
    """
    known = tuple(known)
    for name in names:
        if name not in known:
            raise unknown(kind, name, known)


def shipped() -> Path:
    """The folder of the experiments that come with the library: inside a wheel, beside a checkout's package."""
    inside = PACKAGE / "experiments"
    return inside if inside.is_dir() else PACKAGE.parent / "experiments"


def catalogue() -> tuple[Experiment, ...]:
    """All experiments by name: those in ./experiments, and the shipped ones that they do not shadow."""
    found = {
        path.stem: Experiment(path.stem, path)
        for folder in (shipped(), LOCAL)
        for path in folder.glob("*.py")
        if not path.name.startswith("_")
    }
    return tuple(found[name] for name in sorted(found))


def find(name: str) -> Experiment:
    """The experiment of a name, or of the path of a .py file. ValueError if there is none."""
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"no experiment at {name}: give the path of an existing file, or a name")
        return Experiment(path.stem, path)
    experiments = {experiment.name: experiment for experiment in catalogue()}
    if name not in experiments:
        raise unknown("experiment", name, experiments)
    return experiments[name]


def summary(experiment: Experiment) -> Summary:
    """What the docstring says, without running the file."""
    try:
        text = ast.get_docstring(ast.parse(experiment.path.read_bytes())) or ""
    except (SyntaxError, ValueError) as error:
        return Summary(f"does not parse: {error}", "", "", "")
    fields = {name: " ".join(value.split()) for name, value in _FIELD.findall(text)}
    return Summary(text.partition("\n")[0], *(fields.get(name, "") for name in ("Command", "Result", "Cost")))


def load(experiment: Experiment) -> ModuleType:
    """Run an experiment's file as a module that has a `Config` and a `build`.

    ValueError: it does not parse; what it imports is not installed; `build` is missing; `Config` is no dataclass whose
        fields all have defaults.
    """
    path = experiment.path
    module = ModuleType(str(path.absolute()))  # unique, where two files may share a stem
    module.__file__ = module.__name__
    try:
        code = compile(path.read_bytes(), module.__file__, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} does not parse: {error}") from error
    sys.modules[module.__name__] = module  # where dataclasses and tyro look for the names in annotations
    try:
        exec(code, module.__dict__)  # not importlib, which leaves bytecode beside the file and may run a stale one
    except ModuleNotFoundError as error:
        there = path.with_name(f"{error.name}.py").exists()
        beside = f"; the file beside it is found with PYTHONPATH={path.parent}, and is not recorded" if there else ""
        raise ValueError(f"{path} imports {error.name!r}, which is not installed{beside}") from error

    if not callable(getattr(module, "build", None)):
        raise ValueError(f"{path} is no experiment: it needs a function build(config, data, data_dir)")
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and dataclasses.is_dataclass(config)):
        raise ValueError(f"{path} is no experiment: it needs a frozen dataclass Config")
    for field in dataclasses.fields(config):
        if field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{path}: the field {field.name} of Config needs a default")
    return module
