"""gan-jax launch: train on a slice that is rented for it, or in several processes of this machine.

Commands are executed without a shell. Whatever happens, what was created is deleted in the end.
"""

import dataclasses
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gan_jax.cli import process
from gan_jax.cli.words import Launch
from gan_jax.training import launch as vectors
from gan_jax.training import lookup
from gan_jax.training.launch import Argv, Commands


def launch(command: Launch, words: Sequence[str] = ()) -> int:
    """Do `gan-jax launch` and return the exit code; `words` are those after --."""
    with process.preparing():
        for option in ("retries", "wait"):
            if getattr(command, option) < 0:
                raise ValueError(f"--{option} {getattr(command, option)}: give 0 or more")
        experiment = lookup.find(command.experiment)
        backend, colon, count = command.backend.partition(":")
        if backend == "local":
            argvs = _local(command, experiment, words, count)
            planned, commands = "".join(f"{shlex.join(argv)}\n" for argv in argvs), None
        elif colon or backend not in vectors.BACKENDS:
            raise lookup.unknown("backend", command.backend, (*vectors.BACKENDS, "local:2"))
        else:
            argvs = ()
            commands = vectors.BACKENDS[backend](_slice(command, experiment), _job(command, experiment, words))
            planned = vectors.script(commands)
    if command.dry_run:
        print(planned, end="")
        return 0
    with interruptible():
        if commands is None:
            return together(argvs)
        tool = commands.start[0]
        if shutil.which(tool) is None:
            process.say(f"error: {tool} is not installed: the backend {backend} needs it, see docs/tpu.md")
            return 4
        return execute(commands, retries=command.retries, wait=60 * command.wait, keep=command.keep)


