"""Mixed precision: few bits inside, float32 wherever something is summed, kept or learned."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Network
from gan_jax.networks import dcgan, mlp
from gan_jax.networks.precision import mixed
from gan_jax.penalties import PENALTIES, r1
from gan_jax.testing import keys

KEY = jax.random.key(0)
NETWORKS = {
    "mlp": (mlp.discriminator((6,), widths=(32, 16), dropout=0.0), (4, 6)),
    "dcgan": (dcgan.discriminator(28, 1, width=2, normalise=False), (2, 28, 28, 1)),
}
LINEAR = Network(
    lambda key: (jax.random.normal(key, (1000,)), ()),
    lambda params, stats, x, **_: (jnp.sum(x * params[None], axis=1), stats),
)

every_network = pytest.mark.parametrize("name", NETWORKS)


def critic(network, params, stats):
    return lambda x: network.apply(params, stats, x, train=True, key=KEY)[0]


def operations(jaxpr) -> Iterator:
    """List every operation of a program, those within jit and conditionals too."""
    for operation in jaxpr.eqns:
        yield operation
        for value in jax.tree.leaves(operation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from operations(inner)


@every_network
def test_forward_and_backward_are_computed_in_bfloat16(name):
    network, shape = NETWORKS[name]
    params, stats = network.init(KEY)
    slope = jax.grad(lambda params, x: jnp.sum(critic(mixed(network), params, stats)(x)), argnums=(0, 1))
    products = [
        operation
        for operation in operations(jax.make_jaxpr(slope)(params, jnp.ones(shape)).jaxpr)
        if operation.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    assert len(products) >= 6  # three layers at least, there and back
    assert {argument.aval.dtype for product in products for argument in product.invars} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_batch_normalisation_does_not_widen_what_follows_it():
    """Its running moments are float32, and a convolution of two precisions is an error."""
    network = mixed(dcgan.generator(5, 28, 1, width=2))
    params, stats = network.init(KEY)
    images, moments = network.apply(params, stats, jnp.ones((2, 5)), train=True)
    assert {leaf.dtype for leaf in jax.tree.leaves((images, moments))} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
@every_network
def test_outputs_parameters_and_gradients_are_float32_and_near_those_of_the_network(name):
    network, shape = NETWORKS[name]
    params, stats = mixed(network).init(KEY)
    jax.tree.map(np.testing.assert_array_equal, (params, stats), network.init(KEY))
    x = jax.random.normal(KEY, shape)

    def slopes(network):
        loss = lambda params, x: jnp.sum(critic(network, params, stats)(x))  # noqa: E731
        return critic(network, params, stats)(x), jax.jit(jax.grad(loss, argnums=(0, 1)))(params, x)

    got, expected = slopes(mixed(network)), slopes(network)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, got))} == {jnp.dtype(jnp.float32)}
    for mine, exact in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert np.linalg.norm(mine - exact) <= 5e-2 * np.linalg.norm(exact)
    assert not np.array_equal(got[0], expected[0])


# What each penalty of weight 1 makes of a slope of this norm, wherever it is taken.
OF_A_SLOPE = {
    "r1": lambda norm: norm**2 / 2,
    "r2": lambda norm: norm**2 / 2,
    "wgan_gp": lambda norm: (norm - 1) ** 2,
    "wgan_lp": lambda norm: max(0, norm - 1) ** 2,
    "zero_centred": lambda norm: norm**2,
    "dragan": lambda norm: (norm - 1) ** 2,
}


@pytest.mark.parametrize("name", OF_A_SLOPE)
@given(key=keys(), slope=st.sampled_from([1e-3, 1.0, 1e5]))
def test_penalties_square_and_sum_what_bfloat16_would_lose(name, key, slope):
    """A thousand squares of slopes from 1e-3 to 1e5: a sum in bfloat16 stalls after the first 256 equal terms."""
    params, real, fake = slope * (1 + 0.1 * jax.random.uniform(key, (1000,))), jnp.zeros((2, 1000)), jnp.ones((2, 1000))
    norm = np.linalg.norm(np.asarray(params, np.float64))
    values = PENALTIES[name](1.0)(key, critic(mixed(LINEAR), params, ()), real, fake)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, np.full(2, OF_A_SLOPE[name](norm)), rtol=1e-2)


@pytest.mark.slow
@given(key=keys(), slope=st.sampled_from([1e-3, 1.0, 1e5]))
def test_the_gradient_of_a_penalty_is_that_of_the_slope(key, slope):
    """∇w (γ/2)‖w‖² = γw."""
    params, x = slope * jax.random.normal(key, (1000,)), jnp.zeros((2, 1000))
    gradient = jax.grad(lambda params: jnp.mean(r1(3.0)(key, critic(mixed(LINEAR), params, ()), x, x)))(params)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, 3 * np.asarray(params, np.float64), rtol=1e-2)


WIDE = mlp.discriminator((50,), widths=(400,), dropout=0.0)


@jax.jit
def penalised(key):
    params, stats = WIDE.init(key)
    # Biases of ±10 decide each unit's side of zero, which rounding could change.
    params["layers"][0]["bias"] = jnp.where(jnp.arange(400) % 3 == 0, 10.0, -10.0)
    x = jax.random.normal(key, (4, 50))
    return params, r1(1.0)(key, critic(mixed(WIDE), params, stats), x, x)


@given(key=keys())
def test_a_penalty_through_layers_is_near_the_one_in_float64(key):
    """The slope of w₂·leaky(W₁x + b) is W₁ᵀ(a ∘ w₂), with a = 1 where b is positive, else 0.2."""
    params, values = penalised(key)
    first, last = (np.asarray(params["layers"][i]["kernel"], np.float64) for i in (0, 1))
    active = np.where(np.arange(400) % 3 == 0, 1.0, 0.2)
    expected = 0.5 * np.sum((first @ (active * last[:, 0])) ** 2)
    np.testing.assert_allclose(values, np.full(4, expected), rtol=2e-2)  # bfloat16 has 8 bits


@pytest.mark.slow
@every_network
@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_and_their_gradients_are_finite(name, penalty):
    network, shape = NETWORKS[name]
    params, stats = network.init(KEY)
    real, fake = jax.random.normal(KEY, (2, *shape))

    def loss(params):
        return jnp.mean(PENALTIES[penalty](10.0)(KEY, critic(mixed(network), params, stats), real, fake))

    value, gradients = jax.jit(jax.value_and_grad(loss))(params)
    assert all(jnp.isfinite(leaf).all() and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((value, gradients)))


def test_statistics_are_neither_rounded_nor_stopped():
    """A running mean whose step is 2⁻¹² of itself does not move in bfloat16, which has 8 bits."""
    network = Network(
        lambda key: ({}, {"mean": jnp.float32(1.0), "steps": jnp.int32(0)}),
        lambda params, stats, x, **_: (
            x[:, 0],
            {"mean": stats["mean"] + 2.0**-12 * jnp.mean(x), "steps": stats["steps"] + 1},
        ),
    )
    params, stats = mixed(network).init(KEY)
    for _ in range(10):
        _, stats = mixed(network).apply(params, stats, jnp.ones((4, 1)), train=True)
    assert (stats["mean"].dtype, stats["steps"].dtype) == (jnp.float32, jnp.int32)
    assert (stats["mean"], stats["steps"]) == (1 + 10 * 2.0**-12, 10)


def test_statistics_that_come_back_rounded_are_kept_in_their_precision():
    network = Network(lambda key: ({}, jnp.zeros(3)), lambda params, stats, x, **_: (x[:, 0], jnp.mean(x, axis=0)))
    _, stats = mixed(network).apply({}, jnp.zeros(3), jnp.ones((4, 3)), train=True)
    assert stats.dtype == jnp.float32


def test_labels_and_keys_pass_as_they_are_and_inputs_rounded():
    seen = {}

    def apply(params, stats, x, codes, **rest):
        seen.update(rest, x=x, codes=codes)
        return x[:, 0], stats

    label, codes = jnp.arange(4), jnp.arange(4)
    mixed(Network(LINEAR.init, apply)).apply((), (), jnp.ones((4, 2)), codes, label=label, train=True, key=KEY)
    assert (seen["x"].dtype, seen["codes"].dtype) == (jnp.bfloat16, codes.dtype)
    assert (seen["label"] is label, seen["train"], seen["key"] is KEY) == (True, True, True)


@pytest.mark.slow
def test_networks_of_one_structure_run_under_vmap():
    network, shape = NETWORKS["mlp"]
    params, stats = jax.vmap(network.init)(jax.random.split(KEY, 3))
    x = jax.random.normal(KEY, shape)
    logits = jax.vmap(lambda params, stats: critic(mixed(network), params, stats)(x))(params, stats)
    assert (logits.shape, logits.dtype) == ((3, shape[0]), jnp.float32)


@pytest.mark.parametrize("dtype", [jnp.int8, bool])
def test_a_type_without_gradients_is_refused(dtype):
    with pytest.raises(ValueError, match="has no gradients"):
        mixed(LINEAR, dtype)
