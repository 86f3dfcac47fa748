"""gan-jax sample, evaluate and diagnose: what is done with a run, be it finished or not."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from gan_jax.cli import process
from gan_jax.cli.words import Diagnose, Evaluate, Sample, check_seed

if TYPE_CHECKING:  # JAX is imported where it is needed: `--help` does not wait for it
    from gan_jax.evaluation import Progress
    from gan_jax.training.models import Trained


def _load(run: Path, data_dir: str | None) -> "Trained":
    from gan_jax.training import models

    process.hush()
    return models.load(run, data_dir=data_dir)


def sample(command: Sample) -> int:
    """Do `gan-jax sample` and return the exit code."""
    with process.preparing():
        check_seed(command.seed)
        if command.out and command.out.suffix not in (".png", ".npz", ".gif"):
            raise ValueError(f"--out {command.out}: give a .png, a .npz or a .gif")
        if command.out and command.out.suffix == ".gif":
            return _animate(command, command.out)
        trained = _load(command.run, command.data_dir)

        import jax.numpy as jnp
        import numpy as np

        from gan_jax.training import pictures

        process.keep_compiled()
        # Nothing is written before there are samples, and the model may not have the label.
        samples = trained.sample(command.n, seed=command.seed, label=command.label, frames=command.frames)
        name = f"samples-{trained.step:08d}-seed{command.seed}"
        name += "" if command.label is None else f"-label{command.label}"
        name += "" if command.frames == 1 else f"-frames{command.frames}"
        out = command.out or command.run / "samples" / f"{name}.png"
        kinds = {(4, 1): "image", (4, 3): "image", (2, 2): "x"}  # what a picture can be of
        if out.suffix == ".png" and (samples.ndim, samples.shape[-1]) not in kinds:
            raise ValueError(f"samples of shape {list(samples.shape)} are no picture: give --out FILE.npz")
    process.note(trained.notes)
    if out.suffix == ".png":
        columns = command.frames if command.frames > 1 else None
        pictures.save({kinds[samples.ndim, samples.shape[-1]]: jnp.asarray(samples)}, out, columns=columns)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, samples=samples)
    print(f"{command.n} samples of step {trained.step}, by averaged weights where the model keeps them: {out}")
    return 0


def _animate(command: Sample, out: Path) -> int:
    """Make an animation of the pictures that a run has kept."""
    from gan_jax.training import models, pictures

    for name in ("n", "label", "frames", "seed"):
        if getattr(command, name) != getattr(Sample, name):
            raise ValueError(f"--{name} {getattr(command, name)}: a .gif is of pictures that were drawn, leave it out")
    run = models.one_run(command.run)
    record = models.model_record(run)
    kept = sorted((run / "samples").glob("[0-9]*.png"))
    if len(kept) < 2:
        raise ValueError(
            f"{run} has kept {len(kept)} pictures of {record.experiment}: train one run with a smaller --picture-every"
        )
    pictures.animate(kept, out)
    print(f"{len(kept)} pictures, of steps {int(kept[0].stem)} to {int(kept[-1].stem)}: {out}")
    return 0


def evaluate(command: Evaluate) -> int:
    """Do `gan-jax evaluate` and return the exit code."""
    with process.preparing():
        check_seed(command.seed)
        if command.n < 1:
            raise ValueError(f"--n {command.n}: measure 1 or more")
        trained = _load(command.run, command.data_dir)
        record = trained.record
        measure = trained.program.measure
        if measure is None:
            raise ValueError(f"{command.run} is a run of {record.experiment}, whose program has nothing to measure")

        from gan_jax.evaluation import ImageMeasure
        from gan_jax.metrics import card as cards
        from gan_jax.metrics import inception
        from gan_jax.provenance import provenance
        from gan_jax.training import runs

        path = command.run / "card.json"
        if command.inception:
            if not isinstance(measure, ImageMeasure):
                no_images = f"{command.run} is a run of {record.experiment}, which is not measured by images"
                raise ValueError(f"--inception {command.inception}: {no_images}; leave the option out")
            measure = measure._replace(extractor=inception.read(command.inception), progress=_progress())
            path = command.run / "card-inception.json"  # a score by one extractor does not replace another's
        process.keep_compiled()
        # Nothing is written before it has an answer, and `n` may still turn out to be too few for a metric.
        measured = measure(runs.sampling_key(command.seed), trained.state, command.n)
        card = {
            "measured": measured,
            "run": str(command.run),
            "step": trained.step,
            "seed": command.seed,
            "n": command.n,
            "experiment": record.experiment,
            "config": record.config,
            "controller": record.controller,
            "data": record.data,
            "provenance": provenance(),
        }
        cards.check(card)
    process.note(trained.notes)
    runs.write_json(path, card)
    print(f"{record.experiment} at step {trained.step}, {command.n} samples, seed {command.seed}")
    rows = runs.flat(measured)
    for name, value in rows.items():
        print(f"  {name:<{max(map(len, rows))}}  {f'{value:.6g}' if isinstance(value, float) else value}")
    print(f"card: {path}")
    return 0


def _progress(interval: float = 30.0) -> "Progress":
    """Say how far the reading of images is, at most once in so many seconds, and how long a set still takes."""
    from gan_jax.training.records import duration

    begun = said = 0.0

    def progress(images: str, done: int, total: int) -> None:
        nonlocal begun, said
        now = time.monotonic()
        if not done:
            begun = said = now
            process.say(f"{images}: {total} images")
        elif now - said >= interval:
            said = now
            process.say(f"{images}: {done} of {total} images, {duration((now - begun) / done * (total - done))} left")

    return progress


def diagnose(command: Diagnose) -> int:
    """Do `gan-jax diagnose` and return the exit code: 0, whatever is found."""
    with process.preparing():
        check_seed(command.seed)
        if command.products < 0:
            raise ValueError(f"--products {command.products}: give 1 or more, or 0 for no probe")

        import jax

        from gan_jax.training import diagnosis, models, pictures

        process.hush()
        process.keep_compiled()
        record = models.model_record(command.run)
        probed = step = None
        if command.products and (trained := models.newest(command.run, data_dir=command.data_dir)):
            if trained.program.game:
                examine, step = diagnosis.prober(trained.program, products=command.products), trained.step
                probed = examine(jax.random.key(command.seed), trained.state)
            process.note(trained.notes)
        found = diagnosis.diagnose(command.run, record, probed, step)
    for line in found.lines:
        print(line)
    pictures.write(found.figure, command.run / "diagnosis.png")
    print(f"plots: {command.run / 'diagnosis.png'}")
    return 0
