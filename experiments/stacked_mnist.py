"""Which methods cover the 1,000 modes of stacked MNIST: PacGAN's table, and a row that it does not have.

Command: gan-jax train stacked_mnist
Result: after 5,000 steps, three seeds, averaged: 976 ± 6 modes and KL .48 (GAN), 941 ± 16 and .62 (PacDCGAN2),
    988 ± 1 and .45 (relativistic + R1 + R2); real pictures 1,000 and .022. Rates and penalty were chosen on the first
    seed (docs/stacked_mnist/report.md)
Cost: a step takes 36 ms (GAN), 66 ms (PacDCGAN2) and 61 ms (relativistic) of a core: half an hour the table on two
    quiet AMD EPYC cores. At the published width and length a seed of each takes 14 hours (250, 380, 400 ms)

The protocol of PacGAN (Lin et al. 2018, arXiv 1712.04086): 128,000 fixed pictures of three digits, one a channel, a
DCGAN, latents of 100 dimensions, Adam with beta1 0.5, batches of 64; 26,000 samples, of which a classifier
reads each channel, here the shipped extractor of digits, of accuracy .9943. It trains for 100,000 steps (50 epochs) at
rate 2e-4: `--updates 100000 --rate 2e-4 --width 64 --trials 10` here. A twentieth of the steps at 1e-3, a quarter of
the width and three seeds are the default. A batch is 64 packs: PacDCGAN2 sees 128 pictures a step. `--data digits`
stacks the 4,000 embedded digits instead of MNIST's 60,000.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gan_jax import evaluation, latents, objectives, penalties, rules
from gan_jax.arithmetic import require_counts
from gan_jax.base import Objective, Pair, Regularizer, Report, Study, UpdateRule
from gan_jax.data import images, stacked
from gan_jax.data.stacked import Stacked
from gan_jax.gan import GAN, GANState, Hypers, adam, gan
from gan_jax.metrics import features
from gan_jax.metrics.features import Extractor
from gan_jax.metrics.modes import categories
from gan_jax.networks import dcgan
from gan_jax.networks.packing import packed
from gan_jax.training import lookup, studies


def _r1_and_r2(weight: float) -> Regularizer:
    return penalties.total(penalties.r1(weight), penalties.r2(weight))


class Method(NamedTuple):
    """A row: what is minimised, under what penalty, on packs of how many.

    A penalty is per example: the discriminator then has no batch normalisation.
    """

    title: str
    objective: Any = objectives.non_saturating
    penalty: Any = None
    weight: float = 0.0
    pack: int = 1


METHODS = {
    "gan": Method("GAN (DCGAN)"),
    "pacgan2": Method("PacDCGAN2", pack=2),
    "relativistic": Method("relativistic + R1 + R2", objectives.relativistic, _r1_and_r2, 0.1),
}

# Seeds, modes and KL of PacGAN's table, where the first two rows are its own runs of the whole protocol and the next
# two are quoted; and the modes of R3GAN (Huang et al. 2024, arXiv 2501.05441), which has another network.
PUBLISHED = {
    "DCGAN": ("10", "78.9 ± 6.5", "4.50"),
    "PacDCGAN2": ("10", "1000", "0.06"),
    "unrolled GAN": ("", "48.7", "4.32"),
    "VEEGAN": ("", "150", "2.95"),
    "R3GAN": ("", "1000", ""),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    methods: tuple[str, ...] = tuple(METHODS)
    """The rows."""
    trials: int = 3
    """Seeds of each."""
    updates: int = 5000
    """Steps of the generator."""
    batch: int = 64
    """Packs in a batch."""
    latent: int = 100
    """Dimensions of the latent."""
    width: int = 16
    """Channels of the finest features in both networks."""
    rate: float = 1e-3
    """Both learning rates."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    ema: float = 0.995
    """Decay of the generator's average."""
    samples: int = 26_000
    """Pictures that are judged."""


SMALLEST = Config(methods=("pacgan2", "relativistic"), trials=1, updates=2, batch=2, latent=3, width=2, samples=20)

