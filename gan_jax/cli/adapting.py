"""gan-jax adapt: a meta-learned model, adapted to somebody's pictures."""

from typing import TYPE_CHECKING, Any

from gan_jax.cli import process
from gan_jax.cli.words import Adapt, check_seed

if TYPE_CHECKING:  # JAX is imported where it is needed: `--help` does not wait for it
    import numpy as np


def adapt(command: Adapt) -> int:
    """Do `gan-jax adapt` and return the exit code."""
    with process.preparing():
        check_seed(command.seed)
        if command.n < 2:
            raise ValueError(f"--n {command.n}: draw 2 or more, which are compared")
        if command.steps is not None and command.steps < 0:
            raise ValueError(f"--steps {command.steps}: give 0 or more")

        import jax
        import numpy as np

        from gan_jax import evaluation
        from gan_jax.data import images
        from gan_jax.data import support as supports
        from gan_jax.provenance import provenance
        from gan_jax.training import models, pictures, runs

        process.hush()
        trained = models.load(command.run, data_dir=command.data_dir)
        adapter = trained.program.adapter
        if adapter is None:
            raise ValueError(
                f"{command.run} is a run of {trained.record.experiment}, which does not adapt: "
                "train omniglot_maml_gan, or another meta-learned model"
            )
        given = supports.read(command.images, adapter.shape, command.shots, invert=command.invert, seed=command.seed)
        process.keep_compiled()
        steps = adapter.steps if command.steps is None else command.steps
        support, query = (np.asarray(images.to_float(part)) for part in (given.support, given.query))
        key = runs.sampling_key(command.seed)

        def drawn(steps: int) -> "np.ndarray":
            draw = jax.jit(adapter.draw, static_argnums=(3, 4))
            return np.asarray(draw(key, trained.state, {"image": support}, steps, command.n))

        samples = {"before": drawn(0), "after": drawn(steps)}
        measured = evaluation.adapted(adapter.data, samples, support, query)
    process.note((*trained.notes, *given.notes))
    name = f"{command.images.resolve().name}-{steps}"
    out = command.out or command.run / "adapted"
    pictures.write(_figure(support, samples, steps), out / f"{name}.png")
    card = {
        "measured": measured,
        "run": str(command.run),
        "step": trained.step,
        "images": str(command.images),
        "counts": {"support": len(support), "query": len(query), "samples": command.n},
        "steps": steps,
        "seed": command.seed,
        "invert": command.invert,
        "experiment": trained.record.experiment,
        "config": trained.record.config,
        "provenance": provenance(),
    }
    runs.write_json(out / f"{name}.json", card)
    print(f"adapted to {len(support)} pictures of {command.images} in {steps} steps; {len(query)} others judge")
    rows = runs.flat(measured)
    for title, value in rows.items():
        print(f"  {title:<{max(map(len, rows))}}  {f'{value:.6g}' if isinstance(value, float) else value}")
    print(f"picture: {out / f'{name}.png'}\ncard: {out / f'{name}.json'}")
    return 0


def _figure(support: "np.ndarray", samples: "dict[str, np.ndarray]", steps: int) -> Any:
    """The pictures that were adapted to, above samples before and after."""
    from matplotlib.figure import Figure

    from gan_jax.training import pictures

    columns = 16
    rows = {
        "pictures that are adapted to": support,
        "before": samples["before"],
        f"after {steps} steps": samples["after"],
    }
    tiles = {title: pictures.grid(shown[: 4 * columns], columns) for title, shown in rows.items()}
    heights = [tile.shape[0] for tile in tiles.values()]
    width = next(iter(tiles.values())).shape[1]
    figure = Figure(figsize=(8, 8 * sum(heights) / width + 0.35 * len(tiles)), layout="constrained")
    for ax, (title, tile) in zip(figure.subplots(len(tiles), height_ratios=heights), tiles.items(), strict=True):
        ax.imshow(tile.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_axis_off()
    return figure
