"""The way back from a run directory to a trained model, and from a study's to the controller that it has learned."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from gan_jax import evaluation
from gan_jax.base import Program, State, Study
from gan_jax.meta.control import Controller
from gan_jax.training import lookup, loop, runs, steering, studies, sweeps
from gan_jax.training.checkpoints import Checkpoints
from gan_jax.training.lookup import Experiment
from gan_jax.training.runs import Record, StudyRecord, from_json, sampling_key


class Trained(NamedTuple):
    """A trained model: a program and its newest good state.

    record: what its run was. notes: a line for each thing that is not as it was when it trained.
    """

    program: Program
    state: State
    step: int
    record: Record
    notes: tuple[str, ...]

    def sample(self, n: int, *, seed: int = 0, label: int | None = None, frames: int = 1) -> np.ndarray:
        """Draw n samples [n, ...], the same for the same seed; from averaged weights where the model keeps them.

        label: the class of all of them, for a conditional model.
        frames: each so many samples go from one latent to another, if they are more than one.
        ValueError: the program has nothing to sample, n or the frames are less than 1, no such label, or n is no
            multiple of the frames.
        """
        sample = self.program.sample
        if sample is None:
            raise ValueError(f"{self.record.experiment} has nothing to sample")
        if n < 1:
            raise ValueError(f"{n} samples: draw 1 or more")
        if frames < 1:
            raise ValueError(
                f"{frames} frames: give 2 or more, or 1 for samples that have nothing to do with each other"
            )
        return evaluation.draw(sample, sampling_key(seed), self.state, n, label, frames)


def rebuild(record: Record | StudyRecord, data_dir: str | None = None) -> tuple[Any, Experiment]:
    """Return the program of a run's record, or the study of a study's, and its experiment, from the file as it is now.

    data_dir: where its data lies now, if it has moved.
    ValueError: there is no such experiment any more, or its file no longer fits.
    """
    experiment = lookup.find(record.path or record.experiment)
    module = lookup.load(experiment)
    config = from_json(module.Config, record.config)
    return module.build(config, record.data, data_dir or record.data_dir), experiment


def load(directory: str | Path, *, data_dir: str | None = None) -> Trained:
    """The trained model of a run directory, which is only read.

    data_dir: where its data lies now, if it has moved.
    ValueError: not a run, a run without a checkpoint yet, or one that its experiment's file no longer fits.
    """
    trained = newest(directory, data_dir=data_dir)
    if trained is None:
        raise ValueError(f"{directory} has no checkpoint yet: train it first, gan-jax train --resume continues it")
    return trained


def one_run(directory: Path) -> Path:
    """The directory of a run: of many that were trained side by side, the best one's."""
    record = runs.read(directory)
    return sweeps.best_member(directory) if isinstance(record, StudyRecord) and record.members else directory


def model_record(directory: Path) -> Record:
    """What a directory says of its run. ValueError if it is none, or a study's."""
    record = runs.read(directory)
    if isinstance(record, StudyRecord):
        raise ValueError(f"{directory} is a study, {record.experiment}: it has no model, see its report.md")
    return record


def newest(directory: str | Path, *, data_dir: str | None = None) -> Trained | None:
    """Return what `load` gives, or None while there is no checkpoint; arguments and errors are those of `load`."""
    directory = one_run(Path(directory))
    record = model_record(directory)
    program, experiment = rebuild(record, data_dir)
    notes, controlled = [], record.controller is not None
    trains = program
    if controlled:
        trains, _, changed = steered(program, read_controller(directory))
        notes += changed
    if runs.sha256(experiment) != record.sha256:
        notes.append(f"{experiment.path} has changed since {directory} was trained")
    restored = None
    if (directory / "checkpoints").is_dir():
        with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
            restored = checkpoints.restore(loop.abstract(trains, jax.random.key(record.seed)))
    if restored is None:
        return None
    state = restored.state
    if controlled:  # what looks at the model knows nothing of who steered it, but for the numbers that it stands at
        program = program._replace(game=lambda trained: trains.game(restored.state._replace(trained=trained)))
        state = restored.state.trained
    return Trained(program, state, restored.step, record, (*notes, *restored.notes))


# Controllers


def controller(directory: Path, steps: int) -> Mapping[str, Any]:
    """What a run of so many steps keeps of the study whose controller is to drive it, as JSON values.

    Of the study its directory is not needed any more, but the file of its experiment is.
    ValueError: no study, or one that has learned no controller.
    """
    record, study, experiment = _study(directory)
    results = studies.finished(study, directory)
    kept = {"study": dataclasses.asdict(record), "sha256": runs.sha256(experiment), "results": results}
    return kept | {"every": max(1, -(-steps // _learned(kept)[0].horizon))}


def results(directory: Path) -> Mapping[str, Any]:
    """Return what a study's finished cells have come to, by their names. ValueError: no study, or unreadable."""
    return studies.finished(_study(directory)[1], directory)


def read_controller(directory: Path) -> Mapping[str, Any]:
    """What a run keeps of its controller. ValueError: it does not, or not any more."""
    path = directory / runs.CONTROLLER
    try:
        kept = json.loads(path.read_bytes())
        StudyRecord(**kept["study"])
        return {name: kept[name] for name in ("study", "sha256", "results", "every")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what a controlled run keeps: {error!r}; restore it, or train anew") from error


def steered(program: Program, kept: Mapping[str, Any]) -> tuple[Program, tuple[str, ...], tuple[str, ...]]:
    """Return the program with a controller at its hyperparameters, and two sorts of notes.

    A line for each dial that it cannot turn, and one if the file that it comes from has changed.
    kept: what `controller` gives, or `read_controller`.
    """
    learned, experiment = _learned(kept)
    made = steering.steered(program, learned, every=kept["every"])
    assert program.tunable is not None
    stays = steering.held(learned, program.tunable.hyper)
    held = tuple(f"the controller's {name} is not turned: {reason}" for name, reason in stays.items())
    if runs.sha256(experiment) == kept["sha256"]:
        return made, held, ()
    return made, held, (f"{experiment.path}, from which the controller comes, has changed since the run was begun",)


def _study(directory: Path) -> tuple[StudyRecord, Study, Experiment]:
    record = runs.read(directory)
    if not isinstance(record, StudyRecord) or record.members:
        raise ValueError(f"{directory} is a run of {record.experiment}: a study is asked for")
    return record, *rebuild(record)


def _learned(kept: Mapping[str, Any]) -> tuple[Controller, Experiment]:
    record = StudyRecord(**kept["study"])
    study, experiment = rebuild(record)
    if not isinstance(study, Study) or study.controller is None:
        raise ValueError(f"{record.experiment} learns no controller: give a study that does, such as gan_control_rl2")
    return study.controller(kept["results"]), experiment
