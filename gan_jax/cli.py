"""The command line: gan-jax list, train, sample, evaluate.

Exit codes: 0 done; 2 the input is wrong (one line says how, and nothing was written); 3 stopped by
an alarm; 4 the environment failed; 75 interrupted, resume with the same command and --resume.
"""

import contextlib
import dataclasses
import io
import itertools
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

import tyro
from tyro.conf import Positional, arg

from gan_jax.training import lookup
from gan_jax.training.lookup import Experiment

# JAX, and all that imports it, is imported where a command needs it: `--help` does not wait for it.
if TYPE_CHECKING:
    from gan_jax.base import Program, State
    from gan_jax.training.checkpoints import Checkpoints
    from gan_jax.training.runs import Record, Trained

T = TypeVar("T")


# What is typed

_INTERVALS = ("log_every", "picture_every", "checkpoint_every")
_RECORDED = ("seed", "data", "data_dir", *_INTERVALS)  # options that a run records as they are
_OWN = arg(help_behavior_hint="(default: the experiment's)")
_PLAIN = (tyro.conf.DisallowNone, arg(name=""))  # without a prefix; None only by not typing the option


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How an experiment is run; no experiment's field has one of these names."""

    run: Annotated[Path | None, arg(help_behavior_hint="(default: runs/EXPERIMENT-SEED)")] = None
    """The run's directory."""
    resume: bool = False
    """Continue the run, which must exist, as it was configured."""
    steps: Annotated[int | None, _OWN] = None
    """Steps to train in all."""
    seed: int = 0
    """All randomness of the run follows from it."""
    data: Annotated[str | None, _OWN] = None
    """A data set's name, or folder:DIR for one's own images."""
    data_dir: Annotated[str | None, arg(help_behavior_hint="(default: where TFDS looks)")] = None
    """Where data sets are."""
    chunk: Annotated[int | None, _OWN] = None
    """Steps in one compiled call."""
    log_every: int = 50
    """Steps between rows of metrics.jsonl, and between looks for a loss that is not finite."""
    picture_every: int = 500
    """Steps between pictures."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""

    def check(self) -> None:
        """Raise ValueError for a number out of range."""
        for name in ("steps", "chunk", *_INTERVALS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give 1 or more")
        _check_seed(self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class List:
    """Show the experiments: what, command, last measured result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an experiment; `gan-jax train EXPERIMENT --help` shows its fields."""

    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")]
    """A name that `gan-jax list` shows, or the path of a .py file."""
    options: Annotated[RunOptions, *_PLAIN] = RunOptions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a run's newest checkpoint, by averaged weights where the model keeps them."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The directory of a run."""
    n: int = 64
    """How many samples."""
    label: int | None = None
    """The class of all of them, for a conditional model."""
    seed: int = 0
    """The same seed draws the same samples."""
    out: Path | None = None
    """A .png to draw them, or a .npz to keep them as they are (default: a picture in RUN/samples)."""
    data_dir: str | None = None
    """Where the data sets are, if not where they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a run's newest checkpoint; print the metric card and write RUN/card.json."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The directory of a run."""
    n: int = 10_000
    """How many samples to measure."""
    seed: int = 0
    """The same seed measures the same samples."""
    data_dir: str | None = None
    """Where the data sets are, if not where they were."""


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:  # beyond, JAX would wrap it to another one's
        raise ValueError(f"--seed {seed}: give 0 to {2**32 - 1}")


# Wrong input


class _WrongInput(Exception):
    """What is typed, or what it names, is wrong: a line that says how."""


@contextlib.contextmanager
def _preparing() -> Iterator[None]:
    """While nothing has been written yet, a ValueError speaks of the input; afterwards it is a bug."""
    try:
        yield
    except ValueError as error:
        raise _WrongInput(error) from error


