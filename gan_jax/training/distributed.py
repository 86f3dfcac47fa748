"""Several processes that train one model: how they find each other, speak with one voice, and die together.

Every process runs the same program on the same configuration, and reads and writes one run directory, which all of them
see. The first alone keeps records; all take part in checkpoints, each with what its devices hold.

Which process this is comes from the environment:

- GAN_JAX_COORDINATOR=host:port, GAN_JAX_PROCESSES=n, GAN_JAX_PROCESS=i: process i of n, the first of which listens
- GAN_JAX_DISTRIBUTED=auto: a TPU VM, Slurm, or what else JAX finds out about by itself
- nothing: one process
"""

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np

from gan_jax.base import Continue, Hook, Key, Metrics, State, Stop
from gan_jax.training import loop

EXPLICIT = ("GAN_JAX_COORDINATOR", "GAN_JAX_PROCESSES", "GAN_JAX_PROCESS")
AUTOMATIC = "GAN_JAX_DISTRIBUTED"
HEARTBEAT = 10  # seconds without a sign of life after which a process is dead
WAIT = 300  # seconds for all processes to come


def initialise(environment: Mapping[str, str] = os.environ, *, wait: int = WAIT) -> int:
    """Meet the other processes that the environment speaks of, before JAX is used, and return how many there are.

    Where not all have met after `wait` seconds, a line says so and the process ends with code 4: JAX itself would abort
    it. A second call returns the number again.

    Raises:
        ValueError: if the environment says too little, or what cannot be.
    """
    given = {name: environment[name] for name in EXPLICIT if environment.get(name)}
    automatic = environment.get(AUTOMATIC)
    if jax.distributed.is_initialized():
        return jax.process_count()
    if not (given or automatic):
        return 1
    if automatic and automatic != "auto":
        raise ValueError(f"{AUTOMATIC}={automatic}: give auto, or leave it out")
    if given and (automatic or len(given) < len(EXPLICIT)):
        raise ValueError(f"{' '.join(given)} without more: give {', '.join(EXPLICIT)}, or {AUTOMATIC}=auto alone")
    explicit = _explicit(*(given[name] for name in EXPLICIT)) if given else (None, None, None)
    where = given.get("GAN_JAX_COORDINATOR", "the address that JAX found")
    line = f"error: the coordinator at {where} did not answer, or not all processes came, within {wait} s"
    late = threading.Timer(wait, _end, (line, 4))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            *explicit,
            initialization_timeout=wait + HEARTBEAT,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=3 * HEARTBEAT,
        )
    finally:
        late.cancel()
    return jax.process_count()


def _end(line: str, code: int) -> NoReturn:
    """End the process at once: Python's way out waits for the other processes, which may wait for this one."""
    sys.stdout.flush()
    print(line, file=sys.__stderr__, flush=True)  # also of a process that is silent otherwise
    os._exit(code)


def _explicit(coordinator: str, processes: str, process: str) -> tuple[str, int, int]:
    _, colon, port = coordinator.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f"GAN_JAX_COORDINATOR={coordinator}: give host:port, as 10.0.0.1:8476")
    if not processes.isdecimal() or not process.isdecimal() or not int(process) < int(processes):
        raise ValueError(
            f"GAN_JAX_PROCESS={process} of GAN_JAX_PROCESSES={processes}: count from 0 to one less than all"
        )
    return coordinator, int(processes), int(process)


def several() -> bool:
    """Return whether there is another process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Return whether this is the process that keeps the records."""
    return not several() or jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until every process has come here, each with the same name."""
    if several():
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def agreed(score: Callable[[Key, State], Mapping[str, float]]) -> Callable[[Key, State], Mapping[str, float]]:
    """Return a score whose numbers are the first process's: what is decided by them is decided alike everywhere."""
    if not several():
        return score
    from jax.experimental import multihost_utils

    def share(key: Key, state: State) -> Mapping[str, float]:
        found = score(key, state)
        bits = np.array([float(value) for value in found.values()]).view(np.uint32)  # float64 would be rounded
        shared = np.asarray(multihost_utils.broadcast_one_to_all(bits)).view(np.float64)
        return dict(zip(found, shared.tolist(), strict=True))

    return share


@contextmanager
def records(directory: Path) -> Generator[Path]:
    """Give the directory to keep records in: the first process the run's, a silent one its own, which goes again.

    That begins as a copy of the run's records, so that what follows from them follows everywhere. Silent is what Python
    prints, not an exception that leaves the context.
    """
    if first():
        barrier("records")
        yield directory
        return
    with tempfile.TemporaryDirectory() as own, open(os.devnull, "w") as nowhere:
        for path in (*directory.glob("*.jsonl"), *directory.glob("*.json")):
            shutil.copy(path, own)
        barrier("records")
        with redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield Path(own)


@contextmanager
def interruption() -> Generator[Hook]:
    """A hook that stops training with code 75 at the same step in all processes, after SIGTERM to any of them.

    Of one process it is `loop.interruption`. Of several JAX listens for the signal, tells the others, and lets all go
    on to the chunk boundary after the one that the foremost has reached.
    """
    if not several():
        with loop.interruption() as hook:
            yield hook
        return
    from jax.experimental import multihost_utils

    boundaries = 0  # and not steps: the next one is that number plus 1

    def run(step: int, state: State, metrics: Metrics) -> Continue | Stop:
        nonlocal boundaries
        boundaries += 1
        reached = multihost_utils.reached_preemption_sync_point(boundaries)
        return Stop("interrupted by SIGTERM", 75) if reached else Continue()

    yield Hook(1, run)


@contextmanager
def together(codes: Mapping[type[BaseException], int]) -> Generator[None]:
    """End the process at once with code 75, or an exception's own, where an exception would leave this context.

    What another process's death leads to is 75, whatever has been made of it since, but for a process that learns of it
    in no collective: as it waits for a checkpoint, or since the connection to the first process is gone. JAX's runtime
    aborts that one before Python hears (SIGABRT, and a line that another task died). Of one process nothing changes.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not several():
            raise
        code = next((code for kind, code in codes.items() if isinstance(error, kind)), 75)
        for link in _chain(error):
            if isinstance(link, jax.errors.JaxRuntimeError) or "Gloo" in str(link):
                error, code = link, 75
        if code != 75 and first():
            # JAX would abort, as it is gone, those that have not yet come to the same error. Longer, and the death of
            # another would be noticed here.
            time.sleep(HEARTBEAT / 2)
        what = " ".join(f"{type(error).__name__} {error}".split())[:300]
        _end(f"error: process {jax.process_index()} of {jax.process_count()}: {what}", code)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and those that it was raised from, or in the handling of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
