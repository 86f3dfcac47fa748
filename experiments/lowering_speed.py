"""What a convolution costs, by how it is written: its value, its gradients, and the same inside a loop.

Command: gan-jax train lowering_speed
Result: in a loop, gradients take XLA's convolutions 1.2 to 2.2 s on two AMD EPYC cores, and products 17 to 23 ms, at
    the three layers of many channels; outside of one, that of the transposed by its kernel 182 and 11 ms
    (docs/lowering_speed/report.md)
Cost: four minutes on two AMD EPYC cores

Three maps at layers of the DCGAN and the residual pair of `gan_speed`: `down` with 4x4 kernels of stride 2, its
transpose `up`, and `same` with 3x3 kernels, each as XLA's own convolution and as matrix products
(`networks.lowerings`). Timed are the value, the gradients by kernel and by image for a given slope of the output, both
gradients in one program, and the same in a loop of three steps (`lax.scan`). All take turns; numbers are medians over
rounds. On an accelerator the table is another.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from gan_jax.arithmetic import require_counts
from gan_jax.base import Report, Study
from gan_jax.networks.lowerings import Map, patches, xla
from gan_jax.training import lookup, turns

WAYS = {"xla": xla, "patches": patches}
WORKS = {
    "value": "value",
    "kernel": "gradient by kernel",
    "image": "gradient by image",
    "both": "both gradients",
    "loop": "both, in a loop",
}
STEPS = 3  # of the loop


class Layer(NamedTuple):
    """A map of images of a size and channels to so many channels."""

    title: str
    name: str
    size: int
    channels: int
    features: int


LAYERS = {
    "down": Layer("down", "down", 16, 64, 128),
    "up": Layer("up", "up", 8, 128, 64),
    "same": Layer("same", "same", 16, 64, 64),
    "down_thin": Layer("down, of one channel", "down", 32, 1, 64),
    "up_thin": Layer("up, to one channel", "up", 16, 64, 1),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which layers, and for how long."""

    layers: tuple[str, ...] = tuple(LAYERS)
    """Of those in LAYERS."""
    batch: int = 64
    """Images."""
    rounds: int = 7
    """Turns of each."""
    seconds: float = 0.3
    """About how long a turn is."""


SMALLEST = Config(layers=("down_thin",), batch=1, rounds=1, seconds=0.001)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: a cell for each layer."""
    if data is not None:
        raise ValueError(f"--data {data}: a convolution is timed on noise, leave the option out")
    lookup.require_known("layer", config.layers, LAYERS)
    require_counts(batch=config.batch)
    turns.require_pace(config.rounds, config.seconds)
    return Study({name: partial(cell, config, LAYERS[name]) for name in config.layers}, partial(report, config))


def works(convolve: Map) -> dict[str, Callable[[Array, Array, Array], Any]]:
    """Return what is timed, as functions of the image, the kernel and a slope of the output."""

    def gradients(image: Array, kernel: Array, slope: Array) -> tuple[Array, ...]:
        return jax.vjp(convolve, image, kernel)[1](slope)

    def loop(image: Array, kernel: Array, slope: Array) -> tuple[Array, ...]:
        def step(total: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], None]:
            return optax.tree.add(total, gradients(image, kernel + index, slope + index)), None

        return lax.scan(step, (image, kernel), jnp.arange(float(STEPS)))[0]

    return {
        "value": lambda image, kernel, slope: convolve(image, kernel),
        "kernel": lambda *arguments: gradients(*arguments)[1],
        "image": lambda *arguments: gradients(*arguments)[0],
        "both": gradients,
        "loop": loop,
    }


def runner(function: Callable[..., Any], *arguments: Array) -> turns.Runner:
    """Return what calls a function so many times; compiled, and once run."""
    compiled = jax.jit(function)

    def run(calls: int) -> float:
        result, start = None, time.perf_counter()
        for _ in range(calls):
            result = compiled(*arguments)
        jax.block_until_ready(result)
        return time.perf_counter() - start

    run(1)
    return turns.Runner(1, run)


def cell(config: Config, layer: Layer, directory: Path) -> Mapping[str, Any]:
    """Measure a layer in all ways, in calls a second, and count the operations of its value."""
    keys, side = jax.random.split(jax.random.key(0), 3), 3 if layer.name == "same" else 4
    image = jax.random.normal(keys[0], (config.batch, layer.size, layer.size, layer.channels))
    kernel = jax.random.normal(keys[1], (side, side, layer.channels, layer.features))
    runners = {}
    for way, lowering in WAYS.items():
        convolve: Map = getattr(lowering(), layer.name)
        slope = jax.random.normal(keys[2], jax.eval_shape(convolve, image, kernel).shape)
        for work, function in works(convolve).items():
            runners[f"{work}, {way}"] = runner(function, image, kernel, slope)
    pixels = config.batch * layer.size**2 // (4 if layer.name == "down" else 1)  # at which the kernel stands
    return {
        "machine": turns.machine(),
        "operations": 2 * pixels * kernel.size,
        "rates": turns.rates(runners, rounds=config.rounds, seconds=config.seconds),
    }


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return a table for each layer, and a figure of all."""
    text = [
        f"Milliseconds, medians of {config.rounds} rounds in turns, with {config.batch} images in float32. In brackets "
        f"billions of operations a second. The loop takes {STEPS} steps, the time is one's.",
    ]
    for name, result in results.items():
        layer = LAYERS[name]
        text += [
            "",
            f"## {layer.title}: {layer.size}x{layer.size}, {layer.channels} to {layer.features} channels",
            "",
            f"On {result['machine']}.",
            "",
            "| | " + " | ".join(WORKS.values()) + " |",
            "| --- |" + " ---: |" * len(WORKS),
        ]
        for way in WAYS:
            times = [_seconds(result, work, way) for work in WORKS]
            counts = [result["operations"] * (2 if work in ("both", "loop") else 1) for work in WORKS]
            speeds = [count / took / 1e9 for count, took in zip(counts, times, strict=True)]
            entries = [f"{1e3 * took:.3g} ({speed:.3g})" for took, speed in zip(times, speeds, strict=True)]
            text.append(f"| {way} | {' | '.join(entries)} |")
    return Report("\n".join(text), {"times": _figure(results)} if results else {})


def _seconds(result: Mapping[str, Any], work: str, way: str) -> float:
    return (1 / STEPS if work == "loop" else 1) / float(np.median(result["rates"][f"{work}, {way}"]))


def _figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.6 * len(results), 3.2), layout="constrained")
    for ax, (name, result) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for place, way in enumerate(WAYS):
            heights = [1e3 * _seconds(result, work, way) for work in WORKS]
            ax.bar(np.arange(len(WORKS)) + 0.4 * place - 0.2, heights, 0.4, label=way)
        ax.set_xticks(range(len(WORKS)), WORKS.values(), rotation=60, ha="right", fontsize=7)
        ax.set_yscale("log")
        ax.tick_params(axis="y", labelsize=7)
        ax.set_title(LAYERS[name].title, fontsize=9)
        ax.set_ylabel("ms", fontsize=8)
    ax.legend(fontsize=7)
    return figure
