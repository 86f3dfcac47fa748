"""How many outer steps of MAML a second, beside PyTorch's libraries on the same machine, in turns.

Command: GAN_JAX_PEERS=PYTHON gan-jax train maml_speed
Result: about 2,150 outer steps a second on two AMD EPYC cores: 49 times learn2learn's, 42 TorchOpt's, 91 higher's and 6
    times those of torch.func. Through a GAN 1.0 to 1.4 of them, .9 of the fastest by torch.func as it is published and
    1.2 times that without rematerialisation (docs/maml_speed/report.md)
Cost: five minutes

Two works. That of `sinusoid_maml`: 25 sinusoids of 10 shots, a perceptron 40-40, one inner step, second order, Adam
outside; tasks are drawn anew in each step. learn2learn, TorchOpt and higher run as their users run them, one task after
another; torch.func maps over tasks. And that of `omniglot_maml_gan`: ten steps of a DCGAN with R1 for 8 characters, by
MAML of second order. There torch.func maps over tasks with PyTorch's convolutions, or with products over patches, or
takes one task after another. Ours is run a task at a time, with two levels of rematerialisation and without. A test
holds both sides to the same loss and gradients (tests/meta/test_peers.py).

PYTHON is that of an environment with these libraries (`experiments/peers`). Rounds alternate, and rates are medians
over rounds. Let the machine be quiet: PyTorch's threads wait for each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gan_jax.base import Report, Study
from gan_jax.training import lookup, turns
from gan_jax.training.turns import Runner

SINUSOID = {
    "learn2learn": "learn2learn",
    "torchopt": "TorchOpt",
    "higher": "higher",
    "functional": "torch.func, vmap over tasks",
}
GAN = {
    "gan_vmap": "torch.func, vmap over tasks",
    "gan_patches": "torch.func, vmap over tasks, patches",
    "gan_loop": "torch.func, task by task",
}
ALONE = "alone"  # where no peer is asked for
WORKS = {"sinusoid_maml": SINUSOID | {ALONE: "none"}, "omniglot_maml_gan": GAN}
TITLES = SINUSOID | GAN | {ALONE: "none"}
UNROLLED = "ours, no rematerialisation"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Who is compared, and for how long."""

    peers: tuple[str, ...] = tuple(SINUSOID | GAN)
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
    lookup.require_known("peer", config.peers, SINUSOID | GAN)
    turns.require_pace(config.rounds, config.seconds)
    python = turns.interpreter(config.peers)
    return Study(
        cells={name: partial(cell, config, name, python) for name in config.peers or (ALONE,)},
        report=partial(report, config),
    )


def sinusoid() -> Runner:
    """Return what runs outer steps on sinusoids, compiled."""
    parts = lookup.load(lookup.find("sinusoid_maml"))
    return turns.compiled(parts.program(parts.Config(), parts.meta_learner(parts.Config(), "maml"), 10))


def adversarial(levels: int) -> Runner:
    """Return what runs outer steps through a GAN, on the embedded digits: their number is what counts."""
    parts = lookup.load(lookup.find("omniglot_maml_gan"))
    return turns.compiled(parts.build(parts.Config(method="maml", levels=levels, at_once=1), "digits"))


def cell(config: Config, name: str, python: str | None, directory: Path) -> Mapping[str, Any]:
    """Measure ours and a peer in turns, in outer steps a second."""
    measured = partial(turns.rates, rounds=config.rounds, seconds=config.seconds)
    if name == ALONE:
        return measured({"ours": sinusoid()})
    mine = {"ours": adversarial(2), UNROLLED: adversarial(0)} if name in GAN else {"ours": sinusoid()}
    script = Path(__file__).parent / "peers" / ("maml_gan_torch.py" if name in GAN else "maml_torch.py")
    with turns.peer(str(python), script, name) as other:
        return measured({**mine, "theirs": other})


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table of rates and of their ratios, and a figure."""
    text = [f"Outer steps a second, medians of {config.rounds} rounds in turns.", ""]
    for work, titles in WORKS.items():
        rows = {name: result for name, result in results.items() if name in titles}
        if not rows:
            continue
        text += [
            f"## {work}",
            "",
            "| peer | theirs | ours, in turn with it | ratio |",
            "| --- | ---: | ---: | ---: |",
        ]
        for name, result in rows.items():
            medians = {who: np.median(rates) for who, rates in result.items()}
            other = medians.pop("theirs", np.nan)
            mine = ", ".join(f"{rate:.3g}" for rate in medians.values())
            ratios = ", ".join(f"{rate / other:.2g}" for rate in medians.values() if other == other)
            text.append(f"| {titles[name]} | {other:.3g} | {mine} | {ratios} |")
        text.append("")
    return Report("\n".join(text), {"speed": _figure(results)} if results else {})


def _figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout="constrained")
    ax = figure.subplots()
    for place, result in enumerate(results.values()):
        for who, colour in {"ours": "C0", UNROLLED: "C2", "theirs": "C1"}.items():
            ax.plot([place] * len(result.get(who, [])), result.get(who, []), "o", color=colour, alpha=0.6)
    ax.set(xticks=range(len(results)), yscale="log", ylabel="outer steps a second")
    names = [TITLES[name].replace(", ", ",\n") for name in results]
    ax.set_xticklabels(names, fontsize=7)
    ax.set_title("gan_jax (blue; green without rematerialisation) and PyTorch's libraries (orange)", fontsize=10)
    return figure
