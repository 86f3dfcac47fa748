"""Run directories: what one holds; the way back from it to a trained model is in `models`.

- config.json: the configuration and all else that the numbers follow from, a `Record`
- metrics.jsonl: a row for each logged step; TensorBoard's events lie beside it
- samples/: pictures
- scores.jsonl, best.json, alarms.jsonl: what a watched run came to, see `watch`; probes.jsonl, see `diagnosis`
- checkpoints/: states
- controller.json: of a run that is controlled, what controls it, see `models`
- card.json: the metric card, once evaluated
"""

import dataclasses
import hashlib
import json
import os
import shlex
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import jax
import numpy as np

from gan_jax.base import Key, Program
from gan_jax.training import lookup
from gan_jax.training.lookup import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """What config.json says."""

    experiment: str  # its name
    path: str | None  # of its file; None for an experiment that is shipped, which the name finds anywhere
    sha256: str  # of its file
    config: Mapping[str, Any]  # as `to_json` gives it
    seed: int
    data: str | None
    data_dir: str | None
    data_sha256: str  # of what the program keeps of it on the device
    steps: int
    chunk: int
    log_every: int
    picture_every: int
    checkpoint_every: int
    provenance: Mapping[str, Any]
    score_every: int = 0
    probe_every: int = 0
    patience: int = 0
    equilibrium: float = 0.0
    parallel: str = "jit"
    fully_sharded: bool = False
    controller: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRecord:
    """What the config.json of a study says. What produced a number stands beside the number, in its cell.

    members: of many runs of an experiment that is no study, which seeds and how they train, see `sweeps`.
    """

    experiment: str  # its name
    path: str | None  # of its file, as a run records it
    config: Mapping[str, Any]  # as `to_json` gives it
    data: str | None
    data_dir: str | None
    members: Mapping[str, Any] | None = None

    def command(self, default: Any, usually: str = "") -> str:
        """The command that begins such a study anywhere: no folder of this machine is in it.

        default: the configuration of which only differences need be typed.
        usually: the command that the experiment's docstring gives, with what must stand around it.
        """
        words, usual = [], flat(to_json(default))
        for name, value in flat(self.config).items():
            place, dot, last = name.replace("_", "-").rpartition(".")
            if value == usual.get(name):
                continue
            if isinstance(value, bool):
                words += [f"--{place}{dot}{'' if value else 'no-'}{last}"]
            else:
                words += [f"--{place}{dot}{last}", *map(str, value if isinstance(value, list) else [value])]
        if self.data is not None:
            words += ["--data", "folder:DIR" if self.data.startswith("folder:") else self.data]
        members = self.members or {}
        for option in ("steps", "chunk", "seeds", "grid"):
            value = members.get(option)
            for each in value if isinstance(value, list) else [] if value is None else [value]:
                words += [f"--{option}", str(each)]
        name = self.experiment if self.path is None else f"{self.experiment}.py"
        return " ".join([usually or f"gan-jax train {name}", *map(shlex.quote, words)])


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a tree of mappings under dotted names, as the command line spells them, after a prefix."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        leaves |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return leaves


# Configurations as JSON


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as JSON values. ValueError if it would not come back the same."""
    try:
        values = json.loads(json.dumps(dataclasses.asdict(config)))
        faithful = from_json(type(config), values) == config
    except (TypeError, ValueError) as error:
        raise ValueError(f"the configuration cannot be recorded: {error}") from error
    if not faithful:
        raise ValueError(f"the configuration cannot be recorded: {config} comes back different")
    return values


def from_json(kind: Any, values: Any, name: str = "") -> Any:
    """Return the value of a type, the kind, from the JSON that `to_json` made of it.

    Frozen dataclasses, tuples, literals, unions, bool, int, float, str and None. A field that is
    not recorded takes its default.
    name: of the field that the value is of, dotted, for an error.
    ValueError: one that is recorded but does not exist, or that holds a value of another type.
    """
    if dataclasses.is_dataclass(kind) and isinstance(values, dict):
        hints = get_type_hints(kind)
        fields = {field.name for field in dataclasses.fields(kind)}
        prefix = f"{name}." if name else ""
        for field in values.keys() - fields:
            raise lookup.unknown("field", prefix + field, [prefix + known for known in fields])
        return kind(**{field: from_json(hints[field], value, prefix + field) for field, value in values.items()})
    origin, members = get_origin(kind), get_args(kind)
    if origin is tuple and isinstance(values, list):
        if members[-1] is ...:
            members = members[:1] * len(values)
        if len(members) == len(values):
            return tuple(from_json(member, value, name) for member, value in zip(members, values, strict=True))
    elif origin in (Union, types.UnionType):
        for member in members:
            try:
                return from_json(member, values, name)
            except ValueError:
                continue
    elif origin is Literal:
        if any(type(member) is type(values) and member == values for member in members):
            return values
    elif kind in (bool, int, str, types.NoneType):
        if type(values) is kind:
            return values
    elif kind is float and type(values) in (float, int):
        return values
    raise ValueError(f"{name} is recorded as {values!r}, which is not {getattr(kind, '__name__', kind)}")


# Directories

CONTROLLER = "controller.json"
_TEMPORARY = ".json.tmp"


def check_vacant(directory: Path) -> None:
    """Check that a run can begin in a directory: ValueError unless it is new or empty."""
    if (directory / "config.json").exists():
        raise ValueError(
            f"{directory} already holds a run of {read(directory).experiment}; "
            "give another --run, or --resume to continue it"
        )
    # A run that was killed before it had its config.json left nothing worth keeping.
    nothing = {_TEMPORARY, CONTROLLER}
    if directory.exists() and (not directory.is_dir() or {path.name for path in directory.iterdir()} - nothing):
        raise ValueError(f"{directory} exists and is no run: give a --run that is new or an empty folder")


def create(directory: Path, record: Record | StudyRecord, controller: Mapping[str, Any] | None = None) -> None:
    """Begin a run in a directory that is new or empty. ValueError if it is neither.

    controller: of a run that is controlled, what `models.controller` gives.
    """
    check_vacant(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if controller is not None:
        write_json(directory / CONTROLLER, controller, indent=None)
    write(directory, record)


def write(directory: Path, record: Record | StudyRecord) -> None:
    """Write config.json, whole or not at all."""
    write_json(directory / "config.json", dataclasses.asdict(record))


def write_json(path: Path, values: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Write values to a JSON file, for people unless it has no indent, whole or not at all.

    ValueError: a number among them is not finite.
    """
    temporary = path.with_name(_TEMPORARY)
    temporary.write_text(json.dumps(values, indent=indent, allow_nan=False) + "\n")
    os.replace(temporary, path)


