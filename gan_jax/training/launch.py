"""Training on a rented TPU slice, as exact argument vectors: nothing here executes one, or imports JAX.

`queued`, `gce` and `sky` turn the descriptions of a slice and of a job into `Commands`, each a vector
as it is handed to the operating system. `local` is the same job as processes of this machine. No
vector needs a shell here. Through the one on the slice passes what ssh is given as its `--command`,
every word of it quoted.

On each host of a slice there lie, in the home directory, `gan_jax/venv` with the library, `gan_jax/log`,
and `gan_jax/bucket`, where the bucket is mounted.
"""

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

Argv = tuple[str, ...]  # what is executed, as it is


class _Generation(NamedTuple):
    """TPUs of one generation, as Google names and sells them.

    prefix: of the accelerator types. cores: how many one chip counts for in the number of a type.
    sizes: those numbers. single: the most chips that one host has; in larger slices each has 4.
    runtime: the image of TPU VMs. machines: Compute Engine's machine type for a number, where one host is enough.
    """

    prefix: str
    cores: int
    sizes: tuple[int, ...]
    single: int
    runtime: str
    machines: Mapping[int, str]


_POWERS = tuple(2**n for n in range(13))
_GENERATIONS = {
    "v4": _Generation("v4", 2, _POWERS[3:], 4, "tpu-ubuntu2204-base", {}),
    "v5e": _Generation("v5litepod", 1, (1, *_POWERS[2:9]), 8, "v2-alpha-tpuv5-lite", {}),
    "v5p": _Generation("v5p", 2, _POWERS[3:], 4, "v2-alpha-tpuv5", {8: "ct5p-hightpu-4t"}),
    "v6e": _Generation(
        "v6e", 1, (1, *_POWERS[2:9]), 8, "v2-alpha-tpuv6e", {n: f"ct6e-standard-{n}t" for n in (1, 4, 8)}
    ),
}
_IMAGE = "ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e"  # Compute Engine's, of the generations that have machines above


class Shape(NamedTuple):
    """What the name of a slice stands for.

    accelerator: Google's accelerator type. runtime: the image of TPU VMs.
    machine: Compute Engine's machine type; None where there is none, or where one host is not enough.
    """

    accelerator: str
    chips: int
    hosts: int
    runtime: str
    machine: str | None


def shape(name: str) -> Shape:
    """Read the name of a slice: v5e-16, or Google's own v5litepod-16.

    The number counts chips for v5e and v6e, and cores, two to a chip, for v4 and v5p. ValueError for a slice that
    there is not, with those that there are.
    """
    given, _, number = name.partition("-")
    generation = next((key for key, known in _GENERATIONS.items() if given in (key, known.prefix)), None)
    if generation is None:
        each = (f"{key}-{known.sizes[0]} to {key}-{known.sizes[-1]}" for key, known in _GENERATIONS.items())
        raise ValueError(f"unknown slice {name!r}: there is {', '.join(each)}")
    prefix, cores, sizes, single, runtime, machines = _GENERATIONS[generation]
    if number not in map(str, sizes):
        raise ValueError(f"unknown slice {name!r}: there is {', '.join(f'{generation}-{size}' for size in sizes)}")
    chips = int(number) // cores
    hosts = 1 if chips <= single else chips // 4
    return Shape(f"{prefix}-{number}", chips, hosts, runtime, machines.get(int(number)))


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What is rented. ValueError for a name that Google would not take.

    type: such as v5e-16, see `shape`. name: of all that is created. bucket: gs://NAME, which outlives the slice.
    project: None for the one that gcloud is set to. runtime: an image; None for the usual one.
    spot: cheaper, and taken away when somebody pays more.
    """

    type: str
    name: str
    bucket: str
    zone: str
    project: str | None = None
    runtime: str | None = None
    spot: bool = False

    def __post_init__(self) -> None:
        shape(self.type)
        for option, form, hint in (
            ("name", r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", "1 to 63 of a-z, 0-9 and -, first a letter, last no -"),
            ("bucket", r"gs://[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]", "gs://NAME, a bucket and no folder of it"),
            ("zone", r"[a-z]+-[a-z]+[0-9]+-[a-z0-9]+", "a zone such as us-central1-a"),
            ("project", r"([-.a-z0-9]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project's ID such as my-project-123"),
            ("runtime", r"[a-z0-9][-_.a-z0-9]*", "the name of an image"),
        ):
            value = getattr(self, option)
            if value is not None and not re.fullmatch(form, value):
                raise ValueError(f"--{option} {value!r}: give {hint}")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What runs on the slice. ValueError for words that no command line carries unharmed.

    experiment: the name of a shipped one, or the path of a file. words: what `gan-jax train` is given after it.
    run: the run's directory, in the bucket. wheel: of this library. requirements: a lock with hashes, of what the wheel
        needs on a TPU; None to let the installer resolve it.
    """

    experiment: str | Path
    run: str
    wheel: Path
    words: tuple[str, ...] = ()
    requirements: Path | None = None

    def __post_init__(self) -> None:
        check_words(self.words)
        path = Path(self.run)
        plain = path.as_posix() == self.run and not path.is_absolute() and ".." not in path.parts
        if not path.parts or not plain or set(self.run) & set("*?[]#"):  # which gcloud would take for patterns
            raise ValueError(f"--run {self.run!r}: give a directory of the bucket, without any of * ? [ ] #")
        for text in (self.run, *map(str, self.files)):
            if not text.isprintable():
                raise ValueError(f"{text!r} has a character that cannot be printed: give it another name")
        for file in self.files:
            if ":" in str(file.absolute()):
                raise ValueError(f"{file}: copying takes what is before a ':' for a machine, give another path")

    @property
    def files(self) -> tuple[Path, ...]:
        """What is copied onto each host."""
        own = (self.experiment,) if isinstance(self.experiment, Path) else ()
        return (self.wheel, *((self.requirements,) if self.requirements else ()), *own)


