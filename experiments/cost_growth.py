"""How cost grows: a step, and compiling it, against the size of everything that can be made larger.

Command: gan-jax train cost_growth
Result: a step takes time in proportion to images from 32 on, to the 1.5th power of the width from 16 on, and in
    proportion to inner steps and to tasks from 1 on; 64 pixels a side cost 4.8 times what 32 do. Compiling takes 5 to
    7 s whatever the batch, the width and the devices, 7 to 12 s from 28 to 64 pixels, 17 to 39 s an outer step; 15
    collectives on 2, 4 and 8 devices (docs/cost_growth/report.md)
Cost: one to two minutes an axis, seven those of inner steps and of tasks, on two AMD EPYC cores

A step of `mnist_dcgan` against its batch, its width, its resolution, and the devices of the host that share a batch of
64 each; an outer step of `omniglot_maml_gan` (MAML of second order, width 8) against inner steps and tasks. All sizes
of an axis take turns, and rates are medians over rounds. Compiling is timed without a cache. Devices are those that
JAX makes of one host (JAX_NUM_CPU_DEVICES), in a process of their own: they share its cores, so that what is read of
them is compiling, and the number and size of the collectives, not a speed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from gan_jax.base import Program, Report, Study
from gan_jax.training import lookup, loop, parallel, plan, turns

TITLES = {
    "batch": "images in a batch",
    "width": "channels of the finest features",
    "size": "pixels a side",
    "devices": "devices, 64 images each",
    "inner_steps": "inner steps",
    "tasks": "tasks",
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which axes are gone along, how far, and for how long."""

    axes: tuple[str, ...] = tuple(TITLES)
    """Of those in TITLES."""
    batch: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Images in a batch."""
    width: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the finest features."""
    size: tuple[int, ...] = (28, 32, 64)
    """Pixels a side."""
    devices: tuple[int, ...] = (1, 2, 4, 8)
    """Devices of the host."""
    inner_steps: tuple[int, ...] = (1, 5, 10, 20, 50)
    """Steps of an inner loop."""
    tasks: tuple[int, ...] = (1, 2, 4, 8, 16)
    """Tasks in an outer step."""
    rounds: int = 5
    """Turns of each size."""
    seconds: float = 1.0
    """About how long a turn is."""


SMALLEST = Config(axes=("width",), width=(1, 2), rounds=1, seconds=0.01)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: a cell for each axis."""
    if data is not None:
        raise ValueError(f"--data {data}: costs are those of the embedded digits, leave the option out")
    lookup.require_known("axis", config.axes, TITLES)
    for axis in config.axes:
        if min(getattr(config, axis), default=0) < 1:
            raise ValueError(f"{axis}={getattr(config, axis)}: give one or more, of 1 or more")
    turns.require_pace(config.rounds, config.seconds)
    cells: dict[str, Callable[[Path], Mapping[str, Any]]] = {axis: partial(cell, config, axis) for axis in config.axes}
    return Study(cells, partial(report, config))


def program(axis: str, size: int) -> Program:
    """Return what is trained where one size is not the experiment's own."""
    if axis in ("inner_steps", "tasks"):
        parts = lookup.load(lookup.find("omniglot_maml_gan"))
        small = {"method": "maml", "width": 8, "tasks": 4} | {axis: size}
        return parts.build(parts.Config(**small), "digits")
    parts = lookup.load(lookup.find("mnist_dcgan"))
    sizes = {"batch": 64 * size} if axis == "devices" else {axis: size}
    return parts.build(parts.Config(**sizes))


def cell(config: Config, axis: str, directory: Path) -> Mapping[str, Any]:
    """Measure all sizes of an axis: steps a second in turns, or collectives, and seconds of compiling."""
    sizes = getattr(config, axis)
    if axis == "devices":
        return {"machine": turns.machine(), "sizes": {str(size): elsewhere(size) for size in sizes}}
    programs = {str(size): program(axis, size) for size in sizes}
    compiling = {size: round(compile_seconds(made), 2) for size, made in programs.items()}
    runners = {size: turns.compiled(made) for size, made in programs.items()}
    rates = turns.rates(runners, rounds=config.rounds, seconds=config.seconds)
    found = {size: {"compiling": compiling[size], "rates": rates[size]} for size in programs}
    return {"machine": turns.machine(), "sizes": found}


