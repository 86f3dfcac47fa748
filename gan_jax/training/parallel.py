"""One step on many devices: a program as it is, on a mesh, or its per-device form under an axis name.

Both take a program and return one that trains in the same loop. By default a step is written for the whole batch:
`global_view` says where state and batches lie, and XLA inserts what the devices must tell each other. Batch statistics
are those of the whole batch and random numbers those of the whole array, so 1, 2 and 8 devices compute the same run,
up to rounding. `per_device` runs a step that was built with an axis name, on each device's share of the batch with keys
of its own: what is random differs from device to device, so another number of devices is another run.
"""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, get_args

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from gan_jax.base import Batch, Batches, Game, Hook, Key, Loss, Metrics, Pair, Point, Program, State, Task

AXIS = "data"  # of a mesh, and of what is built for `per_device`
SMALLEST_SHARDED = 2**12  # elements: below, gathering costs more than it saves

Executor = Literal["shard_map", "pmap", "vmap"]


def mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return a mesh of these devices, of all there are unless given, along one axis."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def layout(state: State, mesh: Mesh, *, fully_sharded: bool = False) -> Any:
    """Return where each leaf of a state lies: on every device, or divided where it is large enough.

    With `fully_sharded`, arrays of 4,096 elements or more, be they parameters, moments or averages, are divided along
    their largest axis that the devices divide (fully sharded data parallelism: Rajbhandari et al. 2019, arXiv
    1910.02054); where no axis is, they lie on every device.
    """

    def place(leaf: Any) -> NamedSharding:
        axes = [axis for axis, size in enumerate(leaf.shape) if size % mesh.size == 0]
        if not fully_sharded or leaf.size < SMALLEST_SHARDED or not axes:
            return NamedSharding(mesh, PartitionSpec())
        largest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * largest, AXIS))

    return jax.tree.map(place, state)


def placed(like: State, mesh: Mesh, *, fully_sharded: bool = False) -> State:
    """Return shapes and types with the places that `layout` gives: what a checkpoint is restored against.

    like: the state's shapes and types. mesh, fully_sharded: those of `layout`.
    """
    places = layout(like, mesh, fully_sharded=fully_sharded)
    return jax.tree.map(lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), like, places)


