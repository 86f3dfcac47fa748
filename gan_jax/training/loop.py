"""The loop: chunks of steps in one compiled call, and hooks between them.

A run is a function of (program, key, chunk): step `i` sees the keys `fold_in(step_key, i)` and
`(data_key, i)` and nothing else that changes, so a checkpoint and a seed determine the rest. A
scan over steps is not bit-identical to the same steps called one by one, hence the chunk belongs
to the run's identity, and chunk boundaries are the multiples of `chunk` from zero.
"""

import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from gan_jax.base import Continue, Hook, Key, Metrics, Program, State, Stop
from gan_jax.training import parallel

Chunk = Callable[[Key, State, Any, Array], tuple[State, Array, Metrics]]  # of (key, state, arrays, step)


class Result(NamedTuple):
    """How training ended: the steps done, the state after them, and a hook's Stop or None."""

    step: int
    state: State
    stop: Stop | None


class _Keys(NamedTuple):
    """What the root key of a run is split into, once."""

    init: Key
    step: Key
    data: Key


def _keys(key: Key) -> _Keys:
    return _Keys(*jax.random.split(key, len(_Keys._fields)))


def _strong(tree: Any) -> Any:
    """Drop weak types: a state that starts as `jnp.asarray(0.0)` would be traced a second time as float32."""

    def strong(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.astype(leaf.dtype)

    return jax.tree.map(strong, tree)


def init(program: Program, key: Key) -> State:
    """The state before the first step, from the root key; compiled, for eager initialisation takes seconds.

    Members lie where their keys do, so that keys that are divided over devices divide all of them.
    """
    return jax.jit(_init(program, key), out_shardings=_place(key))(key)


def abstract(program: Program, key: Key) -> State:
    """The shapes and types of `init(program, key)` without its numbers: what a checkpoint is restored against."""
    shapes = jax.eval_shape(_init(program, key), key)
    if (place := _place(key)) is None:
        return shapes
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)


def _place(key: Key) -> NamedSharding | None:
    """Where the keys of members have been put, if they have been put on a mesh."""
    place = getattr(key, "sharding", None)  # a shape may have none
    return place if key.ndim and isinstance(place, NamedSharding) else None


def _init(program: Program, key: Key) -> Callable[[Key], State]:
    def one(key: Key) -> State:
        return _strong(program.init(_keys(key).init))

    return jax.vmap(one) if key.ndim else one


def check(program: Program, key: Key) -> None:
    """Trace a step without running it, so that what does not fit together is known before anything is written."""

    def one(key: Key, arrays: Any) -> Any:
        return program.step(key, _strong(program.init(key)), program.batches.draw(arrays, key, jnp.int32(0)))

    jax.eval_shape(one, key, program.batches.arrays)


def compile_chunk(program: Program, length: int) -> Chunk:
    """`length` steps as one jitted function: `(key, state, arrays, step) -> (state, step, metrics)`.

    `key` is the root key, `step` (int32 scalar) the number of steps done, before and after: it stays
    on the device. The state is donated: the one handed in is gone. Metrics are the means over the chunk.
    """

    def alone(key: Key, state: State, arrays: Any, step: Array) -> tuple[State, Array, Metrics]:
        keys = _keys(key)

        def one(state: State, i: Array) -> tuple[State, Metrics]:
            batch = program.batches.draw(arrays, keys.data, i)
            state, metrics = program.step(jax.random.fold_in(keys.step, i), state, batch)
            return _strong(state), metrics

        if length == 1:  # a convolution inside a scan, even of length 1, loses XLA's threaded CPU kernels
            state, metrics = one(state, step)
            metrics = jax.tree.map(lambda metric: jnp.asarray(metric)[None], metrics)
        else:
            state, metrics = jax.lax.scan(one, state, step + jnp.arange(length, dtype=jnp.int32))
        return state, step + length, jax.tree.map(lambda metric: jnp.mean(metric, axis=0), metrics)

    def advance(key: Key, state: State, arrays: Any, step: Array) -> tuple[State, Array, Metrics]:
        members = jax.vmap(alone, in_axes=(0, 0, None, None), out_axes=(0, None, 0)) if key.ndim else alone
        return members(key, state, arrays, step)

    return jax.jit(advance, donate_argnames="state")


