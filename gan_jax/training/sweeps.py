"""Many runs of one experiment side by side, of many seeds and over grids of its fields, as a study of theirs.

In members/<name>/ of the study's directory each of them is a run, to be sampled, evaluated, diagnosed or gone on with.
Those whose programs differ in hyperparameters alone train in one program, a cell of the study for each group of them.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Bool, Int

from gan_jax.arithmetic import all_finite
from gan_jax.base import Array, Batch, Continue, Hook, Hyper, Key, Metrics, Program, Report, State, Study
from gan_jax.metrics.spread import interval
from gan_jax.training import loop, parallel, records, runs, studies
from gan_jax.training.checkpoints import Checkpoints
from gan_jax.training.runs import Record

_SHARE = 0.8  # of a device's memory that members may fill
_FIELD = re.compile(r"[A-Za-z][\w.-]*")


class Member(NamedTuple):
    """One of many runs.

    name: of its directory. setting: what its fields have been set to, by name, of those that the members differ in.
    record: what its run's config.json says. program: that of its fields.
    """

    name: str
    setting: Mapping[str, str]
    record: Record
    program: Program


class Held(NamedTuple):
    """Where a member stands.

    hyper: its own, or () where those of the program hold for all. trained: the program's state, the last one that was
        finite. steps: done until then, int32. alive: whether it still is; one that is not stays as it was, and the
        others go on.
    """

    hyper: Hyper
    trained: State
    steps: Int[Array, ""]
    alive: Bool[Array, ""]


def seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text A..B, as it is typed, both included. ValueError: it is no such range."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not found or not (first := int(found[1])) <= (last := int(found[2])) < 2**32:
        raise ValueError(f"--seeds {text}: give A..B, A at most B, such as 0..7")
    return tuple(range(first, last + 1))


def grid(words: Sequence[str]) -> tuple[Mapping[str, str], ...]:
    """All settings of fields that are typed as FIELD=VALUE,VALUE..., each with each; one that sets none if none are.

    ValueError: a word is not of this form, or a field or a value comes twice.
    """
    values: dict[str, list[str]] = {}
    for word in words:
        field, equals, text = word.partition("=")
        field, each = field.replace("-", "_"), text.split(",")
        if not equals or not _FIELD.fullmatch(field) or not all(each):
            raise ValueError(f"--grid {word}: give FIELD=VALUE,VALUE such as beta1=0,0.5")
        if field in values or len(set(each)) < len(each):
            raise ValueError(f"--grid {word}: name each field and each of its values once")
        values[field] = each
    return tuple(dict(zip(values, each, strict=True)) for each in itertools.product(*values.values()))


def name(setting: Mapping[str, str], seed: int) -> str:
    """Return the name of a member: its seed, after its fields' setting. ValueError: it cannot name a directory."""
    made = ",".join([*(f"{field}={value}" for field, value in setting.items()), str(seed)])
    if not re.fullmatch(r"[\w.,=+-]+", made):
        raise ValueError(f"--grid: {made!r} cannot name a directory, use letters, digits and _.+-")
    return made