def check_words(words: Sequence[str]) -> None:
    """Raise ValueError for words after EXPERIMENT that are not this command's to pass on."""
    for word in words:
        if not word.isprintable():
            raise ValueError(f"{word!r} has a character that cannot be printed: give another word")
        if word.partition("=")[0] in ("--run", "--resume"):
            raise ValueError(f"{word} after --: a launch resumes what there is, and takes --run before the --")


class Commands(NamedTuple):
    """What a backend has executed, in this order.

    files: texts that are written here first, by path.
    create: makes the slice. state: prints where it stands; None where somebody else watches.
    setup: prepares all hosts, and may be repeated. begun: succeeds where the run exists.
    start, resume: train on all hosts, until it ends; `resume` is None, and `begun`, where `start` does either.
    logs: prints the last lines of each host. delete: everything that was created, whatever runs on it.
    """

    create: tuple[Argv, ...]
    state: Argv | None
    setup: tuple[Argv, ...]
    begun: Argv | None
    start: Argv
    resume: Argv | None
    logs: Argv | None
    delete: tuple[Argv, ...]
    files: Mapping[str, str] = {}  # read only


READY = frozenset(("ACTIVE", "RUNNING"))  # what `Commands.state` prints of a slice that can be used
LOST = frozenset(("PREEMPTED", "SUSPENDING", "SUSPENDED", "STOPPING", "STOPPED", "TERMINATED", "DELETING"))
FAILED = frozenset(("FAILED",))  # of one that never will be; what is in none of these may still become ready

_HOME = "gan_jax"
_PYTHON = f"{_HOME}/venv/bin/python"
_MOUNT = f"{_HOME}/bucket"
_LOG = f"{_HOME}/log"


def train(
    program: Argv, experiment: str, words: Sequence[str], *, run: str | None = None, resume: bool = False
) -> Argv:
    """Return the command that each process runs: a program, and what it is to train, as the command line has it.

    program: what comes before "train". experiment: the name of one, or the path of a file.
    words: what `gan-jax train` is given after it.
    run: the run's directory; if None it is the command's own choice. resume: whether to continue what is there.
    """
    options = (*(("--run", run) if run else ()), *(("--resume",) if resume else ()))
    return (*program, "train", experiment, *options, *words)


def _training(slice: Slice, job: Job, *, resume: bool) -> Argv:
    """What each host of a slice runs. Where there are more, they find each other by what the slice tells them."""
    together = ("env", "GAN_JAX_DISTRIBUTED=auto") if shape(slice.type).hosts > 1 else ()
    name = f"{_HOME}/{job.experiment.name}" if isinstance(job.experiment, Path) else job.experiment
    program = (*together, f"{_HOME}/venv/bin/gan-jax")
    return train(program, name, job.words, run=f"{_MOUNT}/{job.run}", resume=resume)


