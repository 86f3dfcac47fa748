"""Settings for every test: strict ranks, reproducible properties, a compilation cache of the session."""

import os
from pathlib import Path

import jax
from hypothesis import settings
from jaxtyping import install_import_hook

# Every annotated function checks its arguments' types and shapes.
install_import_hook("gan_jax", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests write nothing into the home of whoever runs them.
os.environ.setdefault("GAN_JAX_CACHE", str(Path(__file__).parents[1] / ".cache"))

# Compilation dominates the first example, so Hypothesis's own deadline would measure XLA.
settings.register_profile("gan_jax", deadline=None, derandomize="CI" in os.environ, max_examples=30)
settings.load_profile("gan_jax")
