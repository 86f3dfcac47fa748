"""Adversarial learning in JAX: games between networks as pure functions, and a laboratory around them."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_jax.training.models import load as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # Late, so that the command line answers `--help` without waiting for JAX.
    if name == "load":
        from gan_jax.training.models import load

        return load
    if name == "__version__":
        from importlib.metadata import version

        return version("gan-jax")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
