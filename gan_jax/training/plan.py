"""What one training step will cost on chips that need not be there, read from the program compiled for them.

XLA compiles for a described slice on any machine, with the compiler that the slice itself would use. What that gives is
exact: how memory is laid out, which collectives there are and how large. The times made of it are not measured: they
are rooflines, from the vendor's numbers of a chip.
"""

import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gan_jax.base import Program
from gan_jax.training import loop, parallel
from gan_jax.training.records import duration, images_per_step

GIB = 2**30
MARGIN = 0.1  # of a chip's memory that a plan leaves free: the runtime's own buffers, and fragments
HOP = 1e-6  # seconds from one chip to the next, as ASTRA-sim has it for TPUs; no vendor publishes it


class Chip(NamedTuple):
    """A chip in its vendor's numbers.

    flops: peak a second, of bfloat16, in which a TPU multiplies float32 too unless told otherwise. hbm: bytes.
    hbm_bandwidth: bytes a second. ici_bandwidth: bytes a second that it sends over all its links to other chips, which
        is half of what is published where both directions are counted.
    """

    flops: float
    hbm: float
    hbm_bandwidth: float
    ici_bandwidth: float


class Family(NamedTuple):
    """TPUs of one generation: the chip, the slices that are sold, and libtpu's name for one device a chip."""

    chip: Chip
    slices: tuple[str, ...]
    config: str = "default"


_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
_DEEP = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", *_CUBES)

FAMILIES: Mapping[str, Family] = {
    "v4": Family(Chip(275e12, 32 * GIB, 1200e9, 300e9), _DEEP, "megacore"),
    "v5e": Family(Chip(197e12, 16 * GIB, 819e9, 200e9), _FLAT),
    "v5p": Family(Chip(459e12, 95 * GIB, 2765e9, 600e9), (*_DEEP, "16x16x24")),
    "v6e": Family(Chip(918e12, 32 * GIB, 1638e9, 400e9), _FLAT),
}
"""Google's numbers, from cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, and the slices listed there.

The page of v4 does not say what its links carry; 6 of 50 GB/s are in Jouppi et al. 2023 (arXiv 2304.01433).
"""


class Collective(NamedTuple):
    """The collectives of one kind in a step: how many, and the bytes that one chip puts into them."""

    kind: str
    count: int
    bytes: int


class Times(NamedTuple):
    """Seconds that a step takes at least, for each of what may hold it up."""

    compute: float
    memory: float
    interconnect: float


class Plan(NamedTuple):
    """What a step costs. Bytes and operations are those of one chip.

    chips, images: how many there are, and what all of them see in a step.
    parameters: bytes; None for a program that has no game to name them. state: those, and whatever else is carried from
        step to step. data: the resident arrays that batches are drawn from.
    arguments: state and data as the compiler lays them out. outputs: what is returned and not written over arguments.
    temporaries: activations, gradients and the like. code: the program itself.
    flops, bytes: what the compiler counts. Bytes include those that stay in the chip's fast memory. What a loop repeats
        is counted once, in collectives too; loops: how many have matrix products or convolutions in them.
    hops: between the two chips that are farthest apart; 0 where the devices do not say where they are.
    optimal: seconds that the compiler estimates; None where it does not.
    seconds: that compiling took. chip: None where nothing is known of it.
    """

    chips: int
    images: int
    parameters: int | None
    state: int
    data: int
    arguments: int
    outputs: int
    temporaries: int
    code: int
    flops: float
    bytes: float
    collectives: tuple[Collective, ...]
    loops: int
    hops: int
    optimal: float | None
    seconds: float
    chip: Chip | None = None


class DoesNotFit(ValueError):
    """The compiler has found that a program needs more memory than a chip has."""