def _local(command: Launch, experiment: lookup.Experiment, words: Sequence[str], count: str) -> tuple[Argv, ...]:
    for field in dataclasses.fields(Launch):
        value = getattr(command, field.name)
        if field.name not in ("experiment", "backend", "run", "dry_run") and value != field.default:
            raise ValueError(f"--{field.name} {value} means nothing with --backend {command.backend}: leave it out")
    if not (count.isascii() and count.isdigit()):
        raise ValueError(f"--backend {command.backend}: give a number of processes, as in local:2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    resume = command.run is not None and Path(command.run, "config.json").exists()
    name, run = str(command.experiment), command.run
    return vectors.local(name, words, processes=int(count), port=port, run=run, resume=resume)


def _slice(command: Launch, experiment: lookup.Experiment) -> vectors.Slice:
    needed = {"slice": "v5e-16", "zone": "us-central1-a", "bucket": "gs://NAME"}
    for option, example in needed.items():
        if getattr(command, option) is None:
            raise ValueError(f"--backend {command.backend} needs --{option}, as in --{option} {example}")
    assert command.slice is not None and command.zone is not None and command.bucket is not None
    return vectors.Slice(
        type=command.slice,
        name=_name(command, experiment),
        bucket=command.bucket,
        zone=command.zone,
        project=command.project,
        runtime=command.runtime,
        spot=command.spot,
    )


def _name(command: Launch, experiment: lookup.Experiment) -> str:
    """The name that was given, or one that Google takes."""
    if command.name is not None:
        return command.name
    return re.sub("[^a-z0-9]+", "-", f"gan-jax-{experiment.name}".lower())[:63].strip("-")


def _job(command: Launch, experiment: lookup.Experiment, words: Sequence[str]) -> vectors.Job:
    wheels = [command.wheel] if command.wheel else sorted(Path("dist").glob("gan_jax-*.whl"))
    if len(wheels) != 1 or wheels[0].suffix != ".whl" or not wheels[0].is_file():
        found = ", ".join(map(str, wheels)) or "no wheel in dist"
        raise ValueError(f"--wheel: there is {found}; make one by `pip wheel --no-deps -w dist .` and name it")
    if any(word.partition("=")[0] == "--controller" for word in words):
        raise ValueError(
            "--controller: a slice is given the wheel and the experiment, and no study: train here with it"
        )
    shipped = experiment.path.resolve().parent == lookup.shipped().resolve()
    return vectors.Job(
        experiment=experiment.name if shipped else experiment.path,
        words=tuple(words),
        run=command.run if command.run is not None else f"runs/{_name(command, experiment)}",
        wheel=wheels[0],
        requirements=command.requirements if command.requirements.is_file() else None,
    )


# Codes of training that was told to end, that JAX aborted when it lost the first process, or whose connection ended: a
# slice that is taken away may not say so yet.
_CUT = (75, 128 + signal.SIGTERM, 128 + signal.SIGABRT, 255)
_POLLS = 10.0, 60.0  # seconds between two looks at the state: at first, and at most
_TRIES = 4  # to look, to set up or to delete, before it counts as failed

Call = Callable[..., tuple[int, str]]  # (argv, show=False) -> (code, the last of the output)
Sleep = Callable[[float], object]


class _Failed(Exception):
    """The environment did not do what it should: a line that says what."""


class _Taken(_Failed):
    """The name belongs to something else, which is not this command's to delete."""


class _Lost(Exception):
    """The slice was taken away."""


_GRACE = 10.0  # seconds between asking a process to end and ending it
_SAVING = 60.0  # the same, where it was a person who asked: a checkpoint may take its time


def carry_out(argv: Argv, show: bool = False) -> tuple[int, str]:
    """Execute a command without a shell; return its code and the last of its output, which is also shown as it comes.

    It reads nothing, and what interrupts this process does not reach it. Left by an exception, it is ended. OSError
    where there is no such command.
    """
    output: deque[str] = deque(maxlen=1000)
    with _begun(argv) as child:
        try:
            for line in child.stdout or ():
                output.append(line)
                if show:
                    print(line, end="", flush=True)
            return _code(child.wait()), "".join(output)
        finally:
            _end([child], _GRACE)


def together(argvs: Sequence[Argv], grace: float = _GRACE) -> int:
    """Execute commands at the same time, each line of their output after the number of its process.

    When one ends with another code than 0, all are ended: asked by SIGTERM, and killed `grace` seconds later. Returns
    the worst code of those that ended by themselves; 75 after KeyboardInterrupt, when they get a minute.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    children: list[subprocess.Popen[str]] = []

    def read(index: int, child: subprocess.Popen[str]) -> None:
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                lines.put(f"[{index}] {line.rstrip()}")
        lines.put(None)

    def show(reading: int, seconds: float) -> int:
        """Print what comes, for some time or until the last of them is silent; how many are not."""
        until = time.monotonic() + seconds
        with suppress(queue.Empty):
            while reading and (left := until - time.monotonic()) > 0:
                line = lines.get(timeout=left)
                if line is None:
                    reading -= 1
                else:
                    print(line, flush=True)
        return reading

    reading = 0
    try:
        for index, argv in enumerate(argvs):
            children.append(_begun(argv))
            threading.Thread(target=read, args=(index, children[-1]), daemon=True).start()
            reading += 1
        codes: list[int | None] = [None]
        while None in codes and not any(codes):
            reading = show(reading, 0.1)
            codes = [child.poll() for child in children]
        code = max(_code(code) for code in codes if code is not None)
    except KeyboardInterrupt:
        code, grace = 75, max(grace, _SAVING)
    finally:
        _end(children, grace)
        show(reading, 1.0)
    return code


def _begun(argv: Argv) -> subprocess.Popen[str]:
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )


def _code(code: int) -> int:
    """A child's code as a shell would give it: 128 and the signal that killed it."""
    return 128 - code if code < 0 else code


def _end(children: Sequence[subprocess.Popen[str]], grace: float) -> None:
    """End the children that have not ended, each with all that it began."""
    until = time.monotonic() + grace
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [child for child in children if child.poll() is None]
        for child in left:
            os.killpg(child.pid, number)  # its session is its own, and so is its group
        for child in left:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, until - time.monotonic()) if number == signal.SIGTERM else None)