def resident(arrays: Any, mesh: Mesh, *, fully_sharded: bool = False) -> Any:
    """Return shapes and types of what batches are drawn from, with places: on every device, or divided along examples.

    With `fully_sharded`, a device keeps a share of the rows of each array of 4,096 elements or more, and each process
    puts only its own ones there. Drawing then costs a collective as large as the batch. Rows are added until the
    devices divide them.
    """

    def place(leaf: Any) -> jax.ShapeDtypeStruct:
        divided = fully_sharded and leaf.ndim and leaf.size >= SMALLEST_SHARDED
        count = (-(-leaf.shape[0] // mesh.size) * mesh.size,) if divided else leaf.shape[:1]
        spec = PartitionSpec(AXIS) if divided else PartitionSpec()
        return jax.ShapeDtypeStruct((*count, *leaf.shape[1:]), leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(place, arrays)


def put(leaf: Any, place: Sharding | None) -> Array:
    """Return an array, which every process holds whole, at a place; None is the default device."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # a key is put implicitly, its bits explicitly
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf), place), impl=jax.random.key_impl(leaf))
    if place is None or place.is_fully_addressable:
        return jax.device_put(leaf, place)
    return jax.make_array_from_callback(leaf.shape, place, lambda index: np.asarray(leaf)[index])


def _put_rows(leaf: Any, like: jax.ShapeDtypeStruct) -> Array | jax.ShapeDtypeStruct:
    """Return an array, which every process holds whole, at the place of `like`, with rows of zeros up to its shape."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return like
    if leaf.shape == like.shape:
        return put(leaf, like.sharding)

    def rows(index: tuple[slice, ...] | None) -> np.ndarray:
        own = np.asarray(leaf[index])
        missing = like.sharding.shard_shape(like.shape)[0] - len(own)  # pyrefly: ignore[missing-attribute]
        return np.pad(own, [(0, missing)] + [(0, 0)] * (own.ndim - 1))

    return jax.make_array_from_callback(like.shape, like.sharding, rows)


@partial(jax.jit, static_argnames="place")
def _gathered(state: State, place: Sharding) -> State:
    return lax.with_sharding_constraint(state, place)


def whole(state: State) -> State:
    """Return all of a state on the first of this process's devices: for what looks at it there, without the others.

    Where it was divided this is a collective, which every process takes part in; else the buffers are the state's own.
    """
    divided = [leaf.sharding for leaf in jax.tree.leaves(state) if not leaf.is_fully_replicated]
    if divided:
        state = _gathered(state, NamedSharding(divided[0].mesh, PartitionSpec()))
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), state)


def seeing_whole(hook: Hook) -> Hook:
    """Return a hook that is given the whole state, on one device."""
    return hook._replace(run=lambda step, state, metrics: hook.run(step, whole(state), metrics))


def global_view(program: Program, mesh: Mesh, *, fully_sharded: bool = False) -> Program:
    """Return the program with its state on every device of the mesh and each batch divided over them.

    Batches [batches, B, ...] are divided along B, and a meta-learner's tasks [T, ...] along T.

    Args:
        program: any; its step is written for the whole batch. Its arrays may be shapes and types alone, to be compiled
            for devices that are not there.
        mesh: of one axis.
        fully_sharded: divide the large arrays of the state too, see `layout`, and those that batches are drawn from,
            see `resident`. A device then holds about 1 / devices of them, which are gathered as they are needed.

    Raises (when traced):
        ValueError: if the devices do not divide a batch.
    """

    def held(state: State) -> State:
        return lax.with_sharding_constraint(state, layout(state, mesh, fully_sharded=fully_sharded))

    arrays = program.batches.arrays
    places = resident(arrays, mesh, fully_sharded=fully_sharded)
    counts = [leaf.shape[:1] for leaf in jax.tree.leaves(arrays)]

    def draw(arrays: Any, key: Key, step: Any) -> Any:
        # The shares of an array that the devices do not divide are those of the one with added rows: nothing is moved.
        leaves, tree = jax.tree.flatten(arrays)
        known = [leaf[: count[0]] if count else leaf for leaf, count in zip(leaves, counts, strict=True)]
        batch = program.batches.draw(jax.tree.unflatten(tree, known), key, step)
        axis = _example_axis(batch)
        _check_divides(batch, axis, mesh.size)

        def divide(leaf: Any) -> Any:
            spec = PartitionSpec(*[None] * axis, AXIS) if leaf.ndim > axis else PartitionSpec()
            return lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

        return jax.tree.map(divide, batch)

    def step(key: Key, state: State, batch: Any) -> tuple[State, Metrics]:
        # What a step makes for each example, such as latents, is divided as the batch is, on the mesh of the context.
        # Tasks are divided as wholes, and nothing within one is.
        whole = isinstance(batch, Task)
        with contextlib.nullcontext() if whole else jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            state, metrics = program.step(key, state, batch)
        return held(state), lax.with_sharding_constraint(metrics, layout(metrics, mesh))

    return program._replace(
        init=lambda key: held(program.init(key)),
        step=step,
        batches=Batches(jax.tree.map(_put_rows, arrays, places), draw),
        tunable=None,  # its step would be that of one device
    )


def per_device(program: Program, mesh: Mesh | AbstractMesh, *, executor: Executor = "shard_map") -> Program:
    """Return the program whose step is run by each device on its share of the batch.

    The program must be built with `axis_name=AXIS`: its GAN, which averages gradients, and the networks that take one.
    That all results are the same on every device is checked while tracing, by a `vmap` that refuses what is not.

    Args:
        program: of a game on batches [batches, B, ...].
        mesh: of one axis. "vmap" asks for its size alone, so an abstract one will do.
        executor: "shard_map"; "pmap", which is in maintenance in JAX and here for comparison; or "vmap", which has all
            shards on one device, and with which the others must agree.

    Raises:
        ValueError: for an unknown executor, or "pmap" over several processes; when traced, if the devices do not divide
            a batch, or a result differs between devices for want of an average.
    """
    if executor not in (known := get_args(Executor)):
        raise ValueError(f"unknown executor {executor!r}: there is {', '.join(known)}")
    oracle = run = _vmapped(program.step, mesh.size)
    placing = program
    if executor != "vmap":
        assert isinstance(mesh, Mesh)
        run = {"shard_map": _shard_mapped, "pmap": _pmapped}[executor](program.step, mesh)
        placing = global_view(program, mesh)

    def step(key: Key, state: State, batch: Any) -> tuple[State, Metrics]:
        _check_divides(batch, 1, mesh.size)
        try:
            jax.eval_shape(oracle, key, state, batch)
        except ValueError as error:
            if "out_axes" not in str(error):
                raise
            raise ValueError(
                f"a step's results differ from device to device: build networks and GAN with axis_name={AXIS!r}"
            ) from error
        return run(key, state, batch)

    play = program.game
    return placing._replace(step=step, game=play and (lambda state: _alone(*play(state))))


def _shard_mapped(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    everywhere = PartitionSpec()
    # With check_vma, gradients of what lies on every device come summed over them, and a mean leaves them that many
    # times too large, which Adam would hide.
    return jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(everywhere, everywhere, PartitionSpec(None, AXIS)),
        out_specs=everywhere,
        check_vma=False,
    )


def _pmapped(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    if mesh.is_multi_process:
        raise ValueError(f"executor='pmap' over {mesh.size} devices of several processes: take 'shard_map' for those")
    mapped = jax.pmap(step, AXIS, in_axes=(None, None, 1), out_axes=None, devices=list(mesh.devices.flat))
    return lambda key, state, batch: mapped(key, state, _cut(batch, mesh.size))


def _vmapped(step: Callable[..., Any], shards: int) -> Callable[..., Any]:
    mapped = jax.vmap(step, in_axes=(None, None, 1), out_axes=None, axis_name=AXIS, axis_size=shards)
    return lambda key, state, batch: mapped(key, state, _cut(batch, shards))


def _cut(batch: Batch, shards: int) -> Batch:
    """Return leaves [batches, shards, B / shards, ...]."""
    return jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[0], shards, -1, *leaf.shape[2:]), batch)


def _example_axis(batch: Any) -> int:
    return 0 if isinstance(batch, Task) else 1


def _check_divides(batch: Any, axis: int, shards: int) -> None:
    what = "tasks" if axis == 0 else "examples"
    for leaf in jax.tree.leaves(batch):
        if leaf.ndim > axis and leaf.shape[axis] % shards:
            raise ValueError(
                f"a batch of {leaf.shape[axis]} {what} cannot be divided over {shards} devices: "
                f"take a multiple of {shards}, or fewer devices"
            )


def _alone(game: Game, point: Point) -> tuple[Game, Point]:
    """Return a game that was built for an axis as one to be played on a whole batch, outside of any."""

    def one(loss: Loss) -> Loss:
        return jax.vmap(loss, in_axes=None, out_axes=None, axis_name=AXIS, axis_size=1)

    losses = Pair(*map(one, game.losses))
    penalties = Pair(*(penalty and one(penalty) for penalty in game.penalties))
    return game._replace(losses=losses, penalties=penalties, axis_name=None), point