def compile_step(program: Program, mesh: Mesh, *, fully_sharded: bool = False) -> jax.stages.Compiled:
    """Compile one step of the training loop for a mesh, whose devices need not be there.

    The batch is drawn from resident arrays inside of it, and the state is donated, as in training.

    Args:
        program: as an experiment builds it, for the batch of all devices together.
        mesh: of one axis.
        fully_sharded: divide the large arrays of state and data too, as `parallel.global_view` does.

    Raises:
        ValueError: if the devices do not divide the batch.
        DoesNotFit: if the compiler finds that it needs more memory than there is.
    """
    view = _view(program, mesh, fully_sharded)
    lowered = loop.compile_chunk(view, 1).lower(*_arguments(view, mesh, fully_sharded))  # pyrefly: ignore[missing-attribute]  # it is jitted
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        _, exhausted, reason = str(error).partition("RESOURCE_EXHAUSTED: ")
        if not exhausted:
            raise
        line, *_ = reason.splitlines()
        raise DoesNotFit(f"the step does not fit: {line.rstrip('.')}; take fewer images") from error


def plan(program: Program, mesh: Mesh, chip: Chip | None = None, *, fully_sharded: bool = False) -> Plan:
    """Read what a step costs from the program that `compile_step` makes.

    Arguments and errors are those of `compile_step`; `chip` is what each device is, None if nothing is known of it.
    """
    begun = time.monotonic()
    compiled = compile_step(program, mesh, fully_sharded=fully_sharded)
    seconds = time.monotonic() - begun
    _, state, arrays, _ = _arguments(_view(program, mesh, fully_sharded), mesh, fully_sharded)
    parameters = None
    if (play := program.game) is not None:
        params = jax.eval_shape(lambda state: play(state)[1].params, state)
        parameters = _bytes(parallel.placed(params, mesh, fully_sharded=fully_sharded))
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    optimal = cost.get("optimal_seconds", 0.0)  # a sum that is negative where the cost of a part is not known
    assert memory is not None and text is not None  # every compiler of XLA's gives both
    return Plan(
        chips=mesh.size,
        images=images_per_step(program),
        parameters=parameters,
        state=_bytes(state),
        data=_bytes(arrays),
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        flops=cost.get("flops", math.nan),
        bytes=cost.get("bytes accessed", math.nan),
        collectives=collectives(text),
        loops=loops(text),
        hops=hops(mesh),
        optimal=optimal if optimal > 0 else None,
        seconds=seconds,
        chip=chip,
    )


def _view(program: Program, mesh: Mesh, fully_sharded: bool) -> Program:
    """The program on a mesh, with shapes of its arrays, as they cannot be put on devices that are not there."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), program.batches.arrays)
    abstract = program._replace(batches=program.batches._replace(arrays=shapes))
    return parallel.global_view(abstract, mesh, fully_sharded=fully_sharded)


def _arguments(view: Program, mesh: Mesh, fully_sharded: bool) -> tuple[Any, Any, Any, Any]:
    """The key, the state, the resident arrays and the number of the step, as shapes with their places."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shape(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

    key = jax.random.key(0)
    state = parallel.placed(loop.abstract(view, key), mesh, fully_sharded=fully_sharded)
    return shape(key), state, view.batches.arrays, shape(jnp.int32(0))


