"""Steps of GANs a second, beside PyTorch's on the same machine, in turns.

Command: GAN_JAX_PEERS=PYTHON gan-jax train gan_speed
Result: the best of ours over the best of PyTorch's on two AMD EPYC cores: 1.44 (perceptrons), .63 (DCGAN), .75 (with
    R1), .78 (SNGAN); docs/performance.md says what each is short of (docs/gan_speed/report.md)
Cost: 13 minutes on two AMD EPYC cores

Four works of 64 images a step, each one step of the discriminator and one of the generator: two perceptrons for 28x28,
DCGAN for 32x32 (Radford et al. 2015), DCGAN with R1 and no normalisation in the discriminator, and the residual pair of
SNGAN (Miyato et al. 2018) at a width of 64. Images are drawn from an array on the device, the generator answers to the
fakes that the discriminator has seen, Adam is fused on both sides, and the generator is averaged. A test holds both
sides to the same losses, gradients and moves (tests/test_peers.py). Ours does a little more: D(x), D(G(z)) and
saturation as metrics, and a fourth power iteration of spectral normalisation where PyTorch makes three.

Ours runs with each lowering of convolutions that an experiment may name, as many steps a call as suit it. PyTorch runs
eagerly and compiled, with channels first and last. PYTHON is that of an environment with it (`experiments/peers`).
Rounds alternate, rates are medians over rounds, and each of ours is divided by the best of PyTorch's. On an accelerator
both sides use it; `--dtype bfloat16` is mixed precision. Let the machine be quiet.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax import latents, objectives, penalties, rules
from gan_jax.base import Network, Pair, Program, Report, Study
from gan_jax.data import images
from gan_jax.gan import GAN, Hypers, adam, gan
from gan_jax.networks import dcgan, lowerings, mlp, resnet
from gan_jax.networks.lowerings import Lowering
from gan_jax.networks.precision import mixed
from gan_jax.networks.spectral import spectral
from gan_jax.training import lookup, turns

PEERS = {
    "eager": "PyTorch",
    "channels_last": "PyTorch, channels last",
    "compiled": "torch.compile",
    "compiled_channels_last": "torch.compile, channels last",
    "graphed": "PyTorch, a step as a CUDA graph",
}
CUDA = ("graphed",)  # of these, which a CPU cannot
CONVOLUTIONS = ("xla", "unlooped")  # of ours, which differ from the first ones on a CPU alone


class Way(NamedTuple):
    """How ours is run: its convolutions, and steps in a call."""

    title: str
    lowering: Callable[[], Lowering]
    chunk: int


ONE, MANY = "one", "many"
WAYS = {
    ONE: Way("ours, a step a call", lowerings.auto, 1),
    MANY: Way("ours, ten steps a call", lowerings.auto, 10),
    "xla": Way("ours, XLA's convolutions", lowerings.xla, 1),
    "unlooped": Way("ours, XLA's convolutions but for the transposed", lowerings.unlooped, 1),
}


class Work(NamedTuple):
    """A GAN: its size, its networks of a width and a lowering, its game, and the ways that differ.

    spectral: whether the discriminator's kernels are normalised.
    """

    title: str
    size: int
    latent: int
    networks: Callable[[int, Lowering], Pair[Network]]
    hyper: Hypers
    beta2: float = 0.999
    hinge: bool = False
    spectral: bool = False
    ways: tuple[str, ...] = tuple(WAYS)


RATES = Pair(2e-4, 2e-4)
WORKS = {
    "mlp": Work(
        "Perceptrons, 28x28",
        28,
        100,
        lambda width, _: Pair(
            mlp.generator(100, (28, 28, 1), widths=(4 * width, 8 * width, 16 * width)),
            mlp.discriminator((28, 28, 1), widths=(16 * width, 8 * width, 4 * width), dropout=0.0),
        ),
        Hypers(rates=RATES, beta1=0.5),
        ways=(ONE, MANY),
    ),
    "dcgan": Work(
        "DCGAN, 32x32",
        32,
        100,
        lambda width, lowering: Pair(
            dcgan.generator(100, 32, 1, width=width, lowering=lowering),
            dcgan.discriminator(32, 1, width=width, lowering=lowering),
        ),
        Hypers(rates=RATES, beta1=0.5),
    ),
    "dcgan_r1": Work(
        "DCGAN with R1, 32x32",
        32,
        100,
        lambda width, lowering: Pair(
            dcgan.generator(100, 32, 1, width=width, lowering=lowering),
            dcgan.discriminator(32, 1, width=width, normalise=False, lowering=lowering),
        ),
        Hypers(rates=RATES, beta1=0.5, penalty=10.0),
    ),
    "sngan": Work(
        "Residual SNGAN, 32x32",
        32,
        128,
        lambda width, lowering: Pair(
            resnet.generator(128, 32, 1, width=width, lowering=lowering),
            resnet.discriminator(32, 1, width=width, lowering=lowering),
        ),
        Hypers(rates=RATES, beta1=0.0),
        beta2=0.9,
        hinge=True,
        spectral=True,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    works: tuple[str, ...] = tuple(WORKS)
    """The GANs."""
    peers: tuple[str, ...] = tuple(PEERS)
    """Ways of PyTorch; none measures this library alone."""
    batch: int = 64
    """Images in a step."""
    width: int = 64
    """Channels of the finest features; a quarter of a perceptron's narrowest layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What networks compute in."""
    rounds: int = 7
    """Turns of each."""
    seconds: float = 2.0
    """About how long a turn is."""


