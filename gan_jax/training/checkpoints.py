"""Checkpoints that are either whole or noticed: Orbax, with checksums beside each.

A state is stored as a flat mapping from the names of its leaves, so NamedTuples, empty containers
and integer keys need no care: the structure is the one of the target that it is restored against.
Two records lie beside it. `meta` describes each leaf, and has its checksum as the device held it:
it tells code that has changed from a damaged state, and catches whatever goes wrong between the
device and the disk. `SHA256SUMS`, which `sha256sum -c` reads too, catches what happens to the files
later, before a parser meets it.
"""

import hashlib
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
from jax import Array, lax

from gan_jax.arithmetic import all_finite
from gan_jax.base import Continue, Hook, Metrics, State, Stop

Leaves = Mapping[str, Any]


class Restored(NamedTuple):
    """The steps done, the state after them, and a line for each damaged checkpoint passed over."""

    step: int
    state: State
    notes: tuple[str, ...]


class _Kept:
    """Orbax's preservation policy: the newest, and the one that is marked."""

    def __init__(self, newest: int):
        self.newest = newest
        self.marked: int | None = None  # a step

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [step in sorted(steps)[-self.newest :] or step == self.marked for step in steps]


class _Damaged(Exception):
    """A checkpoint that cannot be read, or is not what was written."""


def _named(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _mixed(word: Array) -> Array:
    """Scramble uint32 to uint32, one to one: MurmurHash3's finaliser."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _words(leaf: Array) -> Array:
    """The bits of an array as uint32, one to one; a trailing axis where an element has more."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype.itemsize == 8:
        return lax.bitcast_convert_type(leaf, jnp.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        leaf = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}"))
    return leaf.astype(jnp.uint32)  # shorter integers, signed ones too, wrap one to one


def checksum(leaf: Array) -> Array:
    """Return a uint32 of a leaf's bits and places: a change within one word always shows, others but for one in 2^32.

    A sum of integers modulo 2^32, hence the same whatever the sharding and the device.
    """
    words = _words(leaf)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):  # no reshape: it would gather a sharded array
        place = place * jnp.uint32(size % 2**32) + lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    return jnp.sum(_mixed(words ^ _mixed(place + 1)), dtype=jnp.uint32)


@jax.jit
def _examine(leaves: Leaves) -> tuple[dict[str, Array], Array]:
    """The checksums, and whether all floats are finite, on the device that holds the leaves."""
    return {name: checksum(leaf) for name, leaf in leaves.items()}, all_finite(leaves)


def _filled(leaves: Leaves) -> Leaves:
    """Those with elements: Orbax refuses the others, which their shapes tell all about."""
    return {name: leaf for name, leaf in leaves.items() if leaf.size}


