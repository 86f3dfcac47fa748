"""Many runs of one experiment side by side in one program, a seed each, as a study: a cell trains a group of them.

In members/<seed>/ of the study's directory each of them is a run, to be sampled, evaluated, diagnosed or gone on with.
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gan_jax.base import Continue, Hook, Key, Metrics, Program, Report, State, Study
from gan_jax.metrics.spread import interval
from gan_jax.training import loop, parallel, records, runs, studies
from gan_jax.training.checkpoints import Checkpoints
from gan_jax.training.runs import Record

_SHARE = 0.8  # of a device's memory that members may fill


def seeds(text: str) -> tuple[int, ...]:
    """The seeds that are typed as A..B, both included. ValueError: it is no such range."""
    found = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not found or not (first := int(found[1])) <= (last := int(found[2])) < 2**32:
        raise ValueError(f"--seeds {text}: give A..B, A at most B, such as 0..7")
    return tuple(range(first, last + 1))


def fitting(program: Program, chunk: int, count: int) -> int:
    """How many members of `count` train at once: as many as the memory of the devices holds, at least one on each.

    Read from the programs that are compiled for one and for two members.
    """
    devices = jax.device_count()
    one, two = (_bytes(program, chunk, members) for members in (1, 2))
    room = _SHARE * _memory() - one
    each = max(two - one, 1)
    return min(count, devices * (1 + max(0, int(room // each))))


def study(program: Program, record: Record, directory: Path, members: Sequence[int], at_once: int) -> Study:
    """The study whose cells train groups of at most `at_once` members.

    record: of a run; each member's is this one with its seed.
    """
    groups = [tuple(members[i : i + at_once]) for i in range(0, len(members), at_once)]
    return Study(
        cells={f"{group[0]}-{group[-1]}": partial(_cell, program, record, directory, group) for group in groups},
        report=partial(_report, record),
    )


def best_member(directory: Path) -> Path:
    """The run of the member with the best score so far. ValueError: none has one yet."""
    cells = [json.loads(path.read_bytes())["result"] for path in (directory / "cells").glob("*.json")]
    ranked, _ = _ranked([member for cell in cells for member in cell["members"]])
    if not ranked:
        raise ValueError(
            f"{directory} holds many runs, and none of them has a score yet: name one in {directory}/members"
        )
    return directory / "members" / str(ranked[0]["seed"])


def _cell(program: Program, record: Record, directory: Path, group: Sequence[int], own: Path) -> Mapping[str, Any]:
    key = jax.vmap(jax.random.key)(jnp.array(group, jnp.uint32))
    if jax.device_count() > 1 and len(group) % jax.device_count() == 0:
        key = jax.device_put(key, NamedSharding(parallel.mesh(), PartitionSpec(parallel.AXIS)))
    trained = studies.train(
        program._replace(chunk=record.chunk),
        key,
        own,
        steps=record.steps,
        every=record.checkpoint_every,
        hooks=[_rows(own, group, record.log_every)],
    )
    stopped = trained.stop.reason if trained.stop else None
    found = [
        _kept(program, dataclasses.replace(record, seed=seed), directory / "members" / str(seed), own, member)
        for seed, member in zip(group, _apart(trained, len(group)), strict=True)
    ]
    return {"members": found} | ({"stopped": stopped} if stopped else {})


def _apart(trained: loop.Result, count: int) -> Sequence[loop.Result]:
    """The end of each member, on the host: one transfer for all."""
    state = jax.device_get(trained.state)
    return [trained._replace(state=jax.tree.map(lambda leaf, i=i: leaf[i], state)) for i in range(count)]


def _rows(own: Path, group: Sequence[int], every: int) -> Hook:
    """A hook that writes each member's row to a file of its own."""

    def run(step: int, state: State, metrics: Metrics) -> Continue:
        values = {name: np.asarray(value, float) for name, value in jax.device_get(dict(metrics)).items()}
        for place, seed in enumerate(group):
            row = {"step": step} | {name: float(value[place]) for name, value in values.items()}
            records.append(own / f"{seed}.jsonl", row)
        return Continue()

    return Hook(every, run)


def _kept(program: Program, record: Record, directory: Path, own: Path, member: loop.Result) -> Mapping[str, Any]:
    """Write a member down as a run, and return its seed, score and last metrics."""
    if directory.exists():  # of a cell that was killed while its members were written
        shutil.rmtree(directory)
    runs.create(directory, record)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        finite = checkpoints.save(member.step, jax.tree.map(jnp.asarray, member.state))
    lines = (own / f"{record.seed}.jsonl").read_text().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}  # a step that was gone back to comes again, and alike
    for step in sorted(rows):
        records.append(directory / "metrics.jsonl", rows[step])
    scores = {}
    if finite and program.score:
        found = program.score(runs.sampling_key(record.seed), member.state)
        scores = {name: float(value) for name, value in found.items()}
    scores = {name: value if np.isfinite(value) else None for name, value in scores.items()}
    return {"seed": record.seed, "finite": bool(finite), "scores": scores, "last": rows[max(rows)]}


def _ranked(members: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The members that have a score, the best first, and the names of the scores, the first of which decides."""
    names = list(next((member["scores"] for member in members if member["scores"]), {}))
    scored = [member for member in members if names and member["scores"].get(names[0]) is not None]
    return sorted(scored, key=lambda member: member["scores"][names[0]]), names


def _report(record: Record, results: Mapping[str, Mapping[str, Any]]) -> Report:
    """A table of the members, the best first, and where their scores lie."""
    members = [member for result in results.values() for member in result["members"]]
    title = f"{record.experiment}, {record.steps:,} steps"
    if not members:
        return Report(f"{title}: no member is finished yet")
    scored, names = _ranked(members)
    others = [member for member in members if member not in scored]
    text = [f"{title}: {len(members)} members, {sum(not member['finite'] for member in members)} not finite", ""]
    figures = {}
    if scored:
        values = np.array([member["scores"][names[0]] for member in scored])
        spread = f" ± {interval(values):.4g} (95 %)" if len(values) > 1 else ""
        low, middle, high = np.percentile(values, [10, 50, 90])
        text += [
            f"{names[0]}, lower is better: mean {values.mean():.4g}{spread}, median {middle:.4g}, a tenth below "
            f"{low:.4g} and a tenth above {high:.4g}; the best is members/{scored[0]['seed']}",
            "",
        ]
        figures = {"scores": _figure(names[0], values)}
    columns = names or [name for name in members[0]["last"] if name != "step"]
    text += [f"| seed | {' | '.join(columns)} |", "| ---: |" + " ---: |" * len(columns)]
    for member in scored + others:
        shown = member["scores"] if names else member["last"]
        entries = [f"{value:.4g}" if (value := shown.get(name)) is not None else "not finite" for name in columns]
        text.append(f"| {member['seed']} | {' | '.join(entries)} |")
    return Report("\n".join(text), figures)


def _figure(name: str, values: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5, 3), layout="constrained")
    ax = drawn.subplots()
    ax.step(values, np.arange(1, len(values) + 1) / len(values), where="post")
    ax.plot(values, np.arange(1, len(values) + 1) / len(values), ".", color="C0")
    ax.set(xlabel=f"{name}, lower is better", ylabel="share of members at or below", ylim=(0, 1.02))
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