SMALLEST = Config(works=("dcgan_r1",), peers=(), batch=2, width=2, rounds=1, seconds=0.01)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study: a cell for each work."""
    if data is not None:
        raise ValueError(f"--data {data}: speeds are those of the embedded digits, leave the option out")
    lookup.require_known("work", config.works, WORKS)
    lookup.require_known("peer", config.peers, PEERS)
    turns.require_pace(config.rounds, config.seconds)
    python = turns.interpreter(config.peers)
    return Study(
        cells={name: partial(cell, config, name, python) for name in config.works}, report=partial(report, config)
    )


def assemble(
    work: Work, *, width: int, lowering: Lowering, dtype: str = "float32", latent: Callable[..., Any] | None = None
) -> GAN:
    """Return the GAN of a work; `latent` draws its latents, normal ones unless given."""
    networks = work.networks(width, lowering)
    if dtype != "float32":
        networks = Pair(*(mixed(network, jnp.dtype(dtype)) for network in networks))
    if work.spectral:
        networks = networks._replace(discriminator=spectral(networks.discriminator))
    return gan(
        networks,
        latent or latents.normal(work.latent),
        hyper=work.hyper,
        objective=lambda hyper: objectives.hinge() if work.hinge else objectives.non_saturating(hyper.smoothing),
        penalty=(lambda hyper: penalties.r1(hyper.penalty)) if work.hyper.penalty else None,
        rule=lambda hyper: rules.alternating(adam(hyper, beta2=work.beta2), reuse=True),
        ema=0.995,
    )


def program(config: Config, name: str, way: Way) -> Program:
    """Return what takes the steps of a work."""
    work, source = WORKS[name], images.load("digits", size=WORKS[name].size)
    model = assemble(work, width=config.width, lowering=way.lowering(), dtype=config.dtype)
    return model.program(partial(images.batches, source.train, config.batch), chunk=way.chunk)


def cell(config: Config, name: str, python: str | None, directory: Path) -> Mapping[str, Any]:
    """Measure ours and PyTorch's in turns, in steps a second; a way that PyTorch cannot go says why."""
    device = "cpu" if jax.devices()[0].platform == "cpu" else "cuda"
    left_out = CUDA if device == "cpu" else CONVOLUTIONS
    ways = [way for way in WORKS[name].ways if way not in left_out]
    runners = {way: turns.compiled(program(config, name, WAYS[way])) for way in ways}
    options = {"batch": config.batch, "width": config.width, "device": device, "dtype": config.dtype}
    script, failed = Path(__file__).parent / "peers" / "gan_torch.py", {}
    with ExitStack() as stack:
        for peer in (peer for peer in config.peers if peer not in left_out):
            try:
                runners[peer] = stack.enter_context(turns.peer(str(python), script, name, peer, json.dumps(options)))
            except ValueError as error:
                failed[peer] = str(error)
        rates = turns.rates(runners, rounds=config.rounds, seconds=config.seconds)
    return {"machine": turns.machine(), "rates": rates, "failed": failed}


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return a table for each work, and a figure of all."""
    text = [
        "Each step is one of the discriminator and one of the generator. Rates are medians of rounds in turns; a ratio "
        "is to the best of PyTorch's, with its quartiles over rounds.",
        "",
    ]
    for name, result in results.items():
        rates: Mapping[str, list[float]] = result["rates"]
        best = max((peer for peer in PEERS if peer in rates), key=lambda peer: np.median(rates[peer]), default=None)
        text += [
            f"## {WORKS[name].title}",
            "",
            f"{result['machine']}; {config.batch} images, width {config.width}, {config.dtype}; {config.rounds} "
            "rounds.",
            "",
            "| way | steps a second | images a second | ratio |",
            "| --- | ---: | ---: | ---: |",
        ]
        for who, each in rates.items():
            rate = np.median(each)
            ratio = str(turns.ratio(each, rates[best])) if best else ""
            text.append(f"| {_title(who)} | {rate:.3g} | {rate * config.batch:,.0f} | {ratio} |")
        text += [f"| {_title(who)} | cannot: {why} | | |" for who, why in result["failed"].items()] + [""]
    return Report("\n".join(text), {"speed": _figure(results)} if results else {})


def _title(who: str) -> str:
    return WAYS[who].title if who in WAYS else PEERS[who]


def _figure(results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(results), 3.6), layout="constrained")
    for ax, (name, result) in zip(figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True):
        for place, (who, rates) in enumerate(result["rates"].items()):
            ax.barh(place, np.median(rates), color="C0" if who in WAYS else "C1", alpha=0.5)
            ax.plot(rates, [place] * len(rates), ".", color="k", markersize=3)
        ax.set_yticks(range(len(result["rates"])), [_title(who).replace(", ", ",\n") for who in result["rates"]])
        ax.tick_params(labelsize=6)
        ax.invert_yaxis()
        ax.set_title(WORKS[name].title, fontsize=9)
        ax.set_xlabel("steps a second", fontsize=8)
    return figure