def _parse(parser: Callable[..., T], args: Sequence[str], **settings: Any) -> T:
    """`tyro.cli`, or a relative, with its box around what is wrong turned into a ValueError of one line."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return parser(args=args, **settings)
    except SystemExit as stop:
        if not stop.code:  # --help
            raise
        raise ValueError(_message(box.getvalue(), settings["prog"])) from None


def _message(box: str, prog: str) -> str:
    """Tyro's message, and the option that it takes to be meant."""
    rows = (row.strip(" |│") for row in box.splitlines()[1:-1])
    ruled = itertools.groupby(rows, key=lambda row: not row.strip("-─"))
    message, *others = (list(paragraph) for rule, paragraph in ruled if not rule)
    text = " ".join(message).removeprefix("Error parsing ").rstrip(".")
    option = next((row for row in itertools.chain(*others) if re.match(r"--(?!help\b)[a-z]", row)), None)
    if option is None:
        return f"{text}; {prog} --help shows what there is"
    return f"{text}; {'it takes' if option.split()[0] in text.replace(':', ' ').split() else 'did you mean'} {option}"


def _say(line: object) -> None:
    """A line beside the output proper."""
    print(" ".join(str(line).split()), file=sys.stderr, flush=True)


def _note(notes: Iterable[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


# Commands


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        with _preparing():
            command = _command(sys.argv[1:] if argv is None else list(argv))
        return command()
    except SystemExit as end:  # tyro has shown the help, or an experiment's file ends itself
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except _WrongInput as error:
        _say(f"error: {error}")
        return 2
    except OSError as error:
        _say(f"error: {error}")
        return 4
    except KeyboardInterrupt:  # before training, or a second one during it
        _say("interrupted")
        return 75


def _command(argv: list[str]) -> Callable[[], int]:
    """What is to be done."""
    commands = {"list": List, "train": Train, "sample": Sample, "evaluate": Evaluate}
    match argv:
        case ["train", name, *words] if not name.startswith("-"):
            # Its fields are known only now, so it has a parser of its own.
            return lambda: _train(name, words)
        case ["train", word, *_] if word not in ("-h", "--help"):
            raise ValueError(f"{word} where the EXPERIMENT comes first: gan-jax train EXPERIMENT [options]")
        case [word, *_] if not word.startswith("-") and word not in commands:
            raise lookup.unknown("command", word, commands)
    parser = tyro.extras.subcommand_cli_from_dict
    description = "Train and judge generative adversarial networks."
    match _parse(parser, argv, subcommands=commands, prog="gan-jax", description=description):
        case Sample() as command:
            return lambda: _sample(command)
        case Evaluate() as command:
            return lambda: _evaluate(command)
    return _list


def _list() -> int:
    for experiment in lookup.catalogue():
        summary = lookup.summary(experiment)
        print(f"{experiment.name}: {summary.what}")
        for name, value in zip(summary._fields[1:], summary[1:], strict=True):
            if value:
                print(f"    {name}: {value}")
    return 0


class _Typed(NamedTuple):
    """The words after EXPERIMENT, parsed.

    past: the record of a run that is resumed, which gave the defaults of what was not typed.
    """

    options: RunOptions
    config: Any
    directory: Path
    past: "Record | None"


def _typed(name: str, experiment: Experiment, module: ModuleType, words: Sequence[str]) -> _Typed:
    """Parse the words after EXPERIMENT, which was typed as `name`."""
    prog = f"gan-jax train {name}"
    # Which run it is decides on the defaults, so the options are first read without the fields.
    first, _ = _parse(
        tyro.cli, words, f=Annotated[RunOptions, *_PLAIN], prog=prog, add_help=False, return_unknown_args=True
    )
    directory = first.run or Path("runs", f"{experiment.name}-{first.seed}")
    options, config, past = RunOptions(), module.Config(), None
    if first.resume:
        from gan_jax.training import runs

        past = runs.read(directory)
        if past.experiment != experiment.name:
            raise ValueError(f"{directory} is a run of {past.experiment}, not of {experiment.name}: give another --run")
        options = RunOptions(**{name: getattr(past, name) for name in ("steps", "chunk", *_RECORDED)})
        config = runs.from_json(module.Config, past.config)

    for field in dataclasses.fields(module.Config):
        if field.name in RunOptions.__dataclass_fields__:
            raise ValueError(f"{experiment.path}: rename the field {field.name} of Config, it is a run option's name")
    parser = dataclasses.make_dataclass(
        "Train",
        [("options", Annotated[RunOptions, *_PLAIN]), ("config", Annotated[module.Config, arg(name="")])],
    )
    what = lookup.summary(experiment).what
    typed = _parse(tyro.cli, words, f=parser, default=parser(options, config), prog=prog, description=what)
    typed.options.check()
    return _Typed(_located(typed.options), typed.config, directory, past)


def _located(options: RunOptions) -> RunOptions:
    """The options with whole paths to data, so that the run finds it from any directory."""
    kind, colon, path = (options.data or "").partition(":")
    data = f"folder:{Path(path).absolute()}" if (kind, colon) == ("folder", ":") else options.data
    data_dir = None if options.data_dir is None else str(Path(options.data_dir).absolute())
    return dataclasses.replace(options, data=data, data_dir=data_dir)


class _Run(NamedTuple):
    """A run that is ready to train: begun, or restored to where it stood, with notes of what is not as it was."""

    directory: Path
    record: "Record"
    program: "Program"
    checkpoints: "Checkpoints"
    start: "tuple[int, State] | None" = None
    notes: tuple[str, ...] = ()


def _open(name: str, words: Sequence[str]) -> _Run:
    """Prepare a run; its directory is the last thing to be made, when nothing of the input can be wrong any more."""
    _hush()
    experiment = lookup.find(name)
    module = lookup.load(experiment)
    options, config, directory, past = _typed(name, experiment, module, words)

    import jax

    from gan_jax.provenance import provenance
    from gan_jax.training import loop, runs
    from gan_jax.training.checkpoints import Checkpoints

    if past is None:
        runs.check_vacant(directory)  # before data sets are read, and what was decoded of them is kept
    program: Program = module.build(config, options.data, options.data_dir)
    record = runs.Record(
        experiment=experiment.name,
        path=runs.recorded_path(experiment),
        sha256=runs.sha256(experiment),
        data_sha256=runs.data_sha256(program),
        config=runs.to_json(config),
        steps=options.steps or program.steps,
        chunk=options.chunk or program.chunk,
        provenance=provenance(),
        **{option: getattr(options, option) for option in _RECORDED},
    )
    like = loop.abstract(program, jax.random.key(record.seed))
    if past is None:
        loop.check(program, jax.random.key(record.seed))
        runs.create(directory, record)
        return _Run(directory, record, program, Checkpoints(directory / "checkpoints"))
    notes = tuple(f"{note}: the run may not end as it would have" for note in runs.check_same(directory, past, record))
    checkpoints = Checkpoints(directory / "checkpoints")
    restored = checkpoints.restore(like)
    if restored and restored.step % record.chunk and restored.step < record.steps:
        notes += (
            f"step {restored.step} is no multiple of the chunk of {record.chunk}: the run may not end as it would have",
        )
    if restored and restored.step > record.steps:
        raise ValueError(f"--steps {record.steps}: {directory} already stands at step {restored.step}, give more")
    # What the run was begun with stays on record.
    runs.write(directory, dataclasses.replace(record, sha256=past.sha256, provenance=past.provenance))
    if restored is None:
        return _Run(directory, record, program, checkpoints, None, notes)
    start = restored.step, restored.state
    return _Run(directory, record, program, checkpoints, start, (*notes, *restored.notes))


def _hush() -> None:
    """Keep what libraries log below an error, TFDS for one, out of what the command says."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


def _train(name: str, words: Sequence[str]) -> int:
    with _preparing():
        run = _open(name, words)

    import jax

    from gan_jax.base import Stop
    from gan_jax.training import loop, records, runs

    _keep_compiled()
    directory, record, program, checkpoints, start, notes = run
    _note(notes)
    writer = records.Records(
        directory,
        steps=record.steps,
        start=start[0] if start else 0,
        images_per_step=_images_per_step(program),
    )
    key, observe = jax.random.key(record.seed), program.observe
    with checkpoints, writer, loop.interruption() as interruption:
        # A checkpoint comes after the row and the picture of its step: resumed from it, a run makes them no more.
        hooks = (
            writer.hook(record.log_every),
            loop.finite(record.log_every),
            records.pictures(directory, observe, runs.sampling_key(record.seed), record.picture_every),
            checkpoints.hook(record.checkpoint_every),
            interruption,
        )
        result = loop.train(program, key, steps=record.steps, chunk=record.chunk, start=start, hooks=hooks)
        stop = result.stop or Stop("done")
        if stop.code != 3 and not checkpoints.save(result.step, result.state):
            stop = Stop(f"the state is not finite at step {result.step}", 3)
        saved = checkpoints.good
    if stop.code == 3:
        kept = (
            f"the last finite checkpoint is {directory / 'checkpoints' / str(saved[-1])}" if saved else "none was saved"
        )
        _say(f"stopped: {stop.reason}; {kept}")
    if stop.code == 75:
        again = shlex.join(["gan-jax", "train", name, "--run", str(directory), "--resume"])
        _say(f"{stop.reason} at step {result.step}; resume with: {again}")
    print(f"run: {directory}")
    if pictures := sorted((directory / "samples").glob("[0-9]*.png")):
        print(f"picture: {pictures[-1]}")
    return stop.code


def _images_per_step(program: "Program") -> int:
    """How many examples a step consumes: a batch's leaves are [batches, B, ...]."""
    import jax

    arrays, draw = program.batches
    batch = jax.eval_shape(draw, arrays, jax.random.key(0), 0)
    return next((math.prod(leaf.shape[:2]) for leaf in jax.tree.leaves(batch)), 1)


def _load(run: Path, data_dir: str | None) -> "Trained":
    from gan_jax.training import runs

    _hush()
    return runs.load(run, data_dir=data_dir)


def _sample(command: Sample) -> int:
    with _preparing():
        _check_seed(command.seed)
        if command.out and command.out.suffix not in (".png", ".npz"):
            raise ValueError(f"--out {command.out}: give a .png or a .npz")
        trained = _load(command.run, command.data_dir)

        import jax.numpy as jnp
        import numpy as np

        from gan_jax.training import pictures

        _keep_compiled()
        # Nothing is written before there are samples, and the model may not have the label.
        samples = trained.sample(command.n, seed=command.seed, label=command.label)
        name = f"samples-{trained.step:08d}-seed{command.seed}" + (
            "" if command.label is None else f"-label{command.label}"
        )
        out = command.out or command.run / "samples" / f"{name}.png"
        kinds = {(4, 1): "image", (4, 3): "image", (2, 2): "x"}  # what a picture can be of
        if out.suffix == ".png" and (samples.ndim, samples.shape[-1]) not in kinds:
            raise ValueError(f"samples of shape {list(samples.shape)} are no picture: give --out FILE.npz")
    _note(trained.notes)
    if out.suffix == ".png":
        pictures.save({kinds[samples.ndim, samples.shape[-1]]: jnp.asarray(samples)}, out)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        np.savez(out, samples=samples)
    print(f"{command.n} samples of step {trained.step}, by averaged weights where the model keeps them: {out}")
    return 0


def _evaluate(command: Evaluate) -> int:
    with _preparing():
        _check_seed(command.seed)
        if command.n < 1:
            raise ValueError(f"--n {command.n}: measure 1 or more")
        trained = _load(command.run, command.data_dir)
        record = trained.record
        if trained.program.measure is None:
            raise ValueError(f"{command.run} is a run of {record.experiment}, whose program has nothing to measure")

        from gan_jax.provenance import provenance
        from gan_jax.training import runs

        _keep_compiled()
        # Nothing is written before it has an answer, and `n` may still turn out to be too few for a metric.
        measured = trained.program.measure(runs.sampling_key(command.seed), trained.state, command.n)
    _note(trained.notes)
    card = {
        "measured": measured,
        "run": str(command.run),
        "step": trained.step,
        "seed": command.seed,
        "n": command.n,
        "experiment": record.experiment,
        "config": record.config,
        "data": record.data,
        "provenance": provenance(),
    }
    runs.write_json(command.run / "card.json", card)
    print(f"{record.experiment} at step {trained.step}, {command.n} samples, seed {command.seed}")
    rows = runs.flat(measured)
    for name, value in rows.items():
        print(f"  {name:<{max(map(len, rows))}}  {f'{value:.6g}' if isinstance(value, float) else value}")
    print(f"card: {command.run / 'card.json'}")
    return 0


def _keep_compiled() -> None:
    """Keep compiled programs for the next process, unless JAX has been told where or there is no place for them."""
    import jax

    from gan_jax.data import cache

    if jax.config.jax_compilation_cache_dir is not None:  # pyrefly: ignore[missing-attribute]  # set at run time
        return
    try:
        directory = cache.directory() / "xla"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    if os.access(directory, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))