def fitting(program: Program, chunk: int, count: int) -> int:
    """Return how many members of `count` train at once: as many as the devices' memory holds, at least one on each.

    Read from the programs that are compiled for one and for two members, `chunk` steps of them.
    """
    devices = jax.device_count()
    one, two = (_bytes(program, chunk, members) for members in (1, 2))
    room = _SHARE * _memory() - one
    each = max(two - one, 1)
    return min(count, devices * (1 + max(0, int(room // each))))


def study(groups: Sequence[Sequence[Member]], directory: Path, at_once: int) -> Study:
    """The study whose cells train at most `at_once` members, of a group that is one program (see `together`)."""
    cells = {}
    for alike in groups:
        for i in range(0, len(alike), at_once):
            group = alike[i : i + at_once]
            first, last = group[0], group[-1]
            others = f"+{len(group) - 1}" if first.setting else f"-{last.name}"
            cells[first.name + others] = partial(_cell, directory, group)
    return Study(cells=cells, report=partial(_report, [member for group in groups for member in group]))


def together(members: Sequence[Member]) -> list[list[Member]]:
    """The members in groups whose programs are one and the same function of the hyperparameters, state and data."""
    if len({tuple(member.setting.items()) for member in members}) == 1:
        return [list(members)]
    signatures, groups = {}, {}
    for member in members:
        setting = tuple(member.setting.items())
        if setting not in signatures:  # all seeds of a setting have one program
            signatures[setting] = signature(member.program)
        groups.setdefault(signatures[setting], []).append(member)
    return list(groups.values())


def signature(program: Program) -> str:
    """The digest of all that a program does to a state, but for its hyperparameters, and of its data.

    Of one whose hyperparameters cannot be turned they are a part of it.
    """
    tunable, key = program.tunable, jax.random.key(0)
    arrays = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), program.batches.arrays)

    def advance(hyper: Hyper, key: Key, state: State, arrays: Any, step: Array) -> Any:
        batch = program.batches.draw(arrays, key, step)
        return tunable.step(hyper, key, state, batch) if tunable else program.step(key, state, batch)

    hyper = tunable.hyper if tunable else ()
    state = loop.abstract(program, key)
    lowered = jax.jit(advance).lower(hyper, key, state, arrays, jax.ShapeDtypeStruct((), jnp.int32))
    begun = jax.jit(program.init).lower(key)
    told = (lowered.as_text(), begun.as_text(), str(jax.tree.structure(hyper)), runs.data_sha256(program))
    return hashlib.sha256("\n".join((*told, str(program.steps), str(program.chunk))).encode()).hexdigest()


def held(program: Program, *, turned: bool = False) -> Program:
    """Return the program of a member, whose state is `Held`: `turned` says whether it has hyperparameters of its own.

    A member that is no longer finite stays what it was before, for good.
    ValueError: `turned`, of a program that has no hyperparameters.
    """
    tunable = program.tunable
    if turned and tunable is None:
        raise ValueError("members differ in hyperparameters, and the program has none")

    def init(key: Key) -> Held:
        hyper = jax.tree.map(jnp.float32, tunable.hyper) if turned and tunable else ()
        return Held(hyper, program.init(key), jnp.int32(0), jnp.array(True))

    def step(key: Key, state: Held, batch: Batch) -> tuple[Held, Metrics]:
        if turned and tunable:
            new, metrics = tunable.step(state.hyper, key, state.trained, batch)
        else:
            new, metrics = program.step(key, state.trained, batch)
        alive = state.alive & all_finite(new)
        kept = jax.tree.map(lambda new, old: jnp.where(alive, new, old), new, state.trained)
        return Held(state.hyper, kept, state.steps + alive, alive), metrics

    return program._replace(init=init, step=step)


def best_member(directory: Path) -> Path:
    """The run of the member with the best score so far. ValueError: none has one yet."""
    cells = [json.loads(path.read_bytes())["result"] for path in (directory / "cells").glob("*.json")]
    ranked, _ = _ranked(_members(cells))
    if not ranked:
        raise ValueError(
            f"{directory} holds many runs, and none of them has a score yet: name one in {directory}/members"
        )
    return directory / "members" / ranked[0]["name"]


def _members(cells: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What became of the members of finished cells; before there were grids a seed was all of a name."""
    return [{"name": str(each["seed"]), "setting": {}} | each for cell in cells for each in cell["members"]]


def _cell(directory: Path, group: Sequence[Member], own: Path) -> Mapping[str, Any]:
    key = jax.vmap(jax.random.key)(jnp.array([member.record.seed for member in group], jnp.uint32))
    if jax.device_count() > 1 and len(group) % jax.device_count() == 0:
        key = jax.device_put(key, NamedSharding(parallel.mesh(), PartitionSpec(parallel.AXIS)))
    record, turned = group[0].record, len({tuple(member.setting.items()) for member in group}) > 1
    program = held(group[0].program, turned=turned)._replace(chunk=record.chunk)
    for member in group:
        records.cut(own / f"{member.name}.jsonl", record.steps)  # a line that a kill has torn

    def begin() -> State:
        state = loop.init(program, key)
        if not turned:
            return state
        each = [member.program.tunable.hyper for member in group if member.program.tunable]

        def stacked(old: Array, *values: Any) -> Array:
            return jax.device_put(jnp.array(values, old.dtype), old.sharding)

        return state._replace(hyper=jax.tree.map(stacked, state.hyper, *each))

    trained = studies.train(
        program,
        key,
        own,
        steps=record.steps,
        every=record.checkpoint_every,
        hooks=[_rows(own, group, record.log_every)],
        begin=begin,
    )
    found = [
        _kept(member, directory / "members" / member.name, own, ended)
        for member, ended in zip(group, _apart(trained, len(group)), strict=True)
    ]
    return {"members": found}


def _apart(trained: loop.Result, count: int) -> Sequence[loop.Result]:
    """The end of each member, on the host: one transfer for all."""
    state = jax.device_get(trained.state)
    return [trained._replace(state=jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(count)]


def _rows(own: Path, group: Sequence[Member], every: int) -> Hook:
    """A hook that writes each member's row to a file of its own."""

    def run(step: int, state: State, metrics: Metrics) -> Continue:
        values = {name: np.asarray(value, float) for name, value in jax.device_get(dict(metrics)).items()}
        for place, member in enumerate(group):
            row = {"step": step} | {name: float(value[place]) for name, value in values.items()}
            records.append(own / f"{member.name}.jsonl", row)
        return Continue()

    return Hook(every, run)


def _kept(member: Member, directory: Path, own: Path, ended: loop.Result) -> Mapping[str, Any]:
    """Write a member down as a run, as far as it was finite, and return what it is and what became of it."""
    if directory.exists():  # of a cell that was killed while its members were written
        shutil.rmtree(directory)
    state, finite, steps = ended.state.trained, bool(ended.state.alive), int(ended.state.steps)
    runs.create(directory, member.record)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        checkpoints.save(steps, jax.tree.map(jnp.asarray, state))
    lines = (own / f"{member.name}.jsonl").read_text().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}  # a step that was gone back to comes again, and alike
    for step in sorted(step for step in rows if step <= steps):
        records.append(directory / "metrics.jsonl", rows[step])
    scores = {}
    if finite and member.program.score:
        found = member.program.score(runs.sampling_key(member.record.seed), state)
        scores = {name: float(value) for name, value in found.items()}
    scores = {name: value if np.isfinite(value) else None for name, value in scores.items()}
    told = {"name": member.name, "seed": member.record.seed, "setting": dict(member.setting)}
    return {**told, "finite": finite, "steps": steps, "scores": scores, "last": rows[max(rows)]}


def _ranked(members: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The members that have a score, the best first, and the names of the scores, the first of which decides."""
    names = list(next((member["scores"] for member in members if member["scores"]), {}))
    scored = [member for member in members if names and member["scores"].get(names[0]) is not None]
    return sorted(scored, key=lambda member: member["scores"][names[0]]), names


def _report(all_of: Sequence[Member], results: Mapping[str, Mapping[str, Any]]) -> Report:
    """A table of the members, the best first, where their scores lie, and how they depend on what was set."""
    record, fields = all_of[0].record, list(all_of[0].setting)
    members = _members(results.values())
    title = f"{record.experiment}, {record.steps:,} steps"
    if not members:
        return Report(f"{title}: no member is finished yet")
    scored, names = _ranked(members)
    others = [member for member in members if member not in scored]
    text = [f"{title}: {len(members)} members, {sum(not member['finite'] for member in members)} not finite", ""]
    figures = {}
    if scored:
        values = np.array([member["scores"][names[0]] for member in scored])
        spread = f" ± {interval(values):.4g} (95 %)" if len(values) > 1 and not fields else ""
        low, middle, high = np.percentile(values, [10, 50, 90])
        text += [
            f"{names[0]}, lower is better: mean {values.mean():.4g}{spread}, median {middle:.4g}, a tenth below "
            f"{low:.4g} and a tenth above {high:.4g}; the best is members/{scored[0]['name']}",
            "",
        ]
        figures = {"scores": _figure(names[0], values)}
        if fields:
            figures["grid"] = _grid_figure(names[0], fields, all_of, scored)
    columns = names or [name for name in members[0]["last"] if name != "step"]
    text += [
        f"| {' | '.join([*fields, 'seed', *columns])} |",
        "|" + " ---: |" * (len(fields) + 1 + len(columns)),
    ]
    for member in scored + others:
        shown = (member["scores"] if names else member["last"]) if member["finite"] else {}
        entries = [f"{value:.4g}" if (value := shown.get(name)) is not None else "not finite" for name in columns]
        set_to = [member["setting"][field] for field in fields]
        text.append(f"| {' | '.join([*set_to, str(member['seed']), *entries])} |")
    return Report("\n".join(text), figures)


def _figure(name: str, values: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5, 3), layout="constrained")
    ax = drawn.subplots()
    ax.step(values, np.arange(1, len(values) + 1) / len(values), where="post")
    ax.plot(values, np.arange(1, len(values) + 1) / len(values), ".", color="C0")
    ax.set(xlabel=f"{name}, lower is better", ylabel="share of members at or below", ylim=(0, 1.02))
    return drawn


def _grid_figure(
    name: str, fields: Sequence[str], all_of: Sequence[Member], scored: Sequence[Mapping[str, Any]]
) -> Any:
    """A panel for each field: all scores at each of its values, whatever the other fields are, and their medians."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(3.2 * len(fields), 3), layout="constrained")
    for ax, field in zip(drawn.subplots(1, len(fields), squeeze=False, sharey=True)[0], fields, strict=True):
        values = list(dict.fromkeys(member.setting[field] for member in all_of))
        for place, value in enumerate(values):
            scores = [member["scores"][name] for member in scored if member["setting"][field] == value]
            ax.plot([place] * len(scores), scores, ".", color="C0", alpha=0.5)
            if scores:
                ax.plot([place - 0.3, place + 0.3], [np.median(scores)] * 2, color="k")
        ax.set_xticks(range(len(values)), values)
        ax.set_xlabel(field)
        ax.set_yscale("log" if min(member["scores"][name] for member in scored) > 0 else "linear")
    drawn.supylabel(f"{name}, lower is better", fontsize=10)
    return drawn


def _bytes(program: Program, chunk: int, members: int) -> int:
    """What a compiled chunk needs for so many members."""
    key: Key = jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.arange(members)))
    arrays = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), program.batches.arrays)
    chunked: Any = loop.compile_chunk(program, chunk)
    lowered = chunked.lower(key, loop.abstract(program, key), arrays, jax.ShapeDtypeStruct((), jnp.int32))
    memory = lowered.compile().memory_analysis()
    arguments = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return arguments + memory.temp_size_in_bytes


def _memory() -> int:
    """Bytes of one device; of a CPU, its share of the machine's."""
    device = jax.local_devices()[0]
    known = (device.memory_stats() or {}).get("bytes_limit")
    return known or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