def _install(job: Job) -> tuple[Argv, ...]:
    """What makes `gan_jax/venv`, of a Python that the library takes: the images' own is older."""
    uv = ("python3", "-m", "uv")
    install = (*uv, "pip", "install", "--quiet", "--python", _PYTHON)
    wheel = f"{_HOME}/{job.wheel.name}"
    own = ((*install, f"{wheel}[tpu]"),)
    if job.requirements:
        lock = f"{_HOME}/{job.requirements.name}"
        own = ((*install, "--require-hashes", "--requirement", lock), (*install, "--no-deps", wheel))
    return (
        ("python3", "-m", "pip", "install", "--quiet", "--user", "uv"),
        (*uv, "venv", "--quiet", "--allow-existing", "--python", "3.11", f"{_HOME}/venv"),
        *own,
    )


def _all(commands: Sequence[Argv]) -> str:
    """One after the other, until one fails, for a shell."""
    return " && ".join(map(shlex.join, commands))


def _mount(bucket: str) -> str:
    """Mount the bucket, unless it is; for a shell."""
    have = "command -v gcsfuse > /dev/null || sudo apt-get install --yes --quiet gcsfuse"
    mount = shlex.join(("gcsfuse", "--implicit-dirs", bucket.removeprefix("gs://"), _MOUNT))
    return f"mkdir -p {_MOUNT} && {{ {have}; }} && {{ mountpoint --quiet {_MOUNT} || {mount}; }}"


def _logged(command: Argv) -> str:
    """Run a command whose output is kept as well as shown; for a shell."""
    return f"set -o pipefail; {shlex.join(command)} 2>&1 | tee -a {_LOG}"


def _over_ssh(
    slice: Slice, job: Job, ssh: Callable[[str], Argv], scp: Callable[[Argv], Argv]
) -> tuple[tuple[Argv, ...], Argv, Argv, Argv, Argv]:
    """The middle of `Commands`, from `setup` to `logs`."""
    setup = (
        ssh(f"mkdir -p {_HOME}"),
        scp(tuple(str(file.absolute()) for file in job.files)),
        ssh(_all(_install(job))),
        ssh(_mount(slice.bucket)),
    )
    begun = ("gcloud", "storage", "ls", f"{slice.bucket}/{job.run}/config.json")
    start, resume = (ssh(_logged(_training(slice, job, resume=resume))) for resume in (False, True))
    return setup, begun, start, resume, ssh(f"tail -n 100 {_LOG}")


def _where(slice: Slice) -> Argv:
    return (f"--zone={slice.zone}", *((f"--project={slice.project}",) if slice.project else ()))


def queued(slice: Slice, job: Job) -> Commands:
    """Cloud TPU's queued resources: TPU VMs of v4, v5e, v5p and v6e, of any number of hosts."""
    tpus, place = ("gcloud", "compute", "tpus"), _where(slice)
    resources, vm = (*tpus, "queued-resources"), (*tpus, "tpu-vm")
    known = shape(slice.type)
    create = (
        *(*resources, "create", slice.name, f"--node-id={slice.name}", *place),
        *(f"--accelerator-type={known.accelerator}", f"--runtime-version={slice.runtime or known.runtime}"),
        *(("--spot",) if slice.spot else ()),
        "--quiet",
    )
    workers = (*place, "--worker=all", "--quiet")
    return Commands(
        (create,),
        (*resources, "describe", slice.name, *place, "--format=value(state.state)"),
        *_over_ssh(
            slice,
            job,
            lambda command: (*vm, "ssh", slice.name, f"--command={command}", *workers),
            lambda files: (*vm, "scp", *files, f"{slice.name}:{_HOME}/", *workers),
        ),
        ((*resources, "delete", slice.name, *place, "--force", "--quiet"),),
    )


def gce(slice: Slice, job: Job) -> Commands:
    """An instance of Compute Engine: one host, of v5p or v6e. ValueError for other slices."""
    known = shape(slice.type)
    if known.machine is None:
        raise ValueError(
            f"--slice {slice.type}: the backend gce takes one host of v5p or v6e (v5p-8, v6e-1, v6e-4, v6e-8); "
            "give --backend queued"
        )
    compute, place = ("gcloud", "compute"), _where(slice)
    instances = (*compute, "instances")
    create = (
        *(*instances, "create", slice.name, *place, f"--machine-type={known.machine}"),
        *(f"--image-family={slice.runtime or _IMAGE}", "--image-project=ubuntu-os-accelerator-images"),
        *("--boot-disk-size=100GB", "--maintenance-policy=TERMINATE", "--scopes=cloud-platform"),
        # Stopped and not deleted, so that one that was taken away can be told from one that never was.
        *(("--provisioning-model=SPOT", "--instance-termination-action=STOP") if slice.spot else ()),
        "--quiet",
    )
    return Commands(
        (create,),
        (*instances, "describe", slice.name, *place, "--format=value(status)"),
        *_over_ssh(
            slice,
            job,
            lambda command: (*compute, "ssh", slice.name, f"--command={command}", *place, "--quiet"),
            lambda files: (*compute, "scp", *files, f"{slice.name}:{_HOME}/", *place, "--quiet"),
        ),
        ((*instances, "delete", slice.name, *place, "--quiet"),),
    )


