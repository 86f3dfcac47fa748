"""GANs adapted to four or eight images of a class that they have never seen: the few-shot table, on Omniglot and MNIST.

Command: gan-jax train fewshot_images --data-dir DIR
Result: kernel distances to MNIST's unseen digits after ten steps on 8 images: 229 ± 16 after joint pre-training,
    251 ± 5 Reptile, 238 ± 77 MAML, 201 ± 17 MAML with rates of each step and array; 62 ± 47 from scratch in 1,000
    steps, whose samples are copies. To Omniglot's unseen characters 176 ± 63, 16,915 ± 48,046, 170 ± 17, 154 ± 50 and
    567 ± 605, and 151 ± 25 with learned rates and R1. No learner beats joint pre-training with intervals apart
    (docs/fewshot_images/report.md). Four times as many outer steps do it on MNIST: 194 ± 11 with rates of each step
    and array, 255 ± 38 after as much joint pre-training (--methods joint per_step --sets mnist --updates 2000;
    docs/fewshot_images_longer/report.md)
Cost: two hours and twenty minutes on two cores of an AMD EPYC beside other work, three to five minutes a cell of second
    order; 13 minutes a cell at 2,000 steps, on one core each. Five trials, --updates 5000 --tasks 8 --width 16, of
    which this is the small form: some ten days there

The GAN of `omniglot_maml_gan`, its initialisation learned in each of the ways of `meta.catalogue`, is adapted to images
of 20 characters of unseen alphabets (Omniglot), or of the digits 7, 8 and 9, of which it has seen none (MNIST), by ten
steps of its own loss. Samples are measured against the other images of the same classes, in 64 principal components of
the shipped extractor's features, which no learner uses: theirs is a distance of pixels at three scales. Each row and
seed is adapted at the best of four multiples of its rates, learned ones among them, by the kernel distance on classes
that it was trained on. Scratch is trained for 1,000 steps as well.
"""

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax.arithmetic import require_counts
from gan_jax.base import Program, Report, Study
from gan_jax.data import episodes, images
from gan_jax.data.episodes import Grouped
from gan_jax.gan import GAN
from gan_jax.meta import tasks
from gan_jax.meta.catalogue import META_LEARNERS, TITLES, at_multiple
from gan_jax.meta.outer import mapped
from gan_jax.metrics import features
from gan_jax.metrics.classes import FewShot, few_shot
from gan_jax.metrics.spread import interval
from gan_jax.training import lookup, studies

