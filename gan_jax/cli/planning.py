"""gan-jax plan: what a step would cost on a slice that nobody has rented yet."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import tyro

from gan_jax.cli import process
from gan_jax.cli.words import PLAIN, Plan, parse
from gan_jax.training import lookup

if TYPE_CHECKING:  # JAX is imported where it is needed: `--help` does not wait for it
    from jax.sharding import Mesh

    from gan_jax.base import Program
    from gan_jax.training.plan import Plan as Planned


def plan(command: Plan, words: Sequence[str] = ()) -> int:
    """Do `gan-jax plan` and return the exit code; `words` are those after --."""
    with process.preparing():
        family, _, number = command.topology.partition(":")
        _here(family, number)
        process.hush()
        experiment = lookup.find(command.experiment)
        module = lookup.load(experiment)

        from gan_jax.training import parallel
        from gan_jax.training import plan as plans

        if command.sizes is not None and family not in plans.FAMILIES:
            raise ValueError(f"--sizes {command.sizes} means nothing with --topology {command.topology}: leave it out")
        names = (command.topology, *(f"{family}:{size}" for size in (command.sizes or "").split(",") if size))
        first, *others = (parallel.mesh(plans.devices(name)) for name in names)
        chip = plans.FAMILIES[family].chip if family in plans.FAMILIES else None
        build = _builder(command, experiment, module, words)

        def compiled(batch: int | None, mesh: "Mesh") -> "Planned":
            return plans.plan(build(batch), mesh, chip, fully_sharded=command.fully_sharded)

        if command.batch == "auto":
            if chip is None:
                raise ValueError(f"--batch auto: nothing says what memory {command.topology} has, give a number")
            results = [_largest(compiled, first, (1 - plans.MARGIN) * chip.hbm)]
        else:
            results = [compiled(_number(command.batch), first)]
        share = results[0].images // first.size
        for mesh in others:
            process.say(f"{mesh.size} chips, {share * mesh.size} images")
            results.append(compiled(share * mesh.size, mesh))
    if others:
        print(plans.table(dict(zip(names, results, strict=True))))
    else:
        print(f"{experiment.name} on {command.topology}: {plans.text(results[0])}")
    return 0


def _here(family: str, number: str) -> None:
    """Keep JAX, which is not imported yet, on the host's devices, as many as are asked for; but for GPUs."""
    if family != "gpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    if family == "cpu" and number.isascii() and number.isdigit():
        os.environ["JAX_NUM_CPU_DEVICES"] = number


def _number(batch: str | None) -> int | None:
    if batch is not None and not (batch.isascii() and batch.isdigit() and int(batch)):
        raise ValueError(f"--batch {batch}: give a number of images, or auto")
    return None if batch is None else int(batch)


def _builder(
    command: Plan, experiment: lookup.Experiment, module: ModuleType, words: Sequence[str]
) -> Callable[[int | None], "Program"]:
    """What builds the experiment with its fields as typed, for another batch if one is given."""
    from gan_jax.base import Study

    prog = f"gan-jax plan {command.experiment} --topology {command.topology} --"
    config = parse(tyro.cli, words, f=Annotated[module.Config, *PLAIN], prog=prog)

    def build(batch: int | None) -> "Program":
        changed = config
        if batch is not None:
            if not hasattr(config, "batch"):
                raise ValueError(f"{experiment.name} has no field named batch: give its own fields after --")
            changed = dataclasses.replace(config, batch=batch)
        built = module.build(changed, command.data, command.data_dir)
        if isinstance(built, Study):
            raise ValueError(f"{experiment.name} is a study of many cells: it has no step that could be planned")
        return built

    return build


def _largest(compiled: Callable[[int, "Mesh"], "Planned"], mesh: "Mesh", room: float) -> "Planned":
    """The plan with the most images on a chip, a power of two, that need no more memory than `room`."""
    from gan_jax.training import plan as plans

    fitting: dict[int, Planned] = {}
    refused = ""

    def needs(images: int) -> float:
        nonlocal refused
        size = images * mesh.size
        try:
            planned = compiled(size, mesh)
        except ValueError as error:  # it does not fit, or the data have no such batch
            refused = f"a batch of {size}: {error}"
            process.say(refused)
            return float("inf")
        process.say(f"a batch of {size}, {images} a chip: {plans.used(planned) / room:.1%} of what it may use")
        fitting[images] = planned
        return plans.used(planned)

    images = plans.largest(needs, room, start=64)
    if images is None:
        raise ValueError(f"--batch auto: {refused or 'one image a chip needs more memory than there is'}")
    return fitting[images]
