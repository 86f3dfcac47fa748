"""Settings for every test: strict ranks, checked shapes, reproducible properties, a cache of the checkout's own."""

import os
from pathlib import Path

# Nearly all of the time of these tests is compilation, most of that LLVM's, and their programs are too small to gain
# from it. Before JAX is imported, which reads it once.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

import jax
from hypothesis import settings
from jaxtyping import install_import_hook

# Calls check annotated shapes, except where a module names `Pair` (beartype knows no generic NamedTuple) or where
# tests hand in what is to be refused.
CHECKED = ("latents", "metrics")
install_import_hook([f"gan_jax.{name}" for name in CHECKED], "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests write nothing into the home of whoever runs them, and compile a program once for all processes, the commands
# that they start among them: nearly all of their time is compilation.
CACHE = Path(__file__).parents[1] / ".cache"
os.environ.setdefault("GAN_JAX_CACHE", str(CACHE))
for name, value in (
    ("jax_compilation_cache_dir", str(CACHE / "xla")),
    ("jax_persistent_cache_min_compile_time_secs", 0),
    ("jax_persistent_cache_min_entry_size_bytes", -1),
):
    jax.config.update(name, value)
    os.environ.setdefault(name.upper(), str(value))

# Compilation dominates the first example, so Hypothesis's own deadline would measure XLA.
for profile, examples in (("quick", 12), ("full", 60)):
    settings.register_profile(profile, deadline=None, derandomize="CI" in os.environ, max_examples=examples)
settings.load_profile("quick")  # `make test-full` asks for the other