LONG = "scratch-long"  # scratch, for as many steps as `long` says
COMPONENTS = 64  # of features
FITTED = 5000  # images that the components are those of
SHOWN = 3  # classes in the figure
TESTING, CHOOSING = 1, 2  # places from the end of a seed's keys, whose beginning is that of training


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared, and for how long."""

    sets: tuple[str, ...] = ("omniglot", "mnist")
    """Image sets."""
    methods: tuple[str, ...] = tuple(TITLES)
    """The rows."""
    support_sizes: tuple[int, ...] = (4, 8)
    """Images that are adapted to; each row is trained once, on tasks of the most of them."""
    trials: int = 3
    """Seeds of each row."""
    updates: int = 500
    """Outer steps; joint pre-training takes ten times as many, of one step each."""
    tasks: int = 4
    """Classes in an outer step."""
    width: int = 8
    """Channels of the finest layer of both networks."""
    long: int = 1000
    """Steps of the longer row from scratch."""
    multiples: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)
    """Of the inner rates, that each row chooses from."""
    classes: int = 20
    """Unseen classes, if there are as many."""
    choosing: int = 8
    """Classes that were trained on, which choose the multiple, if there are as many."""
    samples: int = 64
    """Samples of a class."""


SMALLEST = Config(
    sets=("digits",),
    methods=("reptile",),
    support_sizes=(2,),
    trials=1,
    updates=1,
    tasks=2,
    width=2,
    multiples=(1.0,),
    classes=2,
    choosing=1,
    samples=40,
)


def build(config: Config, data: str | None = None, data_dir: str | None = None) -> Study:
    """Return the study; `data` names one image set in the place of all."""
    config = replace(config, sets=(data,)) if data else config
    lookup.require_known("method", config.methods, TITLES)
    require_counts(trials=config.trials, updates=config.updates, support_sizes=min(config.support_sizes))
    loaded = {name: images.load(name, data_dir, size=28) for name in config.sets}  # so that it is missed here
    return Study(
        cells={f"{name}-real-0": partial(real, config, loaded[name]) for name in config.sets}
        | {
            f"{name}-{row}-{seed}": partial(cell, config, loaded[name], row, seed)
            for name in config.sets
            for row in rows_of(config)
            for seed in range(config.trials)
        },
        report=partial(report, config),
    )


def cell(config: Config, data: images.Images, row: str, seed: int, directory: Path) -> Mapping[str, Any]:
    """Train a row from a seed, and adapt it to each number of images of unseen classes."""
    parts = lookup.load(lookup.find("omniglot_maml_gan"))
    method, shots = row.removesuffix("-long"), max(config.support_sizes)
    sizes = parts.Config(method=method, shots=shots, tasks=config.tasks, width=config.width)
    divided = episodes.divide(data)
    channels = data.train.image.shape[-1]
    model: GAN = parts.assemble(sizes, channels)
    setting = parts.setting(sizes, model, channels)
    meta, key = META_LEARNERS[method](setting), jax.random.key(seed)
    updates = config.updates * (sizes.inner_steps if method == "joint" else 1)
    state, start = (), time.monotonic()
    if method != "scratch":
        stream = tasks.batches(tasks.classes(divided.train, shots, sizes.queries), config.tasks)
        program = Program(meta.init, meta.meta_step, stream, lambda key, state: {}, steps=updates)
        trained = studies.train(program, key, directory, steps=updates, every=100)
        if trained.stop:
            return {"updates": trained.step, "stopped": trained.stop.reason}
        state = trained.state
    learning = time.monotonic() - start
    steps = config.long if row == LONG else sizes.inner_steps

    @jax.jit
    def adapted(state: Any, key: jax.Array, support: Any, multiple: Any) -> jax.Array:
        """Samples [C, n, ...] of generators that are adapted to supports [C, K, ...]."""
        adapting = META_LEARNERS[method](at_multiple(setting, multiple))

        def one(key: jax.Array, support: jax.Array) -> jax.Array:
            adapt_key, sample_key = jax.random.split(key)
            state_now = adapting.adapt(adapt_key, state, {"image": support}, steps=steps)
            return model.sample(sample_key, state_now.current(), config.samples)

        return mapped(one, jax.random.split(key, len(support)), support, at_once=sizes.at_once)

    measure = measurer(data)

    def judged(classes: Grouped, shots: int, place: int, multiple: float) -> tuple[FewShot | None, np.ndarray]:
        """What a multiple comes to, None where it diverges, and the samples."""
        draw_key, adapt_key = jax.random.split(jax.random.fold_in(key, 2**32 - place))
        support, query = parted(classes, shots, draw_key)
        samples = np.asarray(adapted(state, adapt_key, support, multiple))
        return measure(samples, query, support) if np.isfinite(samples).all() else None, samples

    def tested(shots: int) -> dict[str, Any]:
        seen, unseen = few(divided.train, config.choosing), few(divided.held_out, config.classes)

        def tried(multiple: float) -> float:
            found, _ = judged(seen, shots, CHOOSING, multiple)
            return found.kid if found else np.inf

        best = min(config.multiples, key=tried)
        start = time.monotonic()
        found, samples = judged(unseen, shots, TESTING, best)
        if found is None:
            return {"stopped": f"diverges at {best:g} of its rates"}
        rounded = {name: round(value, 5) for name, value in found._asdict().items()}
        shown = {"shown": _levels(samples)} if seed == 0 else {}
        return {**rounded, "multiple": best, "seconds": round(time.monotonic() - start, 1), **shown}

    judgements = {str(shots): tested(shots) for shots in config.support_sizes}
    return {"updates": updates, "learning_seconds": round(learning, 1), **judgements}


def real(config: Config, data: images.Images, directory: Path) -> Mapping[str, Any]:
    """Measure real images of the unseen classes against others: what a perfect generator would come to.

    The support is that of the first seeds, and is what the figure shows of it.
    """
    chosen, measure = few(episodes.divide(data).held_out, config.classes), measurer(data)
    draw_key, _ = jax.random.split(jax.random.fold_in(jax.random.key(0), 2**32 - TESTING))

    def halves(shots: int) -> dict[str, Any]:
        support, query = parted(chosen, shots, draw_key)
        half = query.shape[1] // 2
        found = measure(query[:, :half], query[:, half:], support)
        return {**found._asdict(), "shown": _levels(support)}

    return {str(shots): halves(shots) for shots in config.support_sizes}


def few(grouped: Grouped, count: int) -> Grouped:
    """Return so many of the classes, or all if there are fewer."""
    return episodes.spread(grouped, min(count, len(grouped.label)))


def _levels(pixels: np.ndarray) -> list[Any]:
    """The first few images of the first classes, as they are kept for the figure."""
    few = np.nan_to_num(pixels[:SHOWN, :4])
    return np.asarray(images.to_uint8(few))[..., 0].tolist()


def parted(grouped: Grouped, shots: int, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return supports [C, K, ...] and other images of the same classes, 200 of each or all that the smallest has."""
    count = min(int((grouped.table >= 0).sum(axis=1).min()), shots + 200)
    arrays, keys = episodes.on_device(grouped), jax.random.split(key, len(grouped.label))
    drawn = [episodes.examples(arrays, mine, row, count) for row, mine in enumerate(keys)]
    stacked = np.stack([np.asarray(each) for each in drawn])
    return stacked[:, :shots], stacked[:, shots:]