def _bytes(tree: Any) -> int:
    """Bytes of one device's share of arrays that are described with their places."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


# What follows from a plan.


def used(plan: Plan) -> int:
    """Bytes of memory that a step needs on one chip."""
    return plan.arguments + plan.outputs + plan.temporaries + plan.code


def sent(collective: Collective, chips: int) -> float:
    """Bytes that a chip sends for collectives over all chips, by the algorithms that send the least."""
    share = (chips - 1) / chips
    each = {"all-reduce": 2 * share, "all-gather": chips - 1.0, "collective-permute": float(chips > 1)}
    return collective.bytes * each.get(collective.kind, share)


def times(plan: Plan, chip: Chip) -> Times:
    """What each resource takes for a step, were it used to the full all the time (a roofline)."""
    traffic = sum(sent(collective, plan.chips) for collective in plan.collectives)
    return Times(plan.flops / chip.flops, plan.bytes / chip.hbm_bandwidth, traffic / chip.ici_bandwidth)


def bottleneck(times: Times) -> str:
    """The name of what takes longest."""
    return Times._fields[times.index(max(times))]


def latency(plan: Plan) -> float:
    """Seconds that the collectives take at least, one after the other, however small: a way across the slice each."""
    return sum(collective.count for collective in plan.collectives) * plan.hops * HOP


def largest(needs: Callable[[int], float], room: float, start: int = 1, top: int = 2**24) -> int | None:
    """Return the largest power of two for which what it `needs` is at most `room`, or None.

    Each look is a compilation, so a bisection looks where a straight line through its last two answers meets `room`,
    and in the middle where that is known not to fit. `needs` must grow; infinity says that it cannot be.

    start: where it looks first. top: what the result is at most.
    """
    low, high = -1, top.bit_length()  # exponents: what is known to fit, what is known not to
    known = [(0, 0.0)]
    guess = start.bit_length() - 1
    while high - low > 1:
        exponent = min(max(guess, low + 1), high - 1)
        need = needs(2**exponent)
        low, high = (exponent, high) if need <= room else (low, exponent)
        if math.isfinite(need):
            known = [known[-1], (2**exponent, need)]
        (before, least), (now, most) = known[0], known[-1]
        slope = (most - least) / (now - before) if now != before else 0.0
        line = math.floor(math.log2(max(1, now + (room - most) / slope))) if slope > 0 else high
        guess = line if line < high else (low + high) // 2
    return 2**low if low >= 0 else None


# The compiled program's text.

_COMPUTATION = re.compile(r"(?:ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.-]+) = (.*?) ([\w-]+)\((.*)$")


class Instruction(NamedTuple):
    """An instruction of a compiled program: its name, the text of its shape, its operation, and what follows."""

    name: str
    shape: str
    operation: str
    rest: str


_OPERANDS = re.compile(r"(.*?)\)(?:, |$)")
_ARRAY = re.compile(r"\b(pred|[a-z]+(\d+)\w*)\[([\d,]*)\]")
_KINDS = re.compile(
    r"(all-reduce|all-gather|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast)"
    r"(-start)?$"
)
PRODUCT = re.compile(r'\b(?:dot|convolution)\(|"__cu(?:blas|dnn)')


def instructions(lines: Sequence[str]) -> Iterator[Instruction]:
    """Read the lines of a computation."""
    return (Instruction(*match.groups()) for match in map(_INSTRUCTION.match, lines) if match)


def computations(hlo: str) -> dict[str, list[str]]:
    """Return the lines of each computation of a compiled program's text `hlo`, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in hlo.splitlines():
        if line.startswith(" "):
            lines.append(line.strip())
        elif header := _COMPUTATION.match(line):
            lines = found[header[1]] = []
    return found


def _array_bytes(shape: str) -> int:
    """Bytes of all arrays in the text of a shape."""
    bits = 0
    for _, width, sizes in _ARRAY.findall(shape):
        bits += int(width or 8) * math.prod(int(size) for size in sizes.split(",") if size)
    return bits // 8


def collectives(hlo: str) -> tuple[Collective, ...]:
    """Read the collectives of a compiled program's text `hlo`: those of each kind, in the order of their names.

    What is begun and ended by two instructions counts once, by its operands, and so does a collective in a loop.
    """
    found: dict[str, tuple[int, int]] = {}
    for lines in computations(hlo).values():
        shapes: dict[str, str] = {}
        for name, shape, operation, rest in instructions(lines):
            shapes[name] = shape
            if kind := _KINDS.match(operation):
                operands = _OPERANDS.match(rest)
                written = operands[1] if operands else ""
                names = re.findall(r"%([\w.-]+)", written)  # with their shapes before them, or without
                size = _array_bytes(written) or sum(_array_bytes(shapes.get(operand, "")) for operand in names)
                count, total = found.get(kind[1], (0, 0))
                found[kind[1]] = count + 1, total + size
    return tuple(Collective(kind, *found[kind]) for kind in sorted(found))


