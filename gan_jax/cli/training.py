"""gan-jax train: a run is opened, or what is wrong with it is said, and then it trains."""

import dataclasses
import inspect
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import tyro
from tyro.conf import arg

from gan_jax.cli import process
from gan_jax.cli.words import OF_MEMBERS, OF_RUNS, OF_STUDIES, PLAIN, RECORDED, RunOptions, parse
from gan_jax.training import lookup
from gan_jax.training.lookup import Experiment

# JAX, and all that imports it, is imported where it is needed: `--help` does not wait for it.
if TYPE_CHECKING:
    from gan_jax.base import Program, State, Study
    from gan_jax.training.checkpoints import Checkpoints
    from gan_jax.training.runs import Record, StudyRecord


class _Typed(NamedTuple):
    """The words after EXPERIMENT, parsed.

    past: the record of a run that is resumed, which gave the defaults of what was not typed.
    """

    options: RunOptions
    config: Any
    directory: Path
    past: "Record | StudyRecord | None"


def _typed(name: str, experiment: Experiment, module: ModuleType, words: Sequence[str]) -> _Typed:
    """Parse the words after EXPERIMENT, which was typed as `name`."""
    prog = f"gan-jax train {name}"
    # Which run it is decides on the defaults, so the options are first read without the fields.
    first, _ = parse(
        tyro.cli, words, f=Annotated[RunOptions, *PLAIN], prog=prog, add_help=False, return_unknown_args=True
    )
    directory = first.run or Path("runs", f"{experiment.name}-{first.seed}")
    options, config, past = RunOptions(), module.Config(), None
    if first.resume:
        from gan_jax.training import runs

        past = runs.read(directory)
        if past.experiment != experiment.name:
            raise ValueError(f"{directory} is a run of {past.experiment}, not of {experiment.name}: give another --run")
        names = (name for name in ("steps", "chunk", *RECORDED) if hasattr(past, name))
        members = dict(getattr(past, "members", None) or {})
        members |= {"grid": tuple(members.get("grid", ()))}
        options = RunOptions(**{name: getattr(past, name) for name in names} | members)
        config = runs.from_json(module.Config, past.config)

    for field in dataclasses.fields(module.Config):
        if field.name in RunOptions.__dataclass_fields__:
            raise ValueError(f"{experiment.path}: rename the field {field.name} of Config, it is a run option's name")
    parser = dataclasses.make_dataclass(
        "Train",
        [("options", Annotated[RunOptions, *PLAIN]), ("config", Annotated[module.Config, arg(name="")])],
    )
    what = lookup.summary(experiment).what
    typed = parse(tyro.cli, words, f=parser, default=parser(options, config), prog=prog, description=what)
    typed.options.check()
    return _Typed(_located(typed.options), typed.config, directory, past)


def _located(options: RunOptions) -> RunOptions:
    """The options with whole paths, so that the run finds what they name from any directory."""
    kind, colon, path = (options.data or "").partition(":")
    data = f"folder:{Path(path).absolute()}" if (kind, colon) == ("folder", ":") else options.data
    data_dir = None if options.data_dir is None else str(Path(options.data_dir).absolute())
    controller = None if options.controller is None else str(Path(options.controller).absolute())
    return dataclasses.replace(options, data=data, data_dir=data_dir, controller=controller)


class _Run(NamedTuple):
    """A run that is ready to train: begun, or restored to where it stood, with notes of what is not as it was.

    program: what is trained, on all devices. profiled: whether some of its steps are traced.
    """

    directory: Path
    record: "Record"
    program: "Program"
    checkpoints: "Checkpoints"
    start: "tuple[int, State] | None" = None
    notes: tuple[str, ...] = ()
    profiled: bool = False


class _Study(NamedTuple):
    """A study that is ready to go on: the cells that were asked for, and the digest of the experiment's file.

    title: the head of its report: what it is, and the command.
    """

    directory: Path
    study: "Study"
    cells: str
    names: tuple[str, ...]
    sha256: str
    title: str
    notes: tuple[str, ...] = ()


def _open(name: str, words: Sequence[str]) -> _Run | _Study:
    """Prepare a run; its directory is the last thing to be made, when nothing of the input can be wrong any more."""
    from gan_jax.training import distributed

    process.hush()
    experiment = lookup.find(name)
    distributed.initialise()  # before anything makes an array
    module = lookup.load(experiment)
    typed = _typed(name, experiment, module, words)

    from gan_jax.base import Study
    from gan_jax.training import runs

    if typed.past is None:
        runs.check_vacant(typed.directory)  # before data sets are read, and what was decoded of them is kept
    built = _built(experiment, module, typed)
    if typed.options.many and isinstance(built, Study):
        asked = f"--seeds {typed.options.seeds}" if typed.options.seeds else f"--grid {' '.join(typed.options.grid)}"
        raise ValueError(f"{asked}: {experiment.name} is a study, whose fields say what is trained from which seeds")
    kind = runs.StudyRecord if isinstance(built, Study) or typed.options.many else runs.Record
    if typed.past is not None and not isinstance(typed.past, kind):
        raise ValueError(f"{experiment.name} is not what it was when {typed.directory} was begun: give another --run")
    _check_meant(typed.options, study=isinstance(built, Study))
    if isinstance(built, Study):
        return _open_study(experiment, typed, built)
    if typed.options.many:
        return _open_members(experiment, module, typed, built)
    return _open_run(experiment, typed, built)._replace(profiled=typed.options.profile and distributed.first())