def sky(slice: Slice, job: Job) -> Commands:
    """A managed job of SkyPilot, which waits, starts again after a preemption and deletes the slice by itself.

    ValueError for a `project`: SkyPilot takes its own.
    """
    if slice.project:
        raise ValueError(
            f"--project {slice.project}: SkyPilot takes gcloud's own, set it there and leave the option out"
        )
    path = f"{slice.name}.yaml"
    return Commands(
        create=(),
        state=None,
        setup=(),
        begun=None,
        start=("sky", "jobs", "launch", "--yes", "--name", slice.name, path),
        resume=None,
        logs=None,
        delete=(("sky", "jobs", "cancel", "--yes", "--name", slice.name),),
        files={path: task(slice, job)},
    )


def task(slice: Slice, job: Job) -> str:
    """A job as a task file of SkyPilot, YAML."""
    known = shape(slice.type)
    # All hosts look for the run before any begins it: the first would wait for the others to connect.
    start, resume = (shlex.join(_training(slice, job, resume=resume)) for resume in (False, True))
    config = shlex.quote(f"{_MOUNT}/{job.run}/config.json")
    files: dict[str, str | dict[str, str]] = {f"~/{_HOME}/{file.name}": str(file.absolute()) for file in job.files}
    resources = {
        "infra": f"gcp/{slice.zone.rpartition('-')[0]}/{slice.zone}",
        "accelerators": f"tpu-{known.accelerator}",
        "accelerator_args": {"runtime_version": slice.runtime or known.runtime},
        "use_spot": slice.spot,
    }
    return _yaml(
        {
            "name": slice.name,
            "resources": resources,
            "file_mounts": {**files, f"~/{_MOUNT}": {"source": slice.bucket, "mode": "MOUNT"}},
            "setup": f"cd ~ && {_all(_install(job))}",
            "run": f"cd ~ && if test -e {config}; then {resume}; else {start}; fi",
        }
    )


def _yaml(values: Mapping[str, object], indent: str = "") -> str:
    """Nested mappings of strings and booleans as YAML, whose quoted strings are JSON's if all of it is printable."""
    lines = []
    for key, value in values.items():
        name = f"{indent}{json.dumps(key, ensure_ascii=False)}:"
        if isinstance(value, Mapping):
            lines.append(f"{name}\n{_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{name} {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines)


BACKENDS: Mapping[str, Callable[[Slice, Job], Commands]] = {f.__name__: f for f in (queued, gce, sky)}

HERE: Argv = (sys.executable, "-c", "from gan_jax.cli import main; raise SystemExit(main())")


def local(
    experiment: str, words: Sequence[str], *, processes: int, port: int, run: str | None = None, resume: bool = False
) -> tuple[Argv, ...]:
    """Return the same command for processes of this machine, which find each other at a port of it.

    experiment, words, run, resume: those of `train`. processes: how many.
    ValueError for less than one process, or words that `check_words` refuses.
    """
    if processes < 1:
        raise ValueError(f"--backend local:{processes}: give 1 process or more")
    check_words(words)
    command = train(HERE, experiment, words, run=run, resume=resume)
    shared = ("env", f"GAN_JAX_COORDINATOR=127.0.0.1:{port}", f"GAN_JAX_PROCESSES={processes}")
    return tuple((*shared, f"GAN_JAX_PROCESS={index}", *command) for index in range(processes))


def script(commands: Commands) -> str:
    """What would be executed, each command a line that a shell would read back; what is a comment says when."""
    stages = (
        ("create", commands.create),
        (f"until it prints {' or '.join(sorted(READY))}", (commands.state,)),
        ("set up", commands.setup),
        ("does the run exist?", (commands.begun,)),
        ("train, where it does not" if commands.resume else "train", (commands.start,)),
        ("train, where it does", (commands.resume,)),
        ("if that fails", (commands.logs,)),
        ("delete, whatever has happened", commands.delete),
    )
    lines = []
    for path, text in commands.files.items():
        lines += [f"# write {path}", *(f"#   {line}" for line in text.splitlines())]
    for title, vectors in stages:
        lines += [f"# {title}"] * any(vectors) + [shlex.join(vector) for vector in vectors if vector]
    return "".join(f"{line}\n" for line in lines)