def loops(hlo: str) -> int:
    """Return how many loops of a compiled program's text `hlo` have matrix products or convolutions in them."""
    parts = computations(hlo)
    bodies = re.findall(r"body=%([\w.-]+)", hlo)

    def reached(name: str, seen: set[str]) -> Iterator[str]:
        seen.add(name)
        for line in parts.get(name, ()):
            yield line
            for other in re.findall(r"%([\w.-]+)", line):
                if other in parts and other not in seen:
                    yield from reached(other, seen)

    return sum(any(PRODUCT.search(line) for line in reached(body, set())) for body in bodies)


# Devices.


def slice_of(name: str) -> tuple[Family, tuple[int, ...]]:
    """Read the name of a slice, such as v5e:4x4: its family, and how many chips it has along each axis.

    ValueError for one that there is not, with those that there are.
    """
    family, _, size = name.partition(":")
    if family not in FAMILIES:
        each = (f"{family}:{known.slices[0]} to {family}:{known.slices[-1]}" for family, known in FAMILIES.items())
        raise ValueError(f"unknown slice {name!r}: there is {', '.join(each)}, cpu, cpu:N and gpu")
    known = FAMILIES[family]
    if size not in known.slices:
        raise ValueError(f"unknown slice {name!r}: there is {', '.join(f'{family}:{size}' for size in known.slices)}")
    return known, tuple(map(int, size.split("x")))