def _built(experiment: Experiment, module: ModuleType, typed: _Typed) -> "Program | Study":
    """Build the experiment, under an axis name where each device is to run the step by itself."""
    from gan_jax.training import parallel

    options, names = typed.options, {}
    if options.parallel != "jit":
        names = {"axis_name": parallel.AXIS}
        if "axis_name" not in inspect.signature(module.build).parameters:
            takes_none = f"{experiment.name} does not say axis_name to its networks and its GAN (see its build)"
            raise ValueError(f"--parallel {options.parallel}: {takes_none}; use jit")
    return module.build(typed.config, options.data, options.data_dir, **names)


def _check_meant(options: RunOptions, *, study: bool) -> None:
    """Raise ValueError for an option that was typed and means nothing here."""
    meaningless, where = OF_STUDIES, "the experiment is no study, and one run is trained"
    if study:
        meaningless, where = OF_RUNS, "the experiment is a study: its own fields say how long and from which seeds"
    elif options.many:
        meaningless, where = set(OF_RUNS) - set(OF_MEMBERS), "many runs are trained side by side"
    for name in sorted(meaningless):
        value = getattr(options, name)
        if value != getattr(RunOptions, name):
            raise ValueError(f"--{name.replace('_', '-')} {value} means nothing here, where {where}")


def _open_members(experiment: Experiment, module: ModuleType, typed: _Typed, program: "Program") -> _Study:
    """Prepare many runs of an experiment as a study of theirs."""
    from gan_jax.base import Study
    from gan_jax.training import sweeps

    options = typed.options
    seeds, members = sweeps.seeds(options.seeds or "0..0"), []
    for setting in sweeps.grid(options.grid):
        one = typed._replace(config=_set(experiment, typed.config, setting))
        built = _built(experiment, module, one) if setting else program
        assert not isinstance(built, Study)
        record = _recorded(experiment, one, built)
        for seed in seeds:
            name = sweeps.name(setting, seed)
            members.append(sweeps.Member(name, setting, dataclasses.replace(record, seed=seed), built))
    groups = sweeps.together(members)
    group = options.group or min(
        sweeps.fitting(sweeps.held(each[0].program), each[0].record.chunk, len(each)) for each in groups
    )
    study = sweeps.study(groups, typed.directory, group)
    told = {name: getattr(options, name) for name in OF_MEMBERS} | {"grid": list(options.grid), "group": group}
    return _open_study(experiment, typed, study, told)


def _set(experiment: Experiment, config: Any, setting: Mapping[str, str]) -> Any:
    """A configuration with some fields set to what was typed. ValueError: there is no such field, or value of it."""
    words = []
    for field, value in setting.items():
        default: Any = config
        for part in field.split("."):
            if not dataclasses.is_dataclass(default) or not hasattr(default, part):
                known = ", ".join(each.name for each in dataclasses.fields(config))
                raise ValueError(f"--grid {field}={value}: {experiment.name} has {known}; seeds go to --seeds")
            default = getattr(default, part)
        words += [f"--{field}", *(value.split("x") if isinstance(default, tuple) else [value])]
    options = {"config": (tyro.conf.FlagConversionOff,), "prog": f"gan-jax train {experiment.name}"}
    return parse(tyro.cli, words, f=type(config), default=config, add_help=False, **options)


def _open_study(
    experiment: Experiment, typed: _Typed, study: "Study", members: Mapping[str, Any] | None = None
) -> _Study:
    from gan_jax.training import distributed, runs, studies

    if distributed.several():
        raise ValueError(f"{experiment.name} is a study, whose cells are computed by one process: start it alone")
    names, sha256, notes = studies.matching(study, typed.options.cells), runs.sha256(experiment), ()
    record = runs.StudyRecord(
        experiment=experiment.name,
        path=runs.recorded_path(experiment),
        config=runs.to_json(typed.config),
        data=typed.options.data,
        data_dir=typed.options.data_dir,
        members=members,
    )
    if typed.past is None:
        runs.create(typed.directory, record)
    else:
        runs.check_identity(typed.directory, typed.past, record)
        stale = studies.stale(study, typed.directory, sha256)  # and all can be read
        if stale:
            notes = (f"the file of {experiment.name} has changed since {', '.join(stale)} were computed",)
    summary = lookup.summary(experiment)
    command = record.command(type(typed.config)(), summary.command)
    title = f"{summary.what.rstrip('.') or experiment.name}\n\n`{command}`"
    return _Study(typed.directory, study, typed.options.cells, names, sha256, title, notes)


