"""What a run writes down as it goes: JSON lines, TensorBoard events, a line or a bar of progress, pictures."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TextIO

import jax
import numpy as np

from gan_jax.base import Batch, Continue, Hook, Key, Metrics, Program, State
from gan_jax.training.pictures import save

HEADLINES = {  # what progress shows of a game between two networks, by the names that the library gives its metrics
    "generator/loss": "G {:.3f}",
    "discriminator/loss": "D {:.3f}",
    "discriminator/real": "D(x) {:.2f}",
    "discriminator/fake": "D(G(z)) {:.2f}",
}


def headline(metrics: Mapping[str, float]) -> str:
    """The metrics in a few words: both losses, D(x) and D(G(z)), or else the first four there are."""
    known = [form.format(metrics[name]) for name, form in HEADLINES.items() if name in metrics]
    return "  ".join(known or [f"{name} {value:.4g}" for name, value in list(metrics.items())[:4]])


def duration(seconds: float) -> str:
    """Return seconds as a person reads them: 12s, 3m05s, 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02}m"


def images_per_step(program: Program) -> int:
    """How many examples a step consumes: a batch's leaves are [batches, B, ...]."""
    arrays, draw = program.batches
    batch = jax.eval_shape(draw, arrays, jax.random.key(0), 0)
    return next((math.prod(leaf.shape[:2]) for leaf in jax.tree.leaves(batch)), 1)


Show = Callable[[int, float | None, Mapping[str, float]], None]  # (step, images a second or None, metrics)


class _Mark(NamedTuple):
    """When a step was done, by the monotonic clock."""

    step: int
    time: float


class Records:
    """The records of a run directory: `metrics.jsonl`, TensorBoard events, and progress on a stream.

    steps: where the run will end. start: where it begins; rows of later steps, left by a run that
      was killed after its last checkpoint, are dropped first, and so is a torn last line.
    images_per_step: what a step consumes, for the rate. The rate leaves out the first chunk, which compiles; a row's is
      since the row before, a line of progress's since the line before, and that of the last line of the whole run.
    interval: seconds between lines of progress where the stream (stderr unless given) is no terminal.
    """

    def __init__(
        self,
        directory: Path,
        *,
        steps: int,
        start: int = 0,
        images_per_step: int,
        interval: float = 5.0,
        stream: TextIO | None = None,
    ):
        self._directory, self._steps, self._start = directory, steps, start
        self._images_per_step = images_per_step
        self._stream = sys.stderr if stream is None else stream
        self._interval = min(interval, 0.5) if self._stream.isatty() else interval
        # Where rates are counted from: that of the run, of the next row, of the next line of progress.
        self._first: _Mark | None = None
        self._row: _Mark | None = None
        self._shown: _Mark | None = None
        self._last = start
        self._open = ExitStack()

    def __enter__(self) -> Self:
        from tensorboardX import SummaryWriter

        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / "metrics.jsonl"
        cut(path, self._start)
        with ExitStack() as stack:
            rows = path.open("a", buffering=1)  # by the line: a kill tears the last one at most
            self._rows = stack.enter_context(rows)
            events = SummaryWriter(
                str(self._directory),
                purge_step=self._start + 1 if self._start else None,
                filename_suffix=f".{self._start}",  # names have whole seconds: a quick resume would overwrite
            )
            self._events = stack.enter_context(events)
            show = _bar if self._stream.isatty() else _lines
            self._show = stack.enter_context(show(self._stream, self._steps, self._images_per_step))
            self._open = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._open.close()

    def hook(self, every: int) -> Hook:
        """A row every so many steps, and at the end; progress then and every few seconds; of members, their mean.

        It is called at every boundary, to see when the first chunk is over, but fetches only when it has to.
        ValueError: `every` is less than 1.
        """
        if every < 1:
            raise ValueError(f"a row every {every} steps: use 1 or more")

        def run(step: int, state: State, metrics: Metrics) -> Continue:
            due = step >= self._steps or step // every > self._last // every
            self._last = step
            late = self._shown is None or time.monotonic() - self._shown.time >= self._interval
            if due or late:
                values = {name: float(np.mean(value)) for name, value in jax.device_get(dict(metrics)).items()}
                now = _Mark(step, time.monotonic())  # after the fetch, which waited for the step
                if late or step >= self._steps:
                    self._show(step, self._rate(self._shown if step < self._steps else self._first, now), values)
                    self._shown = now
                if due:
                    self._write(step, self._rate(self._row, now), values)
                    self._row = now
                self._first, self._row = self._first or now, self._row or now
            return Continue()

        return Hook(1, run)

    def _rate(self, mark: _Mark | None, now: _Mark) -> float | None:
        """Images a second since the mark; None where nothing has been measured."""
        if mark is None or now.time <= mark.time:
            return None
        return (now.step - mark.step) * self._images_per_step / (now.time - mark.time)

    def _write(self, step: int, rate: float | None, values: Mapping[str, float]) -> None:
        self._rows.write(line({"step": step, "time": time.time(), "images_per_second": rate, **values}))
        for name, value in values.items():
            self._events.add_scalar(name, value, step)
        if rate is not None:
            self._events.add_scalar("images_per_second", rate, step)


