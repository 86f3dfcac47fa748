"""Decoded arrays on disk, so that pictures are decoded once and not in every process.

The directory is `$GAN_JAX_CACHE`, else `$XDG_CACHE_HOME/gan_jax`, else `~/.cache/gan_jax`. It may be
deleted at any time. A cache that cannot be read or written costs time and is never an error.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]


def directory() -> Path:
    """Return where arrays are kept; it need not exist yet."""
    if chosen := os.environ.get("GAN_JAX_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gan_jax"


def remember(name: str, key: object, make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays that were kept under this name and key, else what `make` returns, and keep that.

    `key` must determine the arrays, and its `repr` must differ where they do; the name is for people.
    """
    try:
        label = re.sub(r"\W+", "-", name)[-40:]
        path = directory() / f"{label}-{hashlib.sha256(repr((name, key)).encode()).hexdigest()[:16]}.npz"
    except RuntimeError:  # no home directory
        return make()
    # A missing file, a damaged one: NumPy and zipfile raise half a dozen errors, and one answer does for all.
    # The file is opened here because np.load forgets to close one whose end is missing.
    with contextlib.suppress(Exception), path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
        return dict(kept)
    arrays = make()
    with contextlib.suppress(OSError):
        _write(path, arrays)
    return arrays


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write atomically: another process sees the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        try:
            np.savez(file, **arrays)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
