"""What a command does around its work: what it says on stderr, whose logs it silences, what it keeps compiled."""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator


class WrongInput(Exception):
    """What is typed, or what it names, is wrong: a line that says how."""


@contextlib.contextmanager
def preparing() -> Iterator[None]:
    """While nothing has been written yet, a ValueError speaks of the input; afterwards it is a bug."""
    try:
        yield
    except ValueError as error:
        raise WrongInput(error) from error


def say(line: object) -> None:
    """A line beside the output proper."""
    print(" ".join(str(line).split()), file=sys.stderr, flush=True)


def note(notes: Iterable[str]) -> None:
    """Say what is not as it was, a line each."""
    for note in notes:
        say(f"note: {note}")


def hush() -> None:
    """Keep what libraries log below an error, TFDS for one, out of what the command says."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


def keep_compiled() -> None:
    """Keep compiled programs for the next process, unless JAX has been told where or there is no place for them."""
    import jax

    from gan_jax.data import cache

    if jax.config.jax_compilation_cache_dir is not None:  # pyrefly: ignore[missing-attribute]  # set at run time
        return
    try:
        directory = cache.directory() / "xla"
        directory.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: no home
        return
    if os.access(directory, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))
