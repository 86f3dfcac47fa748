"""Exams that a user's own objective or penalty passes in one line, and the strategies behind properties.

    def test_mine():
        check_objective(my_objective())
        check_regularizer(my_penalty(10.0))

An exam is deterministic and raises AssertionError with a sentence that says what was broken. It
asks what every game here relies upon and nothing of taste: closed forms are the author's own tests.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from gan_jax.base import Key, Objective, Regularizer

try:
    from hypothesis import strategies as st
    from hypothesis.extra.numpy import arrays
except ModuleNotFoundError as error:
    raise ImportError("gan_jax.testing needs Hypothesis, which gan-jax does not: pip install hypothesis") from error


def keys() -> st.SearchStrategy[Key]:
    """Draw a typed key."""
    return st.integers(0, 2**31 - 1).map(jax.random.key)


def logits(batch: int = 4, bound: float = 1e4) -> st.SearchStrategy[Float[Array, " B"]]:
    """Draw float32 logits [batch] in ±bound, without subnormals, which XLA flushes to zero.

    One batch size for all examples of a property keeps them to one compilation.
    """
    limit = float(np.float32(bound))
    elements = st.floats(-limit, limit, width=32, allow_subnormal=False)
    return arrays(np.float32, batch, elements=elements).map(jnp.asarray)


def check_objective(objective: Objective, *, zero_sum: bool = False, bound: float = 1e4) -> None:
    """Examine a pair of losses on a grid of logits that reaches to ±bound and ±bound/10.

    Both losses give one number per example, finite with finite slopes, and permuting the examples
    jointly permutes the numbers. Where the discriminator errs (real ≤ 0 ≤ fake) its loss never
    falls with a fake logit nor rises with a real one; where a fake is found out (fake ≤ 0) the
    generator's loss never rises with it. Each of these slopes is strict where the logits are ±½ or
    ±1, hence "saturating" is allowed and a flipped sign is not. Beyond, nothing is asked: labels
    may be smoothed by up to ½, and least squares pulls back what overshoots.

    Args:
        objective: the pair.
        zero_sum: also ask that the players' slopes on a fake logit are opposite.
        bound: the largest logit, for objectives such as KL's that grow exponentially.

    Raises:
        AssertionError: the first of these laws that is broken.
    """
    steps = np.array([0.0, 0.5, 1.0, bound / 10, bound], np.float32)
    grid = np.unique(np.concatenate([-steps, steps]))
    real, fake = (jnp.asarray(axis.ravel()) for axis in np.meshgrid(grid, grid))
    order = np.random.default_rng(0).permutation(len(real))
    on_real, on_fake = {}, {}
    for player, loss in zip(objective._fields, objective, strict=True):
        values = jax.jit(loss)(real, fake)
        assert values.shape == real.shape, f"the {player}'s loss has shape {values.shape}, not {real.shape}: no mean"
        assert jnp.isfinite(values).all(), f"the {player}'s loss is not finite in ±{bound:g}"
        permuted = loss(real[order], fake[order])
        assert np.allclose(permuted, values[order], rtol=1e-5), f"the {player}'s loss depends on the order of examples"
        slopes = jax.grad(_summed(loss), argnums=(0, 1))(real, fake)
        assert jnp.isfinite(jnp.stack(slopes)).all(), f"the {player}'s slope is not finite in ±{bound:g}"
        on_real[player], on_fake[player] = slopes

    errs, found_out = (real <= 0) & (fake >= 0), fake <= 0
    moderate = np.isin(abs(real), (0.5, 1.0)) & np.isin(abs(fake), (0.5, 1.0))
    laws = {
        "the discriminator's loss must fall with a real logit below 0": (-on_real["discriminator"], errs),
        "the discriminator's loss must rise with a fake logit above 0": (on_fake["discriminator"], errs),
        "the generator's loss must fall with a fake logit below 0": (-on_fake["generator"], found_out),
    }
    for law, (push, where) in laws.items():
        kept = ~where | jnp.where(moderate, push > 0, push >= 0)
        worst = jnp.argmin(kept)
        assert kept.all(), f"{law}: not so at real {real[worst]:g}, fake {fake[worst]:g}"
    if zero_sum:
        opposite = np.allclose(on_fake["generator"], -on_fake["discriminator"], rtol=1e-5, atol=1e-6)
        assert opposite, "the game is not zero-sum: the players' slopes on a fake logit are not opposite"


def check_regularizer(regularizer: Regularizer) -> None:
    """Examine a penalty on a smooth critic of vectors [B, 3] and of images [B, 2, 2, 1].

    It gives one number per example, finite and not negative, the same for the same key and under
    jit; its gradient with respect to the critic's parameters is finite, also where the critic is
    flat; and unless it depends on the key, permuting the examples permutes it.

    Raises:
        AssertionError: the first of these laws that is broken.
    """
    for shape in ((4, 3), (4, 2, 2, 1)):
        key, other, *draws = jax.random.split(jax.random.key(0), 5)
        real, fake, weights = (jax.random.normal(draw, shape) for draw in draws)

        def penalty(weights: Array, key: Key, real: Array, fake: Array) -> Array:
            features = tuple(range(1, real.ndim))
            return regularizer(key, lambda x: jnp.sum(jnp.sin(weights[:1] * x), axis=features), real, fake)

        values = penalty(weights, key, real, fake)
        assert values.shape == shape[:1], f"the penalty of {shape} inputs has shape {values.shape}, not {shape[:1]}"
        assert jnp.isfinite(values).all(), f"the penalty is not finite: {values}"
        assert (values >= 0).all(), f"the penalty is negative: {values}"
        compiled = jax.jit(penalty)(weights, key, real, fake)
        assert np.allclose(compiled, values, rtol=1e-4), "the penalty differs under jit, or between calls with one key"
        for critic, parameters in (("a smooth", weights), ("a flat", jnp.zeros_like(weights))):
            slopes = jax.grad(_summed(penalty))(parameters, key, real, fake)
            assert jnp.isfinite(slopes).all(), f"the gradient of the penalty is not finite on {critic} critic"
        if jnp.array_equal(penalty(weights, other, real, fake), values):
            permuted = penalty(weights, key, real[::-1], fake[::-1])
            assert np.allclose(permuted, values[::-1], rtol=1e-4), "the penalty depends on the order of examples"


def _summed(loss: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *arguments: jnp.sum(loss(*arguments))
