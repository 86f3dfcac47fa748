"""What can be typed: the commands and their options, and tyro's answer to what is not among them, in one line."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro
from tyro.conf import Positional, arg

T = TypeVar("T")

_INTERVALS = ("log_every", "picture_every", "checkpoint_every")
_WATCH = ("score_every", "probe_every", "patience", "equilibrium")
_DEVICES = ("parallel", "fully_sharded")
RECORDED = (
    "seed",
    "data",
    "data_dir",
    "controller",
    *_INTERVALS,
    *_WATCH,
    *_DEVICES,
)  # options that a run records as they are
OF_RUNS = (
    "steps",
    "chunk",
    "seed",
    "profile",
    "controller",
    *_INTERVALS,
    *_WATCH,
    *_DEVICES,
)  # options that a study has no use for
OF_STUDIES = ("cells", "group")  # and a run has none
OF_MEMBERS = ("seeds", "grid", "group", "steps", "chunk", "log_every", "checkpoint_every")  # of many runs side by side
_OWN = arg(help_behavior_hint="(default: the experiment's)")
PLAIN = (tyro.conf.DisallowNone, arg(name=""))  # without a prefix; None only by not typing the option


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
    seeds: Annotated[str | None, arg(help_behavior_hint="(default: one run)")] = None
    """Train many runs side by side in one program, a seed each: 0..7."""
    grid: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        arg(metavar="FIELD=VALUE,VALUE", help_behavior_hint="(default: none; may be repeated)"),
    ] = ()
    """Train a run for each of these values of a field, and with each seed; widths=64,64x64 where a field has many."""
    group: Annotated[int | None, arg(help_behavior_hint="(default: as many as the memory holds)")] = None
    """How many of them train at a time."""
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
    score_every: int = 500
    """Steps between scores, where the experiment has one: a run that collapses is stopped and rolled back; 0: never."""
    probe_every: int = 0
    """Steps between probes of the gradients and of the spectrum, by ten products on 64 examples; 0: never."""
    patience: int = 0
    """Scores without a better one after which a run is done; 0: train to the last step."""
    equilibrium: float = 0.0
    """How near 1/2 all of D's means must be, over five scores, for a run to be done; 0: train to the last step."""
    parallel: Literal["jit", "shard_map", "pmap"] = "jit"
    """How several devices share a batch: as one program over all of them, or each by itself where that is supported."""
    fully_sharded: bool = False
    """Divide parameters, moments and the data set over the devices too, to save memory."""
    profile: bool = False
    """Trace some steps; print what they spend their time on, and how far that is from what the machine can do."""
    controller: Annotated[str | None, arg(help_behavior_hint="(default: none)")] = None
    """A study's directory: what it has learned turns the run's rates and other numbers as it trains."""
    cells: str = "*"
    """Which cells of a study are computed, as a pattern: 'grid-*'."""

    @property
    def many(self) -> bool:
        """Whether many runs are asked for."""
        return self.seeds is not None or bool(self.grid)

    def check(self) -> None:
        """Raise ValueError for a number out of range."""
        for name in ("steps", "chunk", "group", *_INTERVALS):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} {value}: give 1 or more")
        for name in _WATCH:
            value, below = getattr(self, name), 0.5 if name == "equilibrium" else float("inf")
            if not 0 <= value < below:
                hint = "0 or more" if below > 1 else f"0 or more, and less than {below}"
                raise ValueError(f"--{name.replace('_', '-')} {value}: give {hint}; 0 switches it off")
        if self.fully_sharded and self.parallel != "jit":
            raise ValueError(f"--fully-sharded with --parallel {self.parallel}: only jit divides them")
        if self.controller is not None and self.parallel != "jit":
            raise ValueError(f"--controller with --parallel {self.parallel}: only jit shows it the whole batch")
        check_seed(self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class List:
    """Show the experiments: what, command, last measured result."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """Train an experiment; `gan-jax train EXPERIMENT --help` shows its fields."""

    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")]
    """A name that `gan-jax list` shows, or the path of a .py file."""
    options: Annotated[RunOptions, *PLAIN] = RunOptions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """Draw samples from a run's newest checkpoint, by averaged weights where the model keeps them.

    With --out FILE.gif the pictures that the run has kept become an animation instead.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The directory of a run."""
    n: int = 64
    """How many samples."""
    label: int | None = None
    """The class of all of them, for a conditional model."""
    frames: int = 1
    """Rows of so many samples, each of which goes from one latent to another."""
    seed: int = 0
    """The same seed draws the same samples."""
    out: Path | None = None
    """A .png to draw them, a .npz to keep them as they are, or a .gif of the run's own pictures (default: a picture in
    RUN/samples)."""
    data_dir: str | None = None
    """Where the data sets are, if not where they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a run's newest checkpoint; print the metric card and write RUN/card.json."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The directory of a run."""
    n: int = 10_000
    """How many samples to measure."""
    inception: Path | None = None
    """A file of Inception's standard weights, to measure images by them; the card is then RUN/card-inception.json."""
    seed: int = 0
    """The same seed measures the same samples."""
    data_dir: str | None = None
    """Where the data sets are, if not where they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Say whether a run is well, ill or done, from its records and its newest checkpoint; draw RUN/diagnosis.png."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The directory of a run, finished or running."""
    products: int = 30
    """Products with the Jacobian of the game at the newest checkpoint, for its leading eigenvalues; 0: no probe."""
    seed: int = 0
    """The same seed probes on the same batch."""
    data_dir: str | None = None
    """Where the data sets are, if not where they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapt:
    """Adapt a meta-learned run to a folder of pictures; draw samples before and after, and write a card beside them."""

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """The directory of a run of a meta-learned generator."""
    images: Path
    """A folder of pictures of one kind; they are cut square and resized, and those that are equal count once."""
    steps: Annotated[int | None, _OWN] = None
    """Steps of adaptation."""
    shots: Annotated[int | None, arg(help_behavior_hint="(default: all)")] = None
    """How many of the pictures are adapted to; the others judge."""
    n: int = 64
    """How many samples are drawn, before and after."""
    invert: bool = False
    """Turn dark strokes on light ground into light ones on dark, which models of Omniglot and MNIST know."""
    seed: int = 0
    """The same seed takes the same pictures and steps."""
    out: Annotated[Path | None, arg(help_behavior_hint="(default: RUN/adapted)")] = None
    """The directory of the picture and the card, named after the folder and the steps; those that are there are
    replaced."""
    data_dir: str | None = None
    """Where the data sets are, if not where they were."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Compile a step for a TPU slice that is not there, and show what it costs; words after -- are fields."""

    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")]
    """A name that `gan-jax list` shows, or the path of a .py file."""
    topology: str
    """A slice, such as v5e:4x4, v4:2x2x1, v5p:4x4x4 or v6e:16x16; or cpu, cpu:N, gpu for what is here."""
    batch: Annotated[str | None, arg(help_behavior_hint="(default: the experiment's)")] = None
    """Images in one batch on all chips together, or auto: as many as fit, a power of two on each."""
    sizes: str | None = None
    """Further slices of the family, with as many images on each chip: 8x8,16x16. All of them make a table."""
    parallel: Literal["jit"] = "jit"
    """How the chips share a batch: as one program over all of them."""
    fully_sharded: bool = False
    """Divide parameters, moments and the data set over the chips too."""
    data: Annotated[str | None, arg(help_behavior_hint="(default: the experiment's)")] = None
    """A data set's name, or folder:DIR for one's own images."""
    data_dir: Annotated[str | None, arg(help_behavior_hint="(default: where TFDS looks)")] = None
    """Where data sets are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """Train an experiment on a TPU slice that is rented for it; words after -- are those of gan-jax train."""

    experiment: Annotated[Positional[str], arg(metavar="EXPERIMENT")]
    """A name that `gan-jax list` shows, or the path of a .py file."""
    backend: str
    """queued (Cloud TPU), gce (Compute Engine), sky (SkyPilot), or local:N for N processes of this machine."""
    slice: str | None = None
    """What is rented: v5e-16, v4-8, v5p-8, v6e-8 ..."""
    zone: str | None = None
    """Google's zone: us-central1-a."""
    project: Annotated[str | None, arg(help_behavior_hint="(default: gcloud's)")] = None
    """The project that pays."""
    runtime: Annotated[str | None, arg(help_behavior_hint="(default: the slice's usual one)")] = None
    """The image of the machines."""
    bucket: str | None = None
    """gs://NAME, where the run is kept."""
    name: Annotated[str | None, arg(help_behavior_hint="(default: gan-jax-EXPERIMENT)")] = None
    """Of what is created."""
    run: Annotated[str | None, arg(help_behavior_hint="(default: runs/NAME)")] = None
    """The run's directory, in the bucket; one that is there is resumed."""
    wheel: Annotated[Path | None, arg(help_behavior_hint="(default: the one in dist)")] = None
    """This library, as `pip wheel --no-deps -w dist .` makes it."""
    requirements: Path = Path("requirements-tpu.txt")
    """A lock of what the wheel needs; where there is none, the newest is installed."""
    spot: bool = False
    """Rent what can be taken away, for less."""
    retries: int = 3
    """How often a slice that was taken away is rented anew."""
    wait: int = 360
    """Minutes to wait for a slice, each time."""
    keep: bool = False
    """Leave the slice running, and paid for, in the end."""
    dry_run: bool = False
    """Show what would be executed, and touch nothing."""


def check_seed(seed: int) -> None:
    """Raise ValueError for a seed that JAX would wrap to another one's."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed}: give 0 to {2**32 - 1}")


def parse(parser: Callable[..., T], args: Sequence[str], **settings: Any) -> T:
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
    options = {row.split()[0]: row for row in itertools.chain(*others) if re.match(r"--(?!help\b)[a-z]", row)}
    if not options:
        return f"{text}; {prog} --help shows what there is"
    given = next((word.strip(",:'") for word in text.split() if word.startswith(("--", "'--"))), "")
    option = options[difflib.get_close_matches(given, options, n=1, cutoff=0)[0]]
    return f"{text}; {'it takes' if option.split()[0] in text.replace(':', ' ').split() else 'did you mean'} {option}"