def _settled(tree: Any) -> Any:
    """The tree with every leaf where the committed ones are: on their mesh, replicated, or on their device.

    What one call of a chunk gives to the next is committed as soon as any argument was. Were the
    first call's arguments not, it would be compiled twice, and scalars would be moved at each call.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, Array) and leaf.committed]
    mesh = next((leaf.sharding.mesh for leaf in leaves if isinstance(leaf.sharding, NamedSharding)), None)
    place = NamedSharding(mesh, PartitionSpec()) if mesh is not None else leaves[0].sharding if leaves else None

    def settle(leaf: Any) -> Array:
        return leaf if isinstance(leaf, Array) and (place is None or leaf.committed) else parallel.put(leaf, place)

    return jax.tree.map(settle, tree)


def train(
    program: Program,
    key: Key,
    *,
    steps: int,
    chunk: int | None = None,
    start: tuple[int, State] | None = None,
    hooks: Sequence[Hook] = (),
) -> Result:
    """Train until `steps` steps are done in all, or until a hook says Stop.

    key: the root of all randomness, or a batch of them [N]: N members in one program, each doing what it
      would do alone, up to rounding. State and metrics then have a leading axis of N.
    chunk: steps in one compiled call, the program's own unless given. Boundaries are its
      multiples, and `steps`: a shorter chunk ends the run, and a longer run resumed from such an
      end first returns to a multiple (that one detour is not bit-exact).
    start: the steps done and their state, from a checkpoint; donated, so gone afterwards. At or
      past `steps` it is returned at once.
    hooks: each runs at the first boundary at or past every multiple of its `every`, and at the
      end, in the order given. When one says Stop, the others due at that boundary still run, and
      the first Stop counts. The state a hook sees is donated to the next chunk: a hook copies
      what it keeps. Nothing waits for the device unless a hook fetches.

    Saving the last state is the caller's: it is in the Result, also after a Stop.
    ValueError: a chunk or a hook's `every` is less than 1, or `steps` less than 0.
    """
    chunk = program.chunk if chunk is None else chunk
    if chunk < 1:
        raise ValueError(f"a chunk of {chunk} steps: use 1 or more")
    if steps < 0:
        raise ValueError(f"{steps} steps to train: use 0 or more")
    for hook in hooks:
        if hook.every < 1:
            raise ValueError(f"a hook every {hook.every} steps: use 1 or more")

    step, state = start if start is not None else (0, init(program, key))
    key, state, arrays, done = _settled((key, state, program.batches.arrays, np.int32(step)))
    compiled: dict[int, Chunk] = {}
    stop = None
    while step < steps and stop is None:
        before, step = step, min(step - step % chunk + chunk, steps)
        length = step - before
        if length not in compiled:
            compiled[length] = compile_chunk(program, length)
        state, done, metrics = compiled[length](key, state, arrays, done)
        due = [hook for hook in hooks if step == steps or step // hook.every > before // hook.every]
        words = [hook.run(step, state, metrics) for hook in due]
        stop = next((word for word in words if isinstance(word, Stop)), None)
    return Result(step, state, stop)


@contextmanager
def interruption() -> Generator[Hook]:
    """A hook that stops training with code 75 after SIGTERM or SIGINT, at the next chunk boundary.

    A second signal raises KeyboardInterrupt at once. Leaving the context restores the handlers.
    """
    received: list[signal.Signals] = []

    def note(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))

    def run(step: int, state: State, metrics: Metrics) -> Continue | Stop:
        return Stop(f"interrupted by {received[0].name}", 75) if received else Continue()

    handlers = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield Hook(1, run)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def finite(every: int = 100) -> Hook:
    """Return a hook that looks every so many steps, and stops training with code 3 when a metric is not finite.

    It waits for the device.
    """

    def run(step: int, state: State, metrics: Metrics) -> Continue | Stop:
        for name, value in jax.device_get(dict(metrics)).items():
            if not np.isfinite(value).all():
                return Stop(f"{name} is {value} at step {step}", 3)
        return Continue()

    return Hook(every, run)