@contextmanager
def interruptible() -> Iterator[None]:
    """Make KeyboardInterrupt of the first SIGINT, SIGTERM or SIGHUP, and let no further one disturb what cleans up."""
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]

    def interrupt(number: int, frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def execute(
    commands: Commands,
    *,
    retries: int = 3,
    wait: float = 6 * 3600,
    keep: bool = False,
    call: Call = carry_out,
    sleep: Sleep = time.sleep,
) -> int:
    """Create a slice, set it up, train, and delete it whatever happens; return the exit code.

    One that is taken away is deleted and created anew, and training goes on, at most `retries` times. `wait` bounds
    the seconds until it is ready, each time. With `keep` it is not deleted in the end.

    The code is that of training where this ended by itself: 0, 2, or 3 after an alarm. It is 4 where something else
    failed, and 75 where the same command would go on: after KeyboardInterrupt, and without retries left.
    """
    for path, text in commands.files.items():
        Path(path).write_text(text, encoding="utf-8")
    code, ours = 4, True
    try:
        code = _attempts(commands, retries, wait, call, sleep)
    except _Failed as failure:
        process.say(f"error: {failure}")
        ours = not isinstance(failure, _Taken)
    except KeyboardInterrupt:
        process.say("interrupted; the same command goes on from the last checkpoint")
        code = 75
    finally:
        if keep and ours:
            for argv in commands.delete:
                process.say(f"kept, and paid for until: {shlex.join(argv)}")
        elif ours:
            try:
                _delete(commands, call, sleep)
            except _Failed as failure:
                process.say(f"error: {failure}")
                code = code or 4
            except KeyboardInterrupt:  # came late: all is done
                pass
    return code


def _attempts(commands: Commands, retries: int, wait: float, call: Call, sleep: Sleep) -> int:
    for left in reversed(range(retries + 1)):
        try:
            return _attempt(commands, wait, call, sleep)
        except _Taken as taken:
            raise taken if left == retries else _Failed(*taken.args) from None  # by then the name is ours
        except _Lost:
            process.say(f"the slice was taken away, or the connection to it; retries left: {left}")
            if left:
                _delete(commands, call, sleep)
    process.say("the same command goes on from the last checkpoint")
    return 75


def _attempt(commands: Commands, wait: float, call: Call, sleep: Sleep) -> int:
    """One slice's life, without its end. _Lost, _Failed."""
    for argv in commands.create:
        try:
            code, output = call(argv, True)
        except KeyboardInterrupt:
            sleep(_POLLS[0])  # what was asked for and is not there yet could not be deleted
            raise
        if code and re.search("already[ _]exists", output, re.IGNORECASE):
            raise _Taken(f"the name is taken: delete what has it, or give another --name: {shlex.join(argv)}")
        if code:
            raise _Failed(f"not created: {shlex.join(argv)}")
    if commands.state:
        _await(commands.state, wait, call, sleep)
    for argv in commands.setup:
        # A host that has just begun may refuse a connection, or hold the lock of its package manager.
        if not _tried(argv, call, sleep):
            if _state(commands.state, call) in vectors.LOST:
                raise _Lost
            raise _Failed(f"not set up: {shlex.join(argv)}")
    exists = commands.begun and call(commands.begun)[0] == 0
    code, _ = call(commands.resume if exists and commands.resume else commands.start, True)
    if code and commands.state and (code in _CUT or _state(commands.state, call) in vectors.LOST):
        raise _Lost
    if code and commands.logs:
        call(commands.logs, True)
    return code if code in (0, 2, 3) else 4


def _await(state: Argv, wait: float, call: Call, sleep: Sleep) -> None:
    """Wait until a slice is ready. _Lost if it was taken away, _Failed if it will not be, or not in time."""
    delay, longest = _POLLS
    waited, unknown, last = 0.0, 0, ""
    while (found := _state(state, call)) not in vectors.READY:
        unknown = 0 if found else unknown + 1
        if found != last:
            process.say(f"the slice is {found or 'not to be found'}")
            last = found
        if found in vectors.LOST:
            raise _Lost
        if found in vectors.FAILED or unknown == _TRIES:
            raise _Failed(f"no slice: {shlex.join(state)}")
        if waited >= wait:
            raise _Failed(f"no slice in {waited / 60:.0f} minutes: give more --wait, another --zone or no --spot")
        sleep(delay)
        waited, delay = waited + delay, min(2 * delay, longest)


def _state(state: Argv | None, call: Call) -> str:
    """Where the slice stands, found among what else may be printed; "" if that is not to be had."""
    code, output = call(state) if state else (1, "")
    states = re.findall(r"^[A-Z_]+$", output, re.MULTILINE)
    return states[-1] if states and not code else ""


def _tried(argv: Argv, call: Call, sleep: Sleep, enough: str = r"(?!)") -> bool:
    """Whether a command succeeds, or says something that is as good, in a few tries."""
    for left in reversed(range(_TRIES)):
        code, output = call(argv, True)
        if not code or re.search(enough, output, re.IGNORECASE):
            return True
        if left:
            sleep(_POLLS[0])
    return False


def _delete(commands: Commands, call: Call, sleep: Sleep) -> None:
    """Delete all of it. _Failed with what a person must do; a KeyboardInterrupt comes through when it is done."""
    left, interrupted = [], False
    for argv in commands.delete:
        try:
            gone = _tried(argv, call, sleep, "not[ _]found")
        except KeyboardInterrupt:  # no further one follows, see `interruptible`
            gone, interrupted = _tried(argv, call, sleep, "not[ _]found"), True
        left += [] if gone else [argv]
    if left:
        by_hand = "; ".join(map(shlex.join, left))
        raise _Failed(f"not deleted, and paid for until this succeeds: {by_hand}")
    if interrupted:
        raise KeyboardInterrupt
