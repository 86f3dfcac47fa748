"""What produced a number: versions, the device, and the code, with nothing about whose machine it was."""

import hashlib
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

PACKAGE = Path(__file__).parent
DISTRIBUTIONS = ("gan-jax", "jax", "jaxlib", "flax", "optax", "numpy")


def provenance() -> dict[str, Any]:
    """Describe what computes here and now, as JSON values.

    versions: of Python and the libraries. device: platform, kind and count. code: a digest of the package's files and,
        in a git checkout, the commit and whether the tree was clean.
    """
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()} | {name: version(name) for name in DISTRIBUTIONS},
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "code": {"sha256": digest(PACKAGE)} | _checkout(PACKAGE),
    }


def digest(package: Path) -> str:
    """The SHA-256 of a package's .py files and their names."""
    total = hashlib.sha256()
    for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
        # Each file's own digest has a fixed length, so no two packages run together into the same bytes.
        total.update(path.relative_to(package).as_posix().encode() + b"\0")
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _checkout(package: Path) -> dict[str, Any]:
    """The commit, and whether the tree is clean; {} unless the package's own files are tracked.

    Tracked, not merely inside: an environment in a checkout of something else is no checkout of this.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    except (OSError, subprocess.CalledProcessError):
        return {}