def _recorded(experiment: Experiment, typed: _Typed, program: "Program") -> "Record":
    """What is recorded of a run of a program."""
    from gan_jax.provenance import provenance
    from gan_jax.training import runs

    options = typed.options
    return runs.Record(
        experiment=experiment.name,
        path=runs.recorded_path(experiment),
        sha256=runs.sha256(experiment),
        data_sha256=runs.data_sha256(program),
        config=runs.to_json(typed.config),
        steps=options.steps or program.steps,
        chunk=options.chunk or program.chunk,
        provenance=provenance(),
        **{option: getattr(options, option) for option in RECORDED},
    )


def _open_run(experiment: Experiment, typed: _Typed, program: "Program") -> _Run:
    import jax

    from gan_jax.training import distributed, loop, models, parallel, runs, watch
    from gan_jax.training.checkpoints import Checkpoints

    options, _, directory, past = typed
    assert not isinstance(past, runs.StudyRecord)
    record, kept, held, changed = _recorded(experiment, typed, program), None, (), ()
    if past is not None and options.controller != past.controller:
        before = past.controller or "none"
        raise ValueError(f"{directory} was begun with controller {before}: resume without changing it, or begin anew")
    if options.controller is not None:
        kept = models.read_controller(directory) if past else models.controller(Path(options.controller), record.steps)
        program, held, changed = models.steered(program, kept)
    like, trained = loop.abstract(program, jax.random.key(record.seed)), program
    if options.parallel != "jit":
        trained = parallel.per_device(program, parallel.mesh(), executor=options.parallel)
        like = parallel.placed(like, parallel.mesh())
    elif jax.device_count() > 1:
        trained = parallel.global_view(program, parallel.mesh(), fully_sharded=options.fully_sharded)
        like = parallel.placed(like, parallel.mesh(), fully_sharded=options.fully_sharded)
    if past is None:
        loop.check(trained, jax.random.key(record.seed))
        distributed.barrier("the directory is vacant")
        if distributed.first():
            runs.create(directory, record, kept)
        return _Run(directory, record, trained, Checkpoints(directory / "checkpoints"), None, held)
    notes = tuple(f"{note}: the run may not end as it would have" for note in runs.check_same(directory, past, record))
    notes += changed
    if kept is not None and record.steps != past.steps:
        notes += (f"the controller acts every {kept['every']} steps, as it did when the run was begun",)
    if watch.rows(directory / watch.ALARM_ROWS):
        notes += ("the run was stopped by an alarm and rolled back: the same steps come again, and end alike",)
    checkpoints = Checkpoints(directory / "checkpoints")
    restored = checkpoints.restore(like)
    if restored and restored.step % record.chunk and restored.step < record.steps:
        notes += (
            f"step {restored.step} is no multiple of the chunk of {record.chunk}: the run may not end as it would have",
        )
    if restored and restored.step > record.steps:
        raise ValueError(f"--steps {record.steps}: {directory} already stands at step {restored.step}, give more")
    if distributed.first():  # what the run was begun with stays on record
        runs.write(directory, dataclasses.replace(record, sha256=past.sha256, provenance=past.provenance))
    if restored is None:
        return _Run(directory, record, trained, checkpoints, None, notes)
    start = restored.step, restored.state
    return _Run(directory, record, trained, checkpoints, start, (*notes, *restored.notes))


def train(name: str, words: Sequence[str]) -> int:
    """Do `gan-jax train` and return the exit code."""
    from gan_jax.training import distributed

    with distributed.together({process.WrongInput: 2, OSError: 4}):
        with process.preparing():
            opened = _open(name, words)
        process.keep_compiled()
        again = shlex.join(["gan-jax", "train", name, "--run", str(opened.directory), "--resume"])
        with distributed.records(opened.directory) as directory:
            opened = opened._replace(directory=directory)
            return _study(opened, again) if isinstance(opened, _Study) else _run(opened, again)