def _described(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _files(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 of every file that a restore reads, by its path inside the checkpoint."""
    sums = {}
    for path in sorted(path for item in ("meta", "state") for path in (checkpoint / item).rglob("*") if path.is_file()):
        with path.open("rb") as file:
            sums[str(path.relative_to(checkpoint))] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def _seal(checkpoint: Path) -> None:
    """Write SHA256SUMS."""
    lines = [f"{digest}  {name}\n" for name, digest in _files(checkpoint).items()]
    (checkpoint / "SHA256SUMS").write_text("".join(lines))


def _check_seal(checkpoint: Path) -> None:
    """Raise _Damaged where a file is not the one that was sealed."""
    lines = (checkpoint / "SHA256SUMS").read_text().splitlines()
    sealed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = _files(checkpoint)
    for name in sorted(sealed.keys() | found.keys()):
        if found.get(name) != sealed.get(name):
            raise _Damaged(f"{name} {'has changed since it was written' if name in found else 'is missing'}")


@contextmanager
def _writing(directory: Path) -> Generator[None]:
    """Turn what Orbax raises when it cannot write, a ValueError on a full disk, into the OSError that it is."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise OSError(f"a checkpoint in {directory} could not be written: {reason}") from error


class _Failures(logging.Handler):
    """What kept Orbax's threads from writing in a directory, as its log tells at once.

    Orbax raises it only when all processes have done their part or given up waiting, which is after twenty minutes.
    """

    def __init__(self, directory: Path):
        super().__init__(logging.ERROR)
        self.directory, self.errors = directory, list[BaseException]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] and f"{self.directory}/" in record.getMessage():
            self.errors.append(record.exc_info[1])


class Checkpoints:
    """The checkpoints of a run, `directory/<step>/`; a context manager that waits for pending saves.

    keep: how many of the newest stay, besides the one that is marked.
    read_only: for a reader beside a running training: nothing in the directory changes.
    """

    def __init__(self, directory: Path, *, keep: int = 3, read_only: bool = False):
        if keep < 1:
            raise ValueError(f"{keep} checkpoints to keep: use 1 or more")
        import orbax.checkpoint as ocp

        self._args, self._read_only = ocp.args, read_only
        self._directory = directory.absolute()
        self._saving: int | None = None
        self._stale: set[int] = set()  # newer than what was restored: the next save replaces them
        self._kept, self._failures = _Kept(keep), _Failures(self._directory)
        log = logging.getLogger("absl")
        log.setLevel(logging.ERROR)
        log.propagate = False  # nobody else is to hear it: Orbax narrates every file that it touches
        log.addHandler(self._failures)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._kept,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,  # what a killed save left
            async_options=ocp.AsyncOptions(post_finalization_callback=self._sealed),
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def _sealed(self) -> None:
        """Seal the checkpoint that is complete; Orbax calls this, in its thread, before the rename that commits it."""
        (checkpoint,) = [path for path in self._directory.iterdir() if path.name.split(".")[0] == str(self._saving)]
        _seal(checkpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        with _writing(self._directory):
            try:
                self._manager.close()
            finally:
                logging.getLogger("absl").removeHandler(self._failures)

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that have a checkpoint, whole or damaged, in order."""
        return tuple(sorted(self._manager.all_steps()))

    @property
    def good(self) -> tuple[int, ...]:
        """The steps whose checkpoint is not known to be damaged or left behind, in order."""
        return tuple(step for step in self.steps if step not in self._stale)

    def save(self, step: int, state: State) -> bool:
        """Save in the background; whole or not at all. False, and nothing saved, if a float of the state is not finite.

        The state may be donated as soon as this returns. A step that is there already is left as
        it is, but what is newer than the checkpoint last restored is replaced: it was damaged, or
        training went back behind it.
        ValueError: the directory was opened read-only.
        OSError: this checkpoint, or the last one, could not be written.
        """
        if self._read_only:
            raise ValueError(f"{self._directory} was opened read-only: open it without read_only to save")
        leaves = _named(state)
        sums, finite = jax.device_get(_examine(leaves))
        if not finite:
            return False
        if step in self.steps and step not in self._stale:
            return True
        meta = {name: [_described(leaf), int(sums[name])] for name, leaf in leaves.items()}
        self.wait()
        with _writing(self._directory):
            for stale in self._stale:
                self._manager.delete(stale)
            self._stale, self._saving = set(), step
            self._manager.save(
                step,
                args=self._args.Composite(
                    state=self._args.StandardSave(_filled(leaves)), meta=self._args.JsonSave(meta)
                ),
                force=True,
            )
        return True

    def wait(self) -> None:
        """Wait until the last save is done; raise OSError at once if this process could not do its part."""
        with _writing(self._directory):
            while not self._failures.errors and self._manager.is_saving_in_progress():
                time.sleep(0.002)
            if self._failures.errors:
                raise self._failures.errors.pop()
            self._manager.wait_until_finished()

    def mark(self, step: int) -> None:
        """Keep the checkpoint of a step however many follow, instead of the one marked before."""
        self._kept.marked = step

    def roll_back(self, step: int) -> None:
        """Delete what is newer than the checkpoint of a step, so that it is what a restore finds.

        ValueError: the step has no good checkpoint.
        """
        self.wait()
        if step not in self.good:
            raise ValueError(f"no good checkpoint at step {step}: there is {', '.join(map(str, self.good)) or 'none'}")
        with _writing(self._directory):
            for newer in [other for other in self.steps if other > step]:
                self._manager.delete(newer)

    def hook(self, every: int) -> Hook:
        """Save every so many steps; stop with code 3 when the state is no longer finite."""

        def run(step: int, state: State, metrics: Metrics) -> Continue | Stop:
            return Continue() if self.save(step, state) else Stop(f"the state is not finite at step {step}", 3)

        return Hook(every, run)

    def restore(self, like: State, step: int | None = None) -> Restored | None:
        """Restore the newest good checkpoint, or the one of `step`; None if there is none at all.

        like: the state's shapes and types (`loop.abstract`), with shardings where there are several devices.

        Nothing is deleted here; a later `save` replaces what is newer than the checkpoint restored.
        ValueError: every candidate is damaged, `step` has no checkpoint, or the state that the checkpoint holds is not
            of the names, shapes and types of `like`.
        """
        self.wait()
        if step is not None and step not in self.steps:
            raise ValueError(f"no checkpoint at step {step}: there is {', '.join(map(str, self.steps)) or 'none'}")
        notes: list[str] = []
        for candidate in reversed(self.steps) if step is None else [step]:
            try:
                state = self._read(candidate, like)
            except _Damaged as error:
                notes.append(f"checkpoint {candidate} is damaged and passed over: {error}")
                continue
            self._stale = {other for other in self.steps if other > candidate}
            return Restored(candidate, state, tuple(notes))
        if notes:
            raise ValueError(f"no good checkpoint in {self._directory}, start anew: {'; '.join(notes)}")
        return None

    def _read(self, step: int, like: State) -> State:
        """The state of one checkpoint. _Damaged if it is not what was saved; ValueError if `like` is something else."""
        target = _named(jax.tree.map(_placed, like))
        wanted = {name: _described(leaf) for name, leaf in target.items()}
        with _damage():
            _check_seal(self._directory / str(step))
            meta = self._manager.restore(step, args=self._args.Composite(meta=self._args.JsonRestore()))["meta"]
            held = {name: described for name, (described, _) in meta.items()}
        for name in sorted(held.keys() | wanted.keys()):
            if held.get(name) != wanted.get(name):
                raise ValueError(
                    f"checkpoint {step} has {held.get(name, 'nothing')} at {name} where the program has "
                    f"{wanted.get(name, 'nothing')}: restore it with the code and configuration that wrote it"
                )
        with _damage():
            state = self._args.StandardRestore(_filled(target))
            leaves = self._manager.restore(step, args=self._args.Composite(state=state))["state"]
            leaves |= {
                name: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
                for name, leaf in target.items()
                if not leaf.size
            }
            sums, _ = jax.device_get(_examine(leaves))
            for name, (described, written) in meta.items():
                if (_described(leaves[name]), int(sums[name])) != (described, written):
                    raise _Damaged(f"{name} is not what was saved")
        return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in target])


@contextmanager
def _damage() -> Generator[None]:
    """Whatever a parser makes of a damaged file, as _Damaged."""
    try:
        yield
    except _Damaged:
        raise
    except Exception as error:
        raise _Damaged(" ".join(f"{type(error).__name__} {error}".split())[:160]) from error


def _placed(leaf: Any) -> jax.ShapeDtypeStruct:
    """The leaf with a place to go to: left open, Orbax would take the devices that wrote it."""
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
