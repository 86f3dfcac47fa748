"""Where the time of a step goes, and how far it is from what the machine could do.

Some chunks of a run are traced and timed as it goes, apart from what happens between them. `profile/` in the run's
directory then holds the trace, which TensorBoard's profile plugin and Perfetto read, and `report.md`.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gan_jax.base import Continue, Hook, Key, Metrics, Program, State
from gan_jax.training import loop, turns
from gan_jax.training.plan import PRODUCT, computations, instructions

WARM = 2  # chunks before the trace: the first compiles, the second says how long one takes
SECONDS = 2.0  # about how long is traced
FEWEST, MOST = 3, 50  # chunks that are traced
ROWS = 20  # of the table
COPIES = 8  # of a large array, to measure the memory by
DTYPES = ("float32", "bfloat16")

_SOURCE = re.compile(r'op_name="([^"]*)"')
_CALLED = re.compile(r"calls=%([\w.-]+)")
_MODULE = re.compile(r"HloModule ([\w.-]+)")
_TYPE = re.compile(r"\b(f32|bf16)\[")
_CONTAINERS = ("while", "call", "conditional")  # they last as long as what is in them, which is traced itself


class Ceilings(NamedTuple):
    """What a device can do, as measured: operations a second of a large matrix product, bytes a second of a large copy.

    flops: by the type of the factors, "float32" (at JAX's default precision) and "bfloat16".
    """

    flops: Mapping[str, float]
    bandwidth: float


class Operation(NamedTuple):
    """An operation of a compiled program: its name and kind there, what of a step it is, and its seconds in one."""

    name: str
    kind: str
    source: str
    seconds: float


class Profile(NamedTuple):
    """A step as it was measured, on one device.

    seconds: of a step, by the clock, and steps: how many were traced. flops, bytes: what the compiler counts in one;
    what a loop within a step repeats is counted once. dtype: of most of its products.
    operations: those that take longest first; side by side on several threads, they can take more than `seconds`.
    """

    steps: int
    seconds: float
    flops: float
    bytes: float
    dtype: str
    operations: tuple[Operation, ...]


def ceilings(size: int | None = None, *, repeats: int = 5) -> Ceilings:
    """Measure what the first device can do, the best of some repeats.

    size: of the matrices' sides, 2048 on a CPU and 8192 elsewhere unless given. What is copied is as large as four.
    """
    size = size or (2048 if jax.devices()[0].platform == "cpu" else 8192)

    def best(function: Callable[..., jax.Array], *arguments: jax.Array) -> float:
        compiled = jax.jit(function)

        def once() -> float:
            start = time.perf_counter()
            jax.block_until_ready(compiled(*arguments))
            return time.perf_counter() - start

        return min([once() for _ in range(1 + repeats)][1:])  # the first compiles

    def copied(x: jax.Array) -> jax.Array:  # more than once, or fetching fresh pages is what would be measured
        for _ in range(COPIES):
            x = lax.optimization_barrier(x * 1.5)
        return x

    factors = {dtype: jnp.ones((size, size), dtype) for dtype in DTYPES}
    large = jnp.ones((4, size, size))
    flops = {dtype: 2 * size**3 / best(jnp.matmul, factor, factor) for dtype, factor in factors.items()}
    return Ceilings(flops, 2 * COPIES * large.nbytes / best(copied, large))


class Tracer:
    """Traces some chunks of a run once they are compiled; use it as a context around the loop.

    It waits for the device after each chunk until it is done, so that it times chunks alone.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self._calls, self._left = 0, 0  # chunks seen, and those that are still to be traced
        self._step, self._time = 0, 0.0  # where the last chunk began
        self.steps, self.seconds = 0, 0.0  # what was traced; no steps if the run was over before

    def __enter__(self) -> "Tracer":
        return self

    def __exit__(self, *_: object) -> None:
        if self._left:  # the run has ended first
            jax.profiler.stop_trace()
            self._left, self.steps = 0, 0

    def around(self, hooks: Sequence[Hook]) -> tuple[Hook, ...]:
        """Return the hooks of a run between two of its own, so that their time is not that of a step."""
        return Hook(1, self._end), *hooks, Hook(1, self._begin)

    def _end(self, step: int, state: State, metrics: Metrics) -> Continue:
        if self._calls > WARM and not self._left:
            return Continue()
        jax.block_until_ready(state)
        taken = time.perf_counter() - self._time
        self._calls += 1
        if self._left:
            self.steps, self.seconds = self.steps + step - self._step, self.seconds + taken
            self._left -= 1
            if not self._left:
                jax.profiler.stop_trace()
        elif self._calls == WARM:
            self._left = min(max(FEWEST, math.ceil(SECONDS / taken)), MOST)
            jax.profiler.start_trace(str(self.directory))
        return Continue()

    def _begin(self, step: int, state: State, metrics: Metrics) -> Continue:
        self._step, self._time = step, time.perf_counter()
        return Continue()


def profile(tracer: Tracer, program: Program, key: Key, state: State, chunk: int) -> Profile:
    """Read what a tracer has traced, beside the program that ran.

    state: one of the run, for its shapes and where it lies.
    chunk: how many steps one call of it was.
    The tracer has traced something, and so `steps`.
    """
    advance: Any = loop.compile_chunk(program, chunk)
    compiled = advance.lower(key, state, program.batches.arrays, jnp.int32(0)).compile()
    cost, text = compiled.cost_analysis() or {}, compiled.as_text() or ""
    newest = max(tracer.directory.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    data = jax.profiler.ProfileData.from_file(str(newest))
    products = Counter(
        kind[1] for line in text.splitlines() if PRODUCT.search(line) and (kind := _TYPE.search(line)) is not None
    )
    return Profile(
        steps=tracer.steps,
        seconds=tracer.seconds / tracer.steps,
        flops=cost.get("flops", math.nan),
        bytes=cost.get("bytes accessed", math.nan),
        dtype="bfloat16" if products["bf16"] > products["f32"] else "float32",
        operations=operations(text, durations(data, _MODULE.findall(text)[0]), tracer.steps),
    )


def durations(data: Any, module: str) -> Counter[str]:
    """Return the nanoseconds that each operation of a program took in a trace, by its name there, on the first device.

    module: the program's name. Others may have run beside it, with operations of the same names.
    """
    found: Counter[str] = Counter()
    for plane in data.planes:
        if plane.name.startswith("/device:") and not plane.name.endswith(":0"):
            continue
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                # A TPU's have a line to themselves, and the text of an instruction for a name.
                name = stats.get("hlo_op") or (event.name if line.name == "XLA Ops" else None)
                ours = stats.get("hlo_module", module) == module and not stats.get("device_ordinal", 0)
                if name is not None and ours:
                    found[str(name).lstrip("%").partition(" ")[0]] += event.duration_ns
    return found


def operations(text: str, nanoseconds: Mapping[str, float], steps: int) -> tuple[Operation, ...]:
    """Return the operations of a compiled program's text that were traced, those that take longest first.

    nanoseconds: that each took, by its name, in all of the steps that were traced, as `durations` gives them.
    """
    found, parts = [], computations(text)
    for lines in parts.values():
        for name, _, kind, rest in instructions(lines):
            if name not in nanoseconds or kind in _CONTAINERS:
                continue
            # A fusion that says nothing of itself is what its last instruction is.
            called = _CALLED.search(rest)
            said = _SOURCE.findall(rest) or _SOURCE.findall("\n".join(parts.get(called[1], ())) if called else "")
            found.append(Operation(name, kind, said[-1] if said else "", nanoseconds[name] / steps / 1e9))
    return tuple(sorted(found, key=lambda operation: -operation.seconds))


def roofline(profile: Profile, ceilings: Ceilings) -> float:
    """Return the seconds that a step would take if its operations, or its traffic, were all that held it up."""
    return max(profile.flops / ceilings.flops[profile.dtype], profile.bytes / ceilings.bandwidth)


def report(profile: Profile, ceilings: Ceilings) -> str:
    """Return a profile for people, in Markdown: achieved and possible, and the operations that take longest."""
    flops, bandwidth = profile.flops / profile.seconds, profile.bytes / profile.seconds
    peak, least = ceilings.flops[profile.dtype], roofline(profile, ceilings)
    text = [
        f"A step takes {profile.seconds * 1e3:.4g} ms on {turns.machine()}, the mean of {profile.steps}. Were it held "
        f"up by its operations or its memory traffic alone, it would take {least * 1e3:.4g} ms, "
        f"{least / profile.seconds:.0%} of that.",
        "",
        "| | in a step | a second | ceiling, measured | share |",
        "| --- | ---: | ---: | ---: | ---: |",
        _row(f"operations, {profile.dtype}", "GFLOP", profile.flops, flops, peak),
        _row("memory traffic", "GB", profile.bytes, bandwidth, ceilings.bandwidth),
        "",
        "Traffic is the compiler's count, some of it within caches; what a loop within a step repeats is counted once.",
        "",
        "| operation | kind | ms in a step | share | where it comes from |",
        "| --- | --- | ---: | ---: | --- |",
    ]
    total = sum(operation.seconds for operation in profile.operations)
    for operation in profile.operations[:ROWS]:
        text.append(
            f"| {operation.name} | {operation.kind} | {operation.seconds * 1e3:.3g} | {operation.seconds / total:.1%} "
            f"| {_short(operation.source)} |"
        )
    if rest := profile.operations[ROWS:]:
        seconds = sum(operation.seconds for operation in rest)
        text.append(f"| {len(rest)} others | | {seconds * 1e3:.3g} | {seconds / total:.1%} | |")
    return "\n".join(text)


def write(profile: Profile, ceilings: Ceilings, directory: Path) -> str:
    """Write report.md beside the trace, and return it."""
    text = report(profile, ceilings)
    (directory / "report.md").write_text(text + "\n")
    return text


def _row(name: str, unit: str, count: float, rate: float, ceiling: float) -> str:
    entries = (f"{value / 1e9:.4g} {unit}" for value in (count, rate, ceiling))
    return f"| {name} | {' | '.join(entries)} | {rate / ceiling:.0%} |"


def _short(source: str) -> str:
    """The end of a path of transformations, which says which operation of which."""
    parts = [part for part in source.split("/") if not part.startswith("jit(")]
    return "/".join(parts[-3:]).replace("|", "\\|")