def measurer(data: images.Images) -> Callable[..., FewShot]:
    """Return what measures images, [C, n, ...] each, in the leading principal components of the shipped features."""
    extractor = features.extractor(data.name)
    total = len(data.train.image)
    some = np.linspace(0, total - 1, min(FITTED, total)).astype(int)
    read, _ = extractor.all(np.asarray(images.to_float(data.train.image[some])))
    mean = read.mean(axis=0)
    axes = np.linalg.svd(read - mean, full_matrices=False)[2][:COMPONENTS].T

    def project(pixels: np.ndarray) -> np.ndarray:
        read, _ = extractor.all(pixels.reshape(-1, *pixels.shape[2:]))
        return ((read - mean) @ axes).reshape(*pixels.shape[:2], -1)

    return lambda samples, query, support: few_shot(*map(project, (samples, query, support)))


def report(config: Config, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """Return a table for each set and each number of images, and what the first seeds draw."""
    text = []
    for name, shots in itertools.product(config.sets, config.support_sizes):
        text += [
            f"## {name}, {shots} images",
            "",
            f"{config.updates:,} outer steps of {config.tasks} classes, width {config.width}; ten steps of adaptation. "
            f"Mean over the seeds that are finished ± 95 % interval, of {config.trials}.",
            "",
            "| method | seeds | KID | Fréchet | accuracy | coverage | memory | multiples of the rates | learning, s "
            "| adapting, s |",
            "| --- |" + " ---: |" * 9,
        ]
        for row in ("real", *rows_of(config)):
            cells = [each for seed in range(config.trials) if (each := results.get(f"{name}-{row}-{seed}"))]
            judged = [each.get(str(shots), each) for each in cells]
            done = [each for each in judged if "kid" in each]
            stopped = [each["stopped"] for each in judged if "stopped" in each]
            entries = [_entry([each[measure] for each in done]) for measure in FewShot._fields]
            multiples = " ".join(f"{each['multiple']:g}" for each in done if "multiple" in each)
            learning = _median([each["learning_seconds"] for each in cells if "learning_seconds" in each])
            adapting = _median([each["seconds"] for each in done if "seconds" in each])
            title = _title(row, config) + (f" ({len(stopped)} stopped: {stopped[0]})" if stopped else "")
            text.append(f"| {title} | {len(done)} | {' | '.join(entries)} | {multiples} | {learning} | {adapting} |")
        text.append("")
    shown = {
        f"{name}-{shots}-{row}": result[str(shots)]["shown"]
        for name, shots, row in itertools.product(config.sets, config.support_sizes, ("real", *rows_of(config)))
        if "shown" in (result := results.get(f"{name}-{row}-0", {})).get(str(shots), {})
    }
    return Report("\n".join(text), {"samples": _figure(config, shown)} if shown else {})


def rows_of(config: Config) -> tuple[str, ...]:
    """Return the rows of a table: after scratch comes its longer form."""
    return tuple(row for name in config.methods for row in ((name, LONG) if name == "scratch" else (name,)))


def _title(row: str, config: Config) -> str:
    return {"real": "real images", LONG: f"scratch, {config.long:,} steps"}.get(row) or TITLES[row]


def _median(values: list[float]) -> str:
    return f"{np.median(values):.0f}" if values else ""


def _entry(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {interval(values):.3f}"


def _figure(config: Config, shown: Mapping[str, list[Any]]) -> Any:
    from matplotlib.figure import Figure

    tables = [f"{name}-{shots}" for name, shots in itertools.product(config.sets, config.support_sizes)]
    rows = [row for row in ("real", *rows_of(config)) if any(f"{table}-{row}" in shown for table in tables)]
    figure = Figure(figsize=(1.6 * len(rows), 1.5 * len(tables)), layout="constrained")
    axes = figure.subplots(len(tables), len(rows), squeeze=False)
    for table, line in zip(tables, axes, strict=True):
        for ax, row in zip(line, rows, strict=True):
            ax.set_axis_off()
            ax.set_title(f"{table}\n{'support' if row == 'real' else row}", fontsize=7)
            if levels := shown.get(f"{table}-{row}"):
                tiles = np.array(levels)  # [classes, samples, H, W]
                ax.imshow(np.concatenate([np.concatenate(list(tile), axis=1) for tile in tiles]), cmap="gray")
    return figure
