"""Speed, side by side: whatever takes steps does so in turns on one machine, so that its noise meets all alike."""

import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.base import Program
from gan_jax.training import loop

WARM = 3  # steps of a peer that are not measured: what compiles or records does so in the first ones
PEERS = "GAN_JAX_PEERS"  # the variable that names a Python which has the other libraries


class Runner(NamedTuple):
    """Runs steps, a multiple of `unit`, and returns the seconds that they took."""

    unit: int
    run: Callable[[int], float]


class Ratio(NamedTuple):
    """How many times as fast one is as another: of medians over all turns, and the quartiles of turn against turn."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def compiled(program: Program, chunk: int | None = None) -> Runner:
    """Return what takes steps of a program as the loop does, `chunk` of them a call; compiled, and once run.

    Nothing is fetched, as between two rows of a run.
    """
    key, unit = jax.random.key(0), program.chunk if chunk is None else chunk
    advance = loop.compile_chunk(program, unit)
    state, done = loop.init(program, key), jnp.int32(0)
    arrays = jax.tree.map(jnp.asarray, program.batches.arrays)  # put once, and not again by each call

    def run(steps: int) -> float:
        nonlocal state, done
        start = time.perf_counter()
        for _ in range(steps // unit):
            state, done, _ = advance(key, state, arrays, done)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    run(unit)
    return Runner(unit, run)


def require_pace(rounds: int, seconds: float) -> None:
    """Refuse fewer than one round, and turns that take no time or ten minutes.

    seconds: that a turn takes.

    Raises:
        ValueError: naming both.
    """
    if rounds < 1 or not 0 < seconds < 600:
        raise ValueError(f"{rounds} rounds of {seconds} s: give 1 or more, of a positive time below 600 s")


def interpreter(peers: tuple[str, ...]) -> str | None:
    """Return the Python of `$GAN_JAX_PEERS`; None if nobody is compared with.

    peers: the names of the libraries that it should have.
    ValueError: it is not set, or there is no such file.
    """
    if not peers:
        return None
    python = os.environ.get(PEERS)
    if not python:
        raise ValueError(f"{PEERS} is not set: name a Python that has the libraries of {', '.join(peers)}")
    if not Path(python).is_file():
        raise ValueError(f"{PEERS}={python}: there is no such file; name a Python")
    return python


@contextmanager
def peer(python: str, script: Path, *words: str) -> Iterator[Runner]:
    """Run a script of another Python beside this one.

    python: its executable. words: the script's arguments.
    The script prints "ready" when it is; then, for each line on its standard input, a number of steps, the seconds that
    they took.

    ValueError: it ends or says anything else, with the last line of what it wrote to its standard error.
    """
    command = [python, str(script), *words]
    # Errors go to a file, as nobody reads them while it runs, and a pipe that is full would stop it.
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdin and process.stdout

        def answer() -> str:
            said = process.stdout.readline().strip()
            if not said:
                raise gone()
            return said

        def gone() -> ValueError:
            process.wait()
            errors.seek(0)
            why = (errors.read().strip().splitlines() or ["no word of why"])[-1]
            return ValueError(f"{python} cannot run {script.name} {' '.join(words)}: {why}")

        def ask(steps: int) -> float:
            try:
                print(steps, file=process.stdin, flush=True)
            except OSError:
                with suppress(OSError):  # what could not be written is not to be tried again
                    process.stdin.close()
                raise gone() from None
            return float(answer())

        if (said := answer()) != "ready":
            raise ValueError(f"{script.name} {' '.join(words)} says {said!r} where it should say 'ready'")
        ask(WARM)
        yield Runner(1, ask)  # what ends the block closes the pipes, and the script with them


def rates(runners: Mapping[str, Runner], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return steps a second of each of the runners in each round, in which all take a turn of about so many seconds."""
    steps = {who: _lasting(runner, seconds) for who, runner in runners.items()}
    found: dict[str, list[float]] = {who: [] for who in runners}
    for _ in range(rounds):
        for who, runner in runners.items():
            found[who].append(float(f"{steps[who] / runner.run(steps[who]):.5g}"))
    return found


def _lasting(runner: Runner, seconds: float) -> int:
    """How many steps take about so many seconds, judged by as many as take a tenth of them or more."""
    units = 1
    while (taken := runner.run(units * runner.unit)) < seconds / 10:
        units *= 2
    return runner.unit * max(1, round(units * seconds / taken))


def ratio(mine: list[float], theirs: list[float]) -> Ratio:
    """Compare the rates of two that took turns: `mine` over `theirs`, in steps a second, one a turn."""
    turns = np.divide(mine, theirs)
    return Ratio(float(np.median(mine) / np.median(theirs)), *map(float, np.quantile(turns, (0.25, 0.75))))


def machine() -> str:
    """What computes here, in a few words: the accelerators, or the processor and how many of its cores may be used."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{jax.device_count()} x {device.device_kind}"
    usable = getattr(os, "sched_getaffinity", None)  # macOS has none
    return f"{_processor()}, {len(usable(0)) if usable else os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.machine()