def devices(name: str) -> Sequence[Any]:
    """Return the devices of a topology: one for each chip of a slice, which need not be there, or those at hand.

    name: of a slice, see `slice_of`; cpu for the host's devices, cpu:N for so many of them; gpu.

    Raises:
        ValueError: an unknown slice; libtpu, which compiles for it, is not installed; or there are not as many here.
    """
    platform, colon, number = name.partition(":")
    if platform == "cpu" or name == "gpu":
        try:
            found = jax.devices(platform)
        except RuntimeError as error:
            raise ValueError(f"JAX finds no {name} here: {error}") from error
        if not colon:
            return found
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= len(found)):
            raise ValueError(f"{name}: there are {len(found)} devices of the host, JAX_NUM_CPU_DEVICES says how many")
        return found[: int(number)]

    family, shape = slice_of(name)
    if find_spec("libtpu") is None:
        hint = 'pip install "gan-jax[tpu]", or libtpu alone, in the version of requirements-tpu.txt'
        raise ValueError(f"libtpu, which compiles for {name}, is not installed: {hint}")
    # libtpu reads these as it is loaded: it is to ask no metadata server, to look for no other hosts, and to mind no
    # other process that has it loaded, as no chip is at stake.
    for variable, value in (
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ):
        os.environ.setdefault(variable, value)
    options: dict[str, Any] = {"chip_config_name": family.config}
    if math.prod(shape) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)  # libtpu expects four chips a host
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def hops(mesh: Mesh) -> int:
    """How many links lie between the two chips that are farthest apart; 0 where devices do not say where they are.

    An axis is a ring where it is 16 chips long in a plane, or where all three are multiples of 4; else it is a line.
    """
    places = [getattr(device, "coords", None) for device in mesh.devices.flat]
    if None in places:
        return 0
    sizes = [1 + max(axis) - min(axis) for axis in zip(*places, strict=True)]
    planar, cubes = min(sizes) == 1, all(size % 4 == 0 for size in sizes)
    rings = [size % 16 == 0 if planar else cubes for size in sizes]
    return sum(size // 2 if ring else size - 1 for size, ring in zip(sizes, rings, strict=True))


# Text.


def text(plan: Plan) -> str:
    """A plan for people, in lines."""
    chip = plan.chip
    memory = [
        ("state", _size(plan.state), "parameters, optimisers, statistics, averages"),
        ("data", _size(plan.data), "what batches are drawn from"),
        ("arguments", _size(plan.arguments), "both of them, as the compiler lays them out"),
        ("temporaries", _size(plan.temporaries), "activations, gradients"),
        ("outputs", _size(plan.outputs), "what is not written over the state"),
        ("program", _size(plan.code), ""),
        ("in all", _size(used(plan)), f"{used(plan) / chip.hbm:.2%} of {_size(chip.hbm)}" if chip else ""),
    ]
    if plan.parameters is not None:
        memory.insert(0, ("parameters", _size(plan.parameters), "of the state"))
    step = [
        ("operations", f"{plan.flops / 1e9:.4g} GFLOP", ""),
        ("memory traffic", _size(plan.bytes), "some of it within the chip's fast memory" if chip else ""),
        *((name, _size(size), f"in {count}") for name, count, size in plan.collectives),
    ]
    groups = {"memory of a chip": memory, "a step, on each chip": step}
    if chip is not None:
        limits = times(plan, chip)
        slowest = max(limits)
        bound = [(name, _milliseconds(seconds), "") for name, seconds in limits._asdict().items()]
        rate = f"{plan.images / slowest:,.0f} images/s, bound by {bottleneck(limits)}"
        bound.append(("roofline", _milliseconds(slowest), rate))
        if plan.hops:
            count = sum(collective.count for collective in plan.collectives)
            why = f"beside it, {count} collectives over {plan.hops} hops of 1 us"
            bound.append(("latency", _milliseconds(latency(plan)), why))
        groups["time of a step, if nothing else holds it up"] = bound
        if plan.optimal is not None:
            bound.append(("compiler", _milliseconds(plan.optimal), "its own estimate"))
    widths = [max(len(row[i]) for rows in groups.values() for row in rows) for i in (0, 1)]
    lines = [f"{plan.chips} chips, {plan.images} images a step; compiled in {duration(plan.seconds)}"]
    for title, rows in groups.items():
        lines.append(title)
        lines += (f"  {name:<{widths[0]}}  {value:>{widths[1]}}  {note}".rstrip() for name, value, note in rows)
    if plan.loops:
        lines.append(
            f"note: what loops repeat is counted once, and {plan.loops} of them hold matrix products: it is more"
        )
    return "\n".join(lines)


def table(plans: Mapping[str, Plan]) -> str:
    """Return plans for slices of different sizes, by name, as a table in Markdown; each has its `chip`.

    The efficiency of each is against the first, in images a second and chip: by the roofline alone, and with the
    latency of collectives added to it.
    """
    rows, first = [], None
    for name, plan in plans.items():
        assert plan.chip is not None
        limits = times(plan, plan.chip)
        roofline = max(limits)
        each_chip = plan.images / plan.chips / roofline, plan.images / plan.chips / (roofline + latency(plan))
        first = first or each_chip
        count, size = sum(each.count for each in plan.collectives), sum(each.bytes for each in plan.collectives)
        row = {
            "slice": name,
            "chips": f"{plan.chips}",
            "images": f"{plan.images}",
            "memory of a chip": _size(used(plan)),
            "GFLOP": f"{plan.flops / 1e9:.4g}",
            "traffic": _size(plan.bytes),
            "collectives": f"{count} of {_size(size)}",
            "roofline": _milliseconds(roofline),
            "bound by": bottleneck(limits),
            "compiler": "" if plan.optimal is None else _milliseconds(plan.optimal),
            "latency": _milliseconds(latency(plan)),
            "images/s": f"{plan.images / roofline:,.0f}",
            "efficiency": f"{each_chip[0] / first[0]:.3f}",
            "with latency": f"{each_chip[1] / first[1]:.3f}",
            "compiled in": duration(plan.seconds),
        }
        rows.append(row)
    cells = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _size(count: float) -> str:
    """Bytes, in units of 1,000 (GB) as vendors count all but capacities."""
    power = min(3, int(math.log10(max(count, 1))) // 3)
    return f"{count / 1000**power:.4g} {('B', 'kB', 'MB', 'GB')[power]}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"
