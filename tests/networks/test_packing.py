"""Packs reach the network with their examples side by side in the channels, and are one input each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Network
from gan_jax.networks import dcgan, mlp
from gan_jax.networks.packing import packed
from gan_jax.penalties import dragan, wgan_gp

KEY = jax.random.key(0)
# What a network is called with is what it returns.
ECHO = Network(lambda key: ({}, {}), lambda params, stats, x, **rest: (x, rest))


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 3, 4, 6, 2)], ids=["points", "images"])
def test_examples_lie_side_by_side_in_the_channels(shape):
    packs = np.asarray(jax.random.normal(KEY, shape))
    joined, _ = packed(ECHO).apply({}, {}, packs, train=False)
    size = shape[1]
    assert joined.shape == (shape[0], *shape[2:-1], size * shape[-1])
    for j in range(size):
        np.testing.assert_array_equal(joined[..., j * shape[-1] : (j + 1) * shape[-1]], packs[:, j])


def test_label_mode_and_key_pass_through():
    label = jnp.arange(5)
    _, rest = packed(ECHO).apply({}, {}, jnp.ones((5, 2, 3)), label=label, train=True, key=KEY)
    assert rest == {"label": label, "train": True, "key": KEY}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (mlp.discriminator((6,), widths=(4,), dropout=0.0), (5, 3, 2)),
        (dcgan.discriminator(28, 2, width=2, normalise=False), (3, 2, 28, 28, 1)),
    ],
    ids=["mlp", "dcgan"],
)
def test_a_pack_has_one_logit_and_one_penalty(network, shape):
    critic = packed(network)
    params, stats = jax.jit(critic.init)(KEY)
    real, fake = jax.random.normal(KEY, (2, *shape))

    @jax.jit
    def judged(params):
        apply = lambda x: critic.apply(params, stats, x, train=True)[0]  # noqa: E731
        return apply(real), *(penalty(2.0)(KEY, apply, real, fake) for penalty in (wgan_gp, dragan))

    for values in judged(params):
        assert values.shape == shape[:1]
        assert jnp.isfinite(values).all()


def test_a_batch_that_is_not_packed_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 2\) are no packs"):
        packed(ECHO).apply({}, {}, jnp.ones((5, 2)), train=False)