_STEPS = 100_000  # of the protocol: 50 epochs
_SHOWN = 10  # pictures of each row in the figure


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; `data` is a set of digits, MNIST unless given."""
    lookup.require_known("method", config.methods, METHODS)
    require_counts(trials=config.trials, updates=config.updates, samples=config.samples)
    source = images.load(data or "mnist", data_dir, size=28)
    extractor = features.extractor(source.name)
    pictures = stacked.stack(source)
    # Assembled now, so that what is wrong with the configuration is known before anything is written.
    models = {name: assemble(config, METHODS[name]) for name in config.methods}
    return Study(
        cells={
            "real": partial(real, config, pictures, extractor),
            **{
                f"{name}-{seed}": partial(cell, config, models[name], METHODS[name].pack, seed, pictures, extractor)
                for seed in range(config.trials)
                for name in config.methods
            },
        },
        report=partial(report, config),
    )


def assemble(config: Config, method: Method) -> GAN:
    """Return the GAN of a row."""
    normalise = method.penalty is None
    discriminator = dcgan.discriminator(28, 3 * method.pack, width=config.width, normalise=normalise)

    def rule(hyper: Hypers) -> UpdateRule:
        return rules.alternating(adam(hyper))

    def objective(hyper: Hypers) -> Objective:
        return method.objective()

    return gan(
        Pair(
            dcgan.generator(config.latent, 28, 3, width=config.width),
            packed(discriminator) if method.pack > 1 else discriminator,
        ),
        latents.normal(config.latent),
        hyper=Hypers(rates=Pair(config.rate, config.rate), beta1=config.beta1, penalty=method.weight),
        objective=objective,
        penalty=None if normalise else lambda hyper: method.penalty(hyper.penalty),
        rule=rule,
        pack=method.pack,
        ema=config.ema,
    )


def cell(
    config: Config, model: GAN, pack: int, seed: int, pictures: Stacked, extractor: Extractor, directory: Path
) -> Mapping[str, Any]:
    """Train a row from one seed, and judge its generator as it stands and averaged."""
    # One seed after another: under vmap a step of each takes longer, for each has weights of its own.
    program = model.program(
        partial(stacked.batches, pictures, config.batch * pack), steps=config.updates, chunk=min(10, config.updates)
    )
    key = jax.random.key(seed)
    trained = studies.train(program, key, directory, steps=config.updates)
    if trained.stop:
        return {"data": pictures.name, "updates": trained.step, "stopped": trained.stop.reason}
    state = trained.state
    last = state.current()

    def drawn(state: GANState) -> np.ndarray:
        return evaluation.draw(model.sample, jax.random.fold_in(key, 2**32 - 1), state, config.samples)

    averaged = drawn(state)
    return {
        "averaged": judge(extractor, averaged),
        "last": judge(extractor, drawn(last)),
        "updates": trained.step,
        "data": pictures.name,
        "pictures": shown(averaged),
    }


def real(config: Config, pictures: Stacked, extractor: Extractor, directory: Path) -> Mapping[str, Any]:
    """Judge as many real pictures: what a perfect generator would get."""
    index = np.arange(min(config.samples, len(pictures.triple)))
    image = np.asarray(stacked.examples(stacked.batches(pictures, 1).arrays, index)["image"])
    return {"data": pictures.name, "last": judge(extractor, image), "pictures": shown(image)}


def judge(extractor: Extractor, image: np.ndarray) -> Mapping[str, Any]:
    """Return how many modes pictures [N, 28, 28, 3] cover and how evenly, each channel read by the extractor."""
    digits = [extractor.all(image[..., channel, None])[1].argmax(axis=1) for channel in range(3)]
    return categories(np.ravel_multi_index(digits, (10, 10, 10)), 1000)._asdict()


def shown(image: np.ndarray) -> list[Any]:
    """Return the first pictures as plain numbers of 0 to 255."""
    return np.asarray(images.to_uint8(image[:_SHOWN])).tolist()


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return the table, published rows beside ours, and pictures of each row's first seed."""
    data = next(iter(results.values()))["data"] if results else "its digits"
    protocol = "The protocol" if config.updates >= _STEPS else f"The shortened protocol, of {_STEPS:,} steps"
    text = [
        f"## stacked MNIST, of {data}: modes of 1,000, KL(generated ‖ uniform) in nats",
        "",
        f"{protocol}: {config.updates:,} steps, rate {config.rate:g}, width {config.width}, {config.samples:,} "
        f"samples. Mean and standard error over the seeds that are finished, of {config.trials}.",
        "",
        f"| method | seeds | average (decay {config.ema}): modes | KL | as it stands: modes | KL |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows = {"real": "real pictures", **{name: METHODS[name].title for name in config.methods}}
    for name, title in rows.items():
        mine = [results[cell] for cell in _cells(config, name) if cell in results]
        ended = [result["stopped"] for result in mine if "stopped" in result]
        words = [_entry(mine, which, field) for which in ("averaged", "last") for field in ("covered", "reverse_kl")]
        text.append(f"| {'; '.join([title, *ended])} | {len(mine) or 'pending'} | {' | '.join(words)} |")
    for title, (seeds, covered, divergence) in PUBLISHED.items():
        text.append(f"| {title}, published | {seeds} | | | {covered} | {divergence} |")
    return Report("\n".join(text), {"pictures": _figure(config, rows, results)} if results else {})


def _cells(config: Config, name: str) -> list[str]:
    """The names of a row's cells."""
    return [name] if name == "real" else [f"{name}-{seed}" for seed in range(config.trials)]


def _entry(members: list[Mapping[str, Any]], which: str, field: str) -> str:
    """Mean ± standard error over those that got so far."""
    values = np.array([member[which][field] for member in members if which in member])
    if not len(values):
        return ""
    digits = 1 if field == "covered" else 3
    error = f" ± {values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{error}"


def _figure(config: Config, rows: Mapping[str, str], results: Mapping[str, Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.1 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)
    for ax, (name, title) in zip(axes[:, 0], rows.items(), strict=True):
        result = results.get(_cells(config, name)[0], {})
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=8, loc="left")
        if "pictures" in result:
            ax.imshow(np.concatenate(np.array(result["pictures"], np.uint8), axis=1))
    return figure
