"""A toy program: noisy descent on a quadratic, with every kind of leaf that a training state may hold."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gan_jax.base import Batches, Program

SIZE = 3


class Toy(NamedTuple):
    params: dict[str, jax.Array]
    average: dict[str, jax.Array]  # starts as the very arrays of params: donation must survive that
    optimizer: Any
    count: jax.Array
    seen: dict[str, Any]
    key: jax.Array  # a typed key


def toy(*, chunk: int = 1, steps: int = 12, traced: Callable[[], None] = lambda: None) -> Program:
    """Minimise |a - mean(data) - noise|^2; `traced` is called whenever Python runs the step."""
    optimizer = optax.adam(1e-2)

    def init(key):
        params = {"a": jax.random.normal(key, (SIZE,)), "b": jnp.zeros((2, SIZE), jnp.bfloat16)}
        return Toy(
            params=params,
            average=params,
            optimizer=optimizer.init(params),
            count=jnp.asarray(0),  # weakly typed on purpose
            seen={
                "flag": jnp.asarray(False),
                "latch": jnp.zeros(()),
                "empty": jnp.zeros((0, 2)),
                "byte": jnp.arange(4, dtype=jnp.uint8),
            },
            key=jax.random.fold_in(key, 1),
        )

    def step(key, state, batch):
        traced()

        def loss(params):
            target = batch["x"].mean(axis=(0, 1)) + jax.random.normal(key, (SIZE,))
            return jnp.sum((params["a"] - target) ** 2) + jnp.sum(params["b"].astype(jnp.float32) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, optimizer_state = optimizer.update(gradient, state.optimizer)
        params = optax.apply_updates(state.params, updates)
        state = Toy(
            params=params,
            average=optax.incremental_update(params, state.average, 0.1),
            optimizer=optimizer_state,
            count=state.count + 1,
            seen=state.seen
            | {"flag": ~state.seen["flag"], "latch": jnp.where(state.seen["latch"] > 0, 0.0, 1.0)},  # weak
            key=jax.random.fold_in(state.key, 0),
        )
        return state, {
            "toy/loss": value,
            "toy/count": state.count,
            "toy/draw": batch["x"].mean(),
            "toy/noise": jax.random.normal(key),
        }

    def draw(arrays, key, step):
        index = jax.random.randint(jax.random.fold_in(key, step), (1, 4), 0, len(arrays["x"]))
        return {"x": arrays["x"][index]}

    return Program(
        init=init,
        step=step,
        batches=Batches({"x": jnp.linspace(-1, 1, 10 * SIZE).reshape(10, SIZE)}, draw),
        observe=lambda key, state: {"x": state.params["a"][None, :2] + jax.random.normal(key, (5, 2))},
        steps=steps,
        chunk=chunk,
    )


def same(left: Any, right: Any) -> bool:
    """Whether two states have the same structure, types and bits."""
    if jax.tree.structure(left) != jax.tree.structure(right):
        return False

    def equal(a, b):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        return a.dtype == b.dtype and a.shape == b.shape and jax.device_get(a).tobytes() == jax.device_get(b).tobytes()

    return all(jax.tree.leaves(jax.tree.map(equal, left, right)))