def _study(opened: _Study, again: str) -> int:
    from gan_jax.training import studies
    from gan_jax.training.records import duration

    directory, study, cells, names, sha256, title, notes = opened
    process.note(notes)
    if cells != RunOptions.cells:
        again = f"{again} {shlex.join(['--cells', cells])}"

    def done(name: str, seconds: float) -> None:
        count = len(studies.finished(study, directory))
        process.say(f"cell {name}: {duration(seconds)}; {count} of {len(study.cells)} are finished")

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    handler = signal.signal(signal.SIGTERM, interrupt)
    try:
        studies.run(study, directory, names, sha256, done, title)
    except KeyboardInterrupt:
        process.say(f"interrupted; resume with: {again}")
        return 75
    finally:
        signal.signal(signal.SIGTERM, handler)
    text, figures = studies.report(study, directory, title)
    print(text)
    for figure in figures:
        print(f"figure: {figure}")
    print(f"report: {directory / 'report.md'}")
    return 0


def _run(run: _Run, again: str) -> int:
    import jax
    import jax.numpy as jnp

    from gan_jax.base import Hook, Stop
    from gan_jax.diagnostics.termination import Criteria
    from gan_jax.training import diagnosis, distributed, loop, parallel, profiling, records, runs
    from gan_jax.training.watch import Watch, rows

    directory, record, program, checkpoints, start, notes, profiled = run
    # Put once, and not again by each probe.
    program = program._replace(
        batches=program.batches._replace(arrays=jax.tree.map(jnp.asarray, program.batches.arrays))
    )
    process.note(notes)
    writer = records.Records(
        directory,
        steps=record.steps,
        start=start[0] if start else 0,
        images_per_step=records.images_per_step(program),
    )
    score = program.score
    watch = Watch(
        directory,
        # A checkpoint of the best is saved by all; what it is judged by, each computes alone.
        program._replace(score=score and distributed.agreed(lambda key, state: score(key, parallel.whole(state)))),
        runs.sampling_key(record.seed),
        checkpoints,
        start=start[0] if start else 0,
        criteria=Criteria(patience=record.patience, equilibrium=record.equilibrium),
    )
    watching = [watch.hook(record.score_every)] if record.score_every and score else []
    if record.probe_every and program.game:
        begin, probing = start[0] if start else 0, runs.sampling_key(record.seed)
        probes = diagnosis.probes(directory, program, probing, record.probe_every, start=begin)
        watching.append(parallel.seeing_whole(probes))
    key, looking = jax.random.key(record.seed), runs.sampling_key(record.seed)
    pictures = records.pictures(directory, program.observe, looking, record.picture_every)
    # The innermost context: on the way out of the others an end would wait for processes that are gone.
    together = distributed.together({OSError: 4})
    tracer = profiling.Tracer(directory / "profile")
    with checkpoints, writer, distributed.interruption() as interruption, tracer, together:
        # A checkpoint comes after the row and the picture of its step: resumed from it, a run makes them no more.
        hooks: tuple[Hook, ...] = (
            writer.hook(record.log_every),
            loop.finite(record.log_every),
            parallel.seeing_whole(pictures),
            *watching,
            checkpoints.hook(record.checkpoint_every),
            interruption,
        )
        hooks = tracer.around(hooks) if profiled else hooks
        result = loop.train(program, key, steps=record.steps, chunk=record.chunk, start=start, hooks=hooks)
        stop = result.stop or Stop("done")
        if stop.code != 3 and not checkpoints.save(result.step, result.state):
            stop = Stop(f"the state is not finite at step {result.step}", 3)
        back = watch.roll_back(result.step, stop.reason) if stop.code == 3 else None
        checkpoints.wait()
    if stop.code == 3:
        kept = "none was saved" if back is None else f"rolled back to {directory / 'checkpoints' / str(back)}"
        process.say(f"stopped: {stop.reason}; {kept}")
    elif stop.code == 0 and result.stop:
        process.say(f"done at step {result.step}: {stop.reason}")
    if stop.code == 75:
        process.say(f"{stop.reason} at step {result.step}; resume with: {again}")
    print(f"run: {directory}")
    if tracer.steps and stop.code != 75:  # who interrupts does not wait for more
        profile = profiling.profile(tracer, program, key, result.state, record.chunk)
        print(profiling.write(profile, profiling.ceilings(), tracer.directory))
    elif profiled and stop.code != 75:
        process.say("the run was over before it could be profiled: give it more steps")
    if best := watch.verdict.best:
        where = directory / "checkpoints" / str(best.step)
        print(f"best: {where}, score {best.score:.4g}; scoring took {watch.seconds:.1f} s")
    if probed := rows(directory / diagnosis.PROBES):
        took = sum(row["seconds"] for row in probed)
        right, error = probed[-1]["rightmost"], probed[-1]["rightmost_error"]
        found = "not finite" if None in (right, error) else f"{right:.3g}, error {error:.0%}"
        print(f"probes: rightmost eigenvalue {found}; {len(probed)} took {took:.1f} s")
    if drawn := sorted((directory / "samples").glob("[0-9]*.png")):
        print(f"picture: {drawn[-1]}")
    return stop.code
