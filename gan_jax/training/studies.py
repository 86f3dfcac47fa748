"""Studies: tables and figures of named cells, each computed once and kept, so that a long one survives interruptions.

A study's directory holds

- config.json: the configuration, a `runs.StudyRecord`
- cells/<name>.json: a finished cell: its result, its seconds, and what produced it
- cells/<name>/: what a cell keeps to go on after an interruption
- report.md and <figure>.png: what the finished cells come to
"""

import fnmatch
import json
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gan_jax.base import Hook, Key, Program, State, Study
from gan_jax.provenance import provenance
from gan_jax.training import loop, pictures, records, runs
from gan_jax.training.checkpoints import Checkpoints

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,=+-]*")


def matching(study: Study, pattern: str) -> tuple[str, ...]:
    """The names of the cells that a pattern of the shell's kind matches, in their order.

    ValueError: there are none, or a name is no name of a file.
    """
    for name in study.cells:
        if not _NAME.fullmatch(name):
            raise ValueError(f"the cell {name!r} cannot name a file: use letters, digits and _.,=+-")
    names = tuple(fnmatch.filter(study.cells, pattern))
    if not names:
        raise ValueError(f"--cells {pattern} matches none of {', '.join(study.cells)}")
    return names


def finished(study: Study, directory: Path) -> dict[str, Any]:
    """The results of the finished cells, in the study's order. ValueError: one that cannot be read."""
    return {name: _recorded(directory, name)["result"] for name in study.cells if _file(directory, name).is_file()}


def stale(study: Study, directory: Path, sha256: str) -> tuple[str, ...]:
    """Return the names of the finished cells that another version of the experiment's file has computed.

    sha256: of the file as it is now.
    """
    there = (name for name in study.cells if _file(directory, name).is_file())
    return tuple(name for name in there if _recorded(directory, name)["sha256"] != sha256)


def compute(study: Study, directory: Path, name: str, sha256: str) -> float:
    """Compute the cell of this name, keep its result, and return the seconds it took this time.

    sha256: of the experiment's file.
    """
    own = directory / "cells" / name
    own.mkdir(parents=True, exist_ok=True)
    start, code = time.monotonic(), provenance()  # of what computes: a checkout may move on meanwhile
    result = study.cells[name](own)
    seconds = time.monotonic() - start
    values = {"result": result, "seconds": round(seconds, 1), "sha256": sha256, "provenance": code}
    runs.write_json(_file(directory, name), values, indent=None)  # a cell may hold many numbers
    shutil.rmtree(own)
    return seconds


def train(
    program: Program,
    key: Key,
    directory: Path,
    *,
    steps: int,
    every: int = 1000,
    hooks: Sequence[Hook] = (),
    begin: Callable[[], State] | None = None,
) -> loop.Result:
    """Train a program, or members of it, in a cell's directory, from where an interruption left it.

    Progress and metrics.jsonl as a run has them; a checkpoint each `every` steps. KeyboardInterrupt after a signal,
    at the next chunk boundary and with a checkpoint. A state that is not finite ends it early, with the Result's stop.
    Members are divided over devices as their keys are. What `begin` gives is the first state, the program's if None.
    At a boundary `hooks` are called after the row is written, and before the checkpoint is.
    """
    with Checkpoints(directory / "checkpoints", keep=1) as checkpoints, loop.interruption() as interruption:
        restored = checkpoints.restore(loop.abstract(program, key))
        start = (restored.step, restored.state) if restored else (0, begin()) if begin else None
        examples = records.images_per_step(program) * key.size
        with records.Records(directory, steps=steps, start=start[0] if start else 0, images_per_step=examples) as rows:
            all_of = (rows.hook(every), *hooks, checkpoints.hook(every), interruption)
            result = loop.train(program, key, steps=steps, start=start, hooks=all_of)
        if result.stop and result.stop.code == 75:
            checkpoints.save(result.step, result.state)
            raise KeyboardInterrupt(result.stop.reason)
    return result


def report(study: Study, directory: Path, title: str = "Report") -> tuple[str, tuple[Path, ...]]:
    """Write report.md, under a title of a line or of several paragraphs, and the figures of the finished cells.

    Return the text and the paths of the figures.
    """
    made = study.report(finished(study, directory))
    paths = tuple(directory / f"{name}.png" for name in made.figures)
    for path, figure in zip(paths, made.figures.values(), strict=True):
        pictures.write(figure, path)
    images = "".join(f"\n![{path.stem}]({path.name})\n" for path in paths)
    (directory / "report.md").write_text(f"# {title}\n\n{made.text.strip()}\n{images}")
    return made.text, paths


def run(
    study: Study,
    directory: Path,
    names: tuple[str, ...],
    sha256: str,
    done: Callable[[str, float], None],
    title: str = "Report",
) -> None:
    """Compute those of the named cells that are not finished, in order; `done(name, seconds)` is called after each.

    The report is brought up to date after each cell, under a title.
    sha256: of the experiment's file.
    """
    for name in names:
        if not _file(directory, name).is_file():
            done(name, compute(study, directory, name, sha256))
            report(study, directory, title)


def _recorded(directory: Path, name: str) -> dict[str, Any]:
    path = _file(directory, name)
    try:
        values = json.loads(path.read_bytes())
        return {field: values[field] for field in ("result", "sha256")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} records no cell: {error!r}; delete it to compute it anew") from error


def _file(directory: Path, name: str) -> Path:
    return directory / "cells" / f"{name}.json"
