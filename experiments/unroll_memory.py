"""What an inner loop costs in memory when it is differentiated, and what rematerialisation makes of it.

Command: gan-jax train unroll_memory
Result: memory at 50 inner steps over that at 5, with 0, 1, 2 and 3 levels: 8.6, 5.3, 1.9 and 1.1 (mixture), 8.2, 3.4,
    1.5 and .8 (omniglot, which trains with 2: 178 MiB over 119); docs/unroll_memory/report.md
Cost: five minutes of compiling, on a core of an AMD EPYC beside other work

The outer step of `mixture_maml_gan` (with Adam in the place of descent) and of `omniglot_maml_gan`, at their published
sizes, is compiled for 5 and for 50 inner steps; nothing is run. Memory is that of XLA's plan, its temporary buffers.
With n levels a loop keeps about n steps^(1/n) states and computes each step n times more (`meta.inner`); a state holds
both players' parameters, two moments of Adam for each, and the generator's average.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.base import Report, Study, Task
from gan_jax.meta.catalogue import META_LEARNERS, Setting
from gan_jax.training import lookup


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compiled."""

    settings: tuple[str, ...] = ("mixture", "omniglot")
    """The experiments."""
    levels: tuple[int, ...] = (0, 1, 2, 3)
    """Of rematerialisation; 0 is none."""
    unrolled: tuple[int, int] = (5, 50)
    """Inner steps: few, and many."""
    smallest: bool = False
    """Whether at the smallest sizes of the experiments, for a test."""


SMALLEST = Config(settings=("mixture",), levels=(0, 3), unrolled=(1, 2), smallest=True)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; it needs no data."""
    if data is not None:
        raise ValueError(f"--data {data}: nothing is run, leave the option out")
    lookup.require_known("setting", config.settings, SETTINGS)
    if min(config.levels) < 0 or min(config.unrolled) < 1:
        raise ValueError(f"levels {config.levels} and inner steps {config.unrolled}: give 0, and 1, or more")
    return Study(
        cells={
            f"{name}-{levels}": partial(cell, config, name, levels)
            for name in config.settings
            for levels in config.levels
        },
        report=partial(report, config),
    )


def mixture(smallest: bool) -> tuple[Setting, Task]:
    """Return what `mixture_maml_gan` publishes, but with Adam inside, and the shapes of its tasks."""
    module = lookup.load(lookup.find("mixture_maml_gan"))
    config = module.SMALLEST if smallest else module.Config()
    points: Any = {"x": jax.ShapeDtypeStruct((config.tasks, config.shots, 2), jnp.float32)}
    return module.setting(config, module.assemble(config, inner="adam")), Task(points, points)


def omniglot(smallest: bool) -> tuple[Setting, Task]:
    """Return what `omniglot_maml_gan` publishes, and the shapes of its tasks."""
    module = lookup.load(lookup.find("omniglot_maml_gan"))
    config = module.SMALLEST if smallest else module.Config()

    def images(count: int) -> Any:
        return {"image": jax.ShapeDtypeStruct((config.tasks, count, config.size, config.size, 1), jnp.float32)}

    tasks = Task(images(config.shots), images(config.queries))
    return module.setting(config, module.assemble(config, 1), 1), tasks


SETTINGS = {f.__name__: f for f in (mixture, omniglot)}


def cell(config: Config, name: str, levels: int, directory: Path) -> Mapping[str, Any]:
    """Compile an outer step of a setting for few and for many inner steps."""
    setting, tasks = SETTINGS[name](config.smallest)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = {}
    for steps in config.unrolled:
        meta = META_LEARNERS["learned"](setting._replace(steps=steps, levels=levels))
        lowered = jax.jit(meta.meta_step).lower(key, jax.eval_shape(meta.init, key), tasks)
        start = time.monotonic()
        analysis: Any = lowered.compile().memory_analysis()
        seconds = time.monotonic() - start
        found[str(steps)] = {"bytes": int(analysis.temp_size_in_bytes), "seconds": round(seconds, 1)}
    state = jax.eval_shape(setting.learner.init, setting.learner.hyper, key)
    return {
        **found,
        "tasks": jax.tree.leaves(tasks)[0].shape[0],
        "params": _bytes(setting.learner.get_params(state)),
        "optimisers": _bytes(state.point.rule),
        "state": _bytes(state),
    }


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, and its memory as a figure."""
    few, many = map(str, config.unrolled)
    text = [
        "Temporary buffers of an outer step in MiB, as XLA plans them, and the share of one inner state of each task.",
        "",
        f"| setting | levels | {few} steps | {many} steps | ratio | states "
        "| of these parameters, optimisers | compiling, s |",
        "| --- |" + " ---: |" * 7,
    ]
    for name in config.settings:
        for levels in config.levels:
            result = results.get(f"{name}-{levels}")
            if result is None:
                text.append(f"| {name} | {levels} | pending |  |  |  |  |  |")
                continue
            one, other = result[few], result[many]
            states = result["tasks"] * result["state"]
            shares = (result[part] / result["state"] for part in ("params", "optimisers"))
            text.append(
                f"| {name} | {levels} | {one['bytes'] / 2**20:.1f} | {other['bytes'] / 2**20:.1f} "
                f"| {other['bytes'] / one['bytes']:.2f} | {states / 2**20:.1f} "
                f"| {', '.join(f'{share:.0%}' for share in shares)} | {one['seconds']:.0f}, {other['seconds']:.0f} |"
            )
    return Report("\n".join(text), {"memory": _figure(config, results)} if results else {})


def _figure(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(config.settings), 3), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(config.settings), squeeze=False)[0], config.settings, strict=True):
        for place, steps in enumerate(config.unrolled):
            found = {level: results.get(f"{name}-{level}") for level in config.levels}
            heights = [result[str(steps)]["bytes"] / 2**20 if result else 0.0 for result in found.values()]
            ax.bar(np.arange(len(found)) + 0.4 * place - 0.2, heights, 0.38, label=f"{steps} inner steps")
        ax.set(xticks=range(len(config.levels)), xticklabels=config.levels, xlabel="levels", ylabel="MiB", title=name)
        ax.legend(fontsize=8)
    return figure