def compile_seconds(program: Program) -> float:
    """Return how long XLA takes for a chunk, with nothing kept from earlier times; tracing is not counted."""
    key = jax.random.key(0)
    advance: Any = loop.compile_chunk(program, program.chunk)
    lowered = advance.lower(key, loop.abstract(program, key), program.batches.arrays, jnp.int32(0))
    kept = jax.config.jax_enable_compilation_cache  # pyrefly: ignore[missing-attribute]  # JAX adds its flags later
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # which asks but once whether it is enabled
    try:
        start = time.perf_counter()
        lowered.compile()
        return time.perf_counter() - start
    finally:
        jax.config.update("jax_enable_compilation_cache", kept)
        compilation_cache.reset_cache()


def elsewhere(devices: int) -> Mapping[str, Any]:
    """Compile a step for so many devices of the host, in a process that has them."""
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, str(Path(__file__)), str(devices)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ValueError(f"{devices} devices: {run.stderr.strip().splitlines()[-1]}")
    return json.loads(run.stdout)


def here(devices: int) -> Mapping[str, Any]:
    """Compile a step for the devices of this process, and count its collectives."""
    found = plan.plan(program("devices", devices), parallel.mesh())
    return {
        "compiling": round(found.seconds, 2),
        "collectives": sum(each.count for each in found.collectives),
        "bytes": sum(each.bytes for each in found.collectives),
    }


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return a table for each axis, and a figure of all."""
    text = [f"Medians of {config.rounds} rounds in turns. The exponent is that of the size in the time of a step."]
    for axis, result in results.items():
        text += ["", f"## {TITLES[axis]}", "", f"On {result['machine']}.", ""]
        if axis == "devices":
            text += ["| devices | collectives | kB a device puts in | compiling, s |", "| ---: |" + " ---: |" * 3]
            for size, found in result["sizes"].items():
                row = (size, found["collectives"], f"{found['bytes'] / 1e3:.4g}", found["compiling"])
                text.append(f"| {' | '.join(map(str, row))} |")
            continue
        text += [f"| {TITLES[axis]} | steps a second | exponent | compiling, s |", "| ---: |" + " ---: |" * 3]
        before: tuple[float, float] | None = None
        for size, found in result["sizes"].items():
            now = float(size), float(np.median(found["rates"]))
            # Between this size and the one before: 1 where time is proportional to it.
            exponent = f"{-np.log(now[1] / before[1]) / np.log(now[0] / before[0]):.2f}" if before else ""
            text.append(f"| {size} | {now[1]:.3g} | {exponent} | {found['compiling']} |")
            before = now
    return Report("\n".join(text), {"growth": _figure(results)} if results else {})


def _figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.8 * len(results), 4.5), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False)
    for (above, below), (axis, result) in zip(axes.T, results.items(), strict=True):
        sizes = [float(size) for size in result["sizes"]]
        for found, size in zip(result["sizes"].values(), sizes, strict=True):
            if "rates" in found:
                above.plot([size] * len(found["rates"]), 1e3 / np.array(found["rates"]), ".", color="C0")
            else:
                above.plot([size], [found["bytes"] / 1e3], "o", color="C2")
            below.plot([size], [found["compiling"]], "o", color="C1")
        above.set(xscale="log", yscale="log", title=TITLES[axis])
        above.set_ylabel("kB in collectives" if axis == "devices" else "ms a step")
        below.set(xscale="log", ylabel="s of compiling", ylim=(0, None))
        for ax in (above, below):
            ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
            ax.minorticks_off()
            ax.tick_params(labelsize=7)
            ax.title.set_fontsize(8)
    return figure


if __name__ == "__main__":
    print(json.dumps(here(int(sys.argv[1]))))
