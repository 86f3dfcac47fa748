"""How many outer steps of MAML a second, beside PyTorch's libraries on the same machine, in turns.

Command: GAN_JAX_PEERS=PYTHON gan-jax train maml_speed
Result: about 1,900 outer steps a second on two AMD EPYC cores: 46 times learn2learn's, 43 TorchOpt's, 87 higher's and 6
    times those of torch.func (docs/maml_speed/report.md)
Cost: two minutes

The work is that of `sinusoid_maml`: 25 sinusoids of 10 shots, a perceptron 40-40, one inner step, second order, Adam
outside; tasks are drawn anew in each step. learn2learn, TorchOpt and higher run as their users run them, one task after
another; torch.func maps over tasks. PYTHON is that of an environment with these libraries
(`experiments/peers/maml_torch.py`). Rounds alternate, and rates are medians over rounds.
"""

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.base import Report, Study
from gan_jax.training import lookup, loop

TITLES = {
    "learn2learn": "learn2learn",
    "torchopt": "TorchOpt",
    "higher": "higher",
    "functional": "torch.func, vmap over tasks",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Who is compared, and for how long."""

    peers: tuple[str, ...] = tuple(TITLES)
    """The others; none measures this library alone."""
    rounds: int = 7
    """Turns of each."""
    seconds: float = 2.0
    """About how long a turn is."""


SMALLEST = Config(peers=(), rounds=2, seconds=0.01)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; its data are sampled."""
    if data is not None:
        raise ValueError(f"--data {data}: sinusoids are sampled, leave the option out")
    for name in config.peers:
        if name not in TITLES:
            raise ValueError(f"unknown peer {name!r}: there is {', '.join(TITLES)}")
    if config.rounds < 1 or not 0 < config.seconds < 600:
        raise ValueError(f"{config.rounds} rounds of {config.seconds} s: give 1 or more, of a positive time")
    python = os.environ.get("GAN_JAX_PEERS")
    if config.peers and not python:
        raise ValueError(f"GAN_JAX_PEERS is not set: name a Python that has {', '.join(config.peers)}")
    return Study(
        cells={name: partial(cell, config, name, python) for name in config.peers or ("alone",)},
        report=partial(report, config),
    )


Run = Any  # `steps -> seconds`


def ours() -> Run:
    """Return what runs outer steps of this library, compiled."""
    sinusoids = lookup.load(lookup.find("sinusoid_maml"))
    program = sinusoids.program(sinusoids.Config(), sinusoids.meta_learner(sinusoids.Config(), "maml"), 10)
    key = jax.random.key(0)
    chunk = loop.compile_chunk(program, program.chunk)
    state, done = loop.init(program, key), jnp.int32(0)

    def run(steps: int) -> float:
        nonlocal state, done
        start = time.perf_counter()
        for _ in range(steps // program.chunk):
            state, done, _ = chunk(key, state, program.batches.arrays, done)
        jax.block_until_ready(state)
        return time.perf_counter() - start

    run(program.chunk)  # which compiles
    return run


@contextmanager
def theirs(name: str, python: str) -> Iterator[Run]:
    """Run a peer in a process of its own."""
    script = Path(__file__).parent / "peers" / "maml_torch.py"
    with subprocess.Popen(
        [python, str(script), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr

        def ask(steps: int) -> float:
            print(steps, file=process.stdin, flush=True)
            answer = process.stdout.readline()
            if not answer:
                raise ValueError(f"{python} cannot run {name}: {process.stderr.read().strip().splitlines()[-1]}")
            return float(answer)

        if process.stdout.readline().strip() != "ready":
            raise ValueError(f"{python} cannot run {name}: {process.stderr.read().strip().splitlines()[-1]}")
        ask(3)  # warm
        try:
            yield ask
        finally:
            process.stdin.close()


def cell(config: Config, name: str, python: str | None, directory: Path) -> Mapping[str, Any]:
    """Measure ours and a peer in turns, in outer steps a second."""
    mine = ours()
    if name == "alone":
        return {"ours": _rates(config, {"ours": mine}, 500)["ours"]}
    with theirs(name, str(python)) as other:
        return _rates(config, {"ours": mine, "theirs": other}, 500)


def _rates(config: Config, runs: Mapping[str, Run], least: int) -> dict[str, list[float]]:
    steps = {}
    for who, run in runs.items():
        unit = least if who == "ours" else 1
        steps[who] = max(unit, round(config.seconds * unit / run(unit)))
        steps[who] -= steps[who] % unit
    rates: dict[str, list[float]] = {who: [] for who in runs}
    for _ in range(config.rounds):
        for who, run in runs.items():
            rates[who].append(round(steps[who] / run(steps[who]), 2))
    return rates


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table of rates and of their ratios, and a figure."""
    text = [
        f"Outer steps a second, medians of {config.rounds} rounds in turns.",
        "",
        "| peer | theirs | ours, in turn with it | ratio |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, result in results.items():
        mine, other = (np.median(result[who]) if who in result else np.nan for who in ("ours", "theirs"))
        entries = ("", f"{mine:.0f}", "") if name == "alone" else (f"{other:.1f}", f"{mine:.0f}", f"{mine / other:.0f}")
        text.append(f"| {TITLES.get(name, 'none')} | {' | '.join(entries)} |")
    return Report("\n".join(text), {"speed": _figure(results)} if results else {})


def _figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    ax = figure.subplots()
    for place, result in enumerate(results.values()):
        for who, colour in (("ours", "C0"), ("theirs", "C1")):
            ax.plot([place] * len(result.get(who, [])), result.get(who, []), "o", color=colour, alpha=0.6)
    ax.set(xticks=range(len(results)), yscale="log", ylabel="outer steps a second")
    ax.set_xticklabels([TITLES.get(name, "alone") for name in results], fontsize=8)
    ax.set_title("gan_jax (blue) and PyTorch's libraries (orange)", fontsize=10)
    return figure