def line(row: Mapping[str, Any]) -> str:
    """A row as a line of JSON; a number that is not finite is null there."""
    plain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"


def append(path: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a file of JSON lines."""
    with path.open("a") as file:
        file.write(line(row))


def cut(path: Path, start: int) -> None:
    """Drop the rows of steps past `start` from a file of JSON lines, and lines that are none (a kill tears one).

    All at once or not at all.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.endswith(b"\n") and (step := _step(line)) is not None and step <= start]
    if kept != lines:
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(b"".join(kept))
        os.replace(temporary, path)


def _step(line: bytes) -> int | None:
    """The step of a row, or None if the line is not one."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None


def _pace(step: int, steps: int, images_per_step: int, rate: float | None) -> tuple[str, str]:
    """The rate and the time that is left, in words; empty where they are not known."""
    if rate is None:
        return "", ""
    left = (steps - step) * images_per_step / rate
    return f"{rate:,.0f} images/s", f"eta {duration(left)}" if left > 0 else ""


@contextmanager
def _lines(stream: TextIO, steps: int, images_per_step: int) -> Generator[Show]:
    """Progress as plain lines, for a log."""

    def show(step: int, rate: float | None, metrics: Mapping[str, float]) -> None:
        pace, eta = _pace(step, steps, images_per_step, rate)
        words = (f"step {step}/{steps}", pace, headline(metrics), eta)
        print("  ".join(word for word in words if word), file=stream, flush=True)

    yield show


@contextmanager
def _bar(stream: TextIO, steps: int, images_per_step: int) -> Generator[Show]:
    """Progress as a bar, for a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    width = len(f"step {steps}/{steps}")
    columns = (  # where the terminal is narrow, the words at the end give way
        TextColumn("step {task.completed}/{task.total}", table_column=Column(min_width=width, no_wrap=True)),
        BarColumn(bar_width=10, table_column=Column(min_width=10)),
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=Console(file=stream)) as progress:
        task = progress.add_task("compiling", total=steps)

        def show(step: int, rate: float | None, metrics: Mapping[str, float]) -> None:
            pace, eta = _pace(step, steps, images_per_step, rate)
            words = "  ".join(word for word in (eta, headline(metrics), pace) if word)
            progress.update(task, completed=step, description=words.replace("[", r"\["))

        yield show


def pictures(directory: Path, observe: Callable[[Key, State], Batch], key: Key, every: int) -> Hook:
    """Return a hook that every so many steps draws what a person would look at to `samples/<step>.png`.

    observe: `(key, state) -> batch`, what is drawn; always from the same key, so that pictures compare.
    """
    look = jax.jit(observe)

    def run(step: int, state: State, metrics: Metrics) -> Continue:
        save(look(key, state), directory / "samples" / f"{step:08d}.png")
        return Continue()

    return Hook(every, run)
