"""gan_jax: adversarial learning in JAX, games between networks as pure functions."""