def read(directory: Path) -> Record | StudyRecord:
    """What a directory says of its run, or its study. ValueError if it is neither's."""
    path = directory / "config.json"
    if not path.is_file():
        what = "has no config.json" if directory.is_dir() else "does not exist"
        raise ValueError(f"{directory} is no run: it {what}; gan-jax train EXPERIMENT --run {directory} begins one")
    try:
        values = json.loads(path.read_bytes())
        return Record(**values) if "steps" in values else StudyRecord(**values)
    except (ValueError, TypeError) as error:  # TypeError: no mapping, or other keys
        raise ValueError(f"{path} is not what a run records: {error}; restore it, or train anew") from error


def sha256(experiment: Experiment) -> str:
    """The digest of an experiment's file."""
    return hashlib.sha256(experiment.path.read_bytes()).hexdigest()


def data_sha256(program: Program) -> str:
    """The digest of the arrays that a program's batches are drawn from."""
    digest = hashlib.sha256()
    for leaf in map(np.asarray, jax.tree.leaves(program.batches.arrays)):
        digest.update(f"{leaf.shape} {leaf.dtype.str}\n".encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def recorded_path(experiment: Experiment) -> str | None:
    """What `Record.path` holds."""
    path = experiment.path.absolute()
    return None if path.parent == lookup.shipped().absolute() else str(path)


def check_same(directory: Path, recorded: Record, given: Record) -> tuple[str, ...]:
    """Check that a run that is resumed is the run that was begun, as far as its numbers go.

    How long it trains may change, and where its data lies. Returns a line for whatever may change
    its bits all the same. ValueError: the first difference.
    """
    check_identity(directory, recorded, given)
    if recorded.data_sha256 != given.data_sha256:
        raise ValueError(f"the data of {directory} is not what it was: bring it back, or give another --run")
    notes = []
    if recorded.sha256 != given.sha256:
        notes.append(f"the file of {given.experiment} has changed since {directory} was begun")
    if recorded.provenance != given.provenance:
        notes.append(f"versions, device or code have changed since {directory} was begun (see its config.json)")
    return tuple(notes)


def check_identity(directory: Path, recorded: Record | StudyRecord, given: Record | StudyRecord) -> None:
    """Check that two records, of runs or of studies, agree in what the numbers follow from. ValueError if not."""

    def identity(record: Record | StudyRecord) -> dict[str, Any]:
        names = ("experiment", "seed", "data", "chunk")
        told = {name: getattr(record, name) for name in names if hasattr(record, name)}
        return told | flat(record.config) | flat(getattr(record, "members", None) or {})

    before, now = identity(recorded), identity(given)
    for name, value in now.items():
        # A field that is not recorded yet is new in the experiment's file, which a note tells.
        if name in before and before[name] != value:
            raise ValueError(
                f"{directory} was begun with {name} {before[name]}, not {value}: "
                "resume without changing it, or give another --run"
            )


# Randomness


def sampling_key(seed: int) -> Key:
    """The key of samples and pictures: apart from those that training with the same seed draws from."""
    return jax.random.fold_in(jax.random.key(seed), 2**32 - 1)
