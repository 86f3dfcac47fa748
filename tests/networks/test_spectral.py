"""Spectral normalisation against NumPy's singular values; parameters are read and never written."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_jax.base import Network
from gan_jax.networks import dcgan, mlp
from gan_jax.networks.precision import mixed
from gan_jax.networks.spectral import kernels, spectral
from gan_jax.penalties import r1
from gan_jax.testing import keys

KEY = jax.random.key(0)
CRITICS = {
    "mlp": (mlp.discriminator((6,), widths=(32, 16), dropout=0.0), (4, 6)),
    "dcgan": (dcgan.discriminator(28, 1, width=4, normalise=False), (4, 28, 28, 1)),
}
KERNEL = (3, 4, 5, 7)

every_critic = pytest.mark.parametrize("name", CRITICS)
scales = st.floats(2.0**-8, 2.0**8, width=32)


def probe(shape=KERNEL):
    """Return a network of one kernel and one bias, whose output is its parameters as it sees them."""
    return Network(
        lambda key: ({"kernel": jax.random.normal(key, shape), "bias": jnp.full(shape[-1], 5.0)}, ()),
        lambda params, stats, **_: (params, stats),
    )


PROBE = spectral(probe())
TRAIN, EVALUATE = (jax.jit(partial(PROBE.apply, train=train)) for train in (True, False))
INIT = jax.jit(PROBE.init)
NORMALISED = {name: spectral(network) for name, (network, _) in CRITICS.items()}
STARTS = {name: jax.jit(network.init) for name, network in NORMALISED.items()}


def matrix(kernel):
    return np.asarray(kernel, np.float64).reshape(-1, kernel.shape[-1])


def unit(x):
    return x / np.linalg.norm(x)


def elsewhere(key, stats):
    """Return the statistics with vectors that know nothing of the kernel."""
    vectors = {path: unit(jax.random.normal(key, vector.shape)) for path, vector in stats.vectors.items()}
    return stats._replace(vectors=vectors)


def spectral_norms(tree):
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim >= 2]
    return [np.linalg.svd(matrix(leaf), compute_uv=False)[0] for leaf in leaves]


@jax.jit
def converged(params, stats):
    return jax.lax.fori_loop(0, 200, lambda _, stats: PROBE.apply(params, stats, train=True)[1], stats)


@pytest.mark.slow
@given(key=keys(), scale=scales)
def test_after_convergence_the_largest_singular_value_is_one(key, scale):
    params, stats = INIT(key)
    params = {**params, "kernel": scale * params["kernel"]}
    stats = converged(params, elsewhere(key, stats))
    for apply in (TRAIN, EVALUATE):
        np.testing.assert_allclose(spectral_norms(apply(params, stats)[0]), 1.0, rtol=1e-3)


@given(key=keys())
def test_the_norm_is_good_at_once(key):
    params, stats = INIT(key)
    np.testing.assert_allclose(spectral_norms(EVALUATE(params, stats)[0]), 1.0, rtol=1e-2)


@given(key=keys())
def test_one_call_in_training_by_hand(key):
    params, stats = INIT(key)
    stats = elsewhere(key, stats)
    seen, new = TRAIN(params, stats)
    w, u = matrix(params["kernel"]), np.asarray(stats.vectors["kernel"], np.float64)
    u = unit(w.T @ unit(w @ u))
    v = unit(w @ u)
    np.testing.assert_allclose(new.vectors["kernel"], u, atol=1e-5)
    np.testing.assert_allclose(matrix(seen["kernel"]), w / (v @ w @ u), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen["bias"], params["bias"])


@given(key=keys())
def test_vectors_advance_in_training_alone_and_evaluation_repeats_it(key):
    params, stats = INIT(key)
    stats = elsewhere(key, stats)
    _, same = EVALUATE(params, stats)
    jax.tree.map(np.testing.assert_array_equal, same, stats)
    seen, new = TRAIN(params, stats)
    assert not np.allclose(new.vectors["kernel"], stats.vectors["kernel"], atol=1e-3)
    np.testing.assert_allclose(EVALUATE(params, new)[0]["kernel"], seen["kernel"], rtol=1e-5)


def test_several_iterations_are_as_many_calls_of_one():
    params, stats = INIT(KEY)
    stats = once = elsewhere(KEY, stats)
    for _ in range(3):
        _, once = TRAIN(params, once)
    _, thrice = spectral(probe(), iterations=3).apply(params, stats, train=True)
    np.testing.assert_allclose(thrice.vectors["kernel"], once.vectors["kernel"], atol=1e-5)


@given(key=keys(), scale=scales)
def test_the_scale_of_a_kernel_changes_nothing(key, scale):
    params, stats = INIT(key)
    scaled = {**params, "kernel": scale * params["kernel"]}
    for apply in (TRAIN, EVALUATE):
        mine, other = apply(params, stats), apply(scaled, stats)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), mine, other)


@jax.jit
def slope(params, stats, g):
    return jax.grad(lambda params: jnp.sum(g * PROBE.apply(params, stats, train=True)[0]["kernel"]))(params)


@given(key=keys())
def test_the_gradient_passes_through_the_norm_with_the_vectors_held(key):
    """Of <G, W/σ> it is (G − <G, W/σ>·v uᵀ)/σ (Miyato et al., eq. 12), and none of it points along W."""
    params, stats = INIT(key)
    stats = elsewhere(key, stats)
    g = jax.random.normal(jax.random.fold_in(key, 1), KERNEL)
    gradient = slope(params, stats, g)["kernel"]
    w, u, g = matrix(params["kernel"]), np.asarray(stats.vectors["kernel"], np.float64), matrix(g)
    u = unit(w.T @ unit(w @ u))
    v = unit(w @ u)
    sigma = v @ w @ u
    expected = (g - np.sum(g * w) / sigma * np.outer(v, u)) / sigma
    np.testing.assert_allclose(matrix(gradient), expected, rtol=1e-3, atol=1e-4)
    assert abs(np.sum(matrix(gradient) * w)) < 1e-3 * np.linalg.norm(w)


def test_the_norm_is_computed_in_full_precision():
    params, stats = INIT(KEY)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    program = jax.make_jaxpr(partial(PROBE.apply, train=True))(half, stats)
    products = [operation for operation in program.eqns if operation.primitive.name == "dot_general"]
    assert len(products) == 3
    for product in products:
        assert product.params["precision"] == (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
        assert {argument.aval.dtype for argument in product.invars} == {jnp.dtype(jnp.float32)}
    seen, new = PROBE.apply(half, stats, train=True)
    assert (seen["kernel"].dtype, new.vectors["kernel"].dtype) == (jnp.bfloat16, jnp.float32)


def test_a_kernel_of_zeros_stays_and_recovers():
    params, stats = INIT(KEY)
    zeros = {**params, "kernel": 0 * params["kernel"]}
    seen, new = TRAIN(zeros, stats)
    np.testing.assert_array_equal(seen["kernel"], 0)
    np.testing.assert_array_equal(new.vectors["kernel"], stats.vectors["kernel"])
    np.testing.assert_array_equal(slope(zeros, stats, jnp.ones(KERNEL))["kernel"], 1)


def test_an_averaged_vector_is_as_good_as_its_direction():
    params, stats = INIT(KEY)
    shorter = jax.tree.map(lambda vector: 0.3 * vector, stats)
    expected = EVALUATE(params, stats)[0]["kernel"]
    np.testing.assert_allclose(EVALUATE(params, shorter)[0]["kernel"], expected, rtol=1e-5)


@pytest.mark.slow
@every_critic
def test_a_learning_rate_of_zero_leaves_the_weights(name):
    """As nnx.SpectralNorm does not: its forward pass writes the normalised weights over the learned ones."""
    params, stats = start = STARTS[name](KEY)
    optimiser = optax.sgd(0.0)
    x = jax.random.normal(KEY, CRITICS[name][1])

    @jax.jit
    def step(params, stats):
        def loss(params):
            logits, new = NORMALISED[name].apply(params, stats, x, train=True)
            return jnp.sum(logits), new

        gradients, new = jax.grad(loss, has_aux=True)(params)
        return optax.apply_updates(params, optimiser.update(gradients, optimiser.init(params))[0]), new

    for _ in range(3):
        params, stats = step(params, stats)
    jax.tree.map(np.testing.assert_array_equal, params, start[0])


@pytest.mark.slow
@every_critic
def test_the_whole_critic_ignores_the_scale_of_its_kernels(name):
    params, stats = STARTS[name](KEY)
    scaled = jax.tree.map(lambda leaf: 7.0 * leaf if leaf.ndim >= 2 else leaf, params)
    x = jax.random.normal(KEY, CRITICS[name][1])
    apply = jax.jit(partial(NORMALISED[name].apply, train=True))
    np.testing.assert_allclose(apply(scaled, stats, x)[0], apply(params, stats, x)[0], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@every_critic
def test_a_normalised_critic_is_lipschitz(name):
    """Leaky ReLU is 1-Lipschitz; a convolution of 4x4 and stride 2 sees a pixel four times, which makes √4 a layer."""
    params, stats = STARTS[name](KEY)
    x = 3 * jax.random.normal(KEY, (16, *CRITICS[name][1][1:]))
    critic = lambda x: NORMALISED[name].apply(params, stats, x, train=False)[0]  # noqa: E731
    slopes = np.sqrt(jax.jit(lambda x: r1(2.0)(KEY, critic, x, x))(x))
    bound = 1.0 if name == "mlp" else 2.0 ** len(params["downs"])
    assert (slopes <= 1.01 * bound).all()
    assert (slopes > 0.001).all()


@pytest.mark.slow
@every_critic
def test_critics_run_under_vmap_with_penalties_and_in_mixed_precision(name):
    network, shape = CRITICS[name]
    normalised, x = spectral(mixed(network)), jax.random.normal(KEY, shape)

    def loss(params, stats):
        critic = lambda x: normalised.apply(params, stats, x, train=True)[0]  # noqa: E731
        return jnp.mean(r1(1.0)(KEY, critic, x, x))

    members = [STARTS[name](key) for key in jax.random.split(KEY, 2)]
    params, stats = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(loss)))(params, stats)
    for leaf in jax.tree.leaves((values, gradients)):
        assert jnp.isfinite(leaf).all()
        assert leaf.dtype == jnp.float32
    assert values[0] != values[1]


@pytest.mark.slow
def test_statistics_of_the_network_are_carried():
    network = dcgan.discriminator(28, 1, width=2)
    normalised = spectral(network)
    params, stats = jax.jit(normalised.init)(KEY)
    _, new = normalised.apply(params, stats, jnp.ones((2, 28, 28, 1)), train=True)
    assert jax.tree.structure(new) == jax.tree.structure(stats)
    means = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.abs(a - b).max(), new.network, stats.network))
    assert min(means) > 0


def test_kernels_and_embeddings_are_normalised_and_the_rows_of_a_normalisation_are_not():
    _, stats = jax.eval_shape(spectral(dcgan.generator(5, 28, 1, width=2, classes=3)).init, KEY)
    assert sorted(stats.vectors) == ["stem/kernel", "ups/0/kernel", "ups/1/kernel"]
    _, stats = jax.eval_shape(spectral(mlp.discriminator((4,), widths=(3,), classes=2)).init, KEY)
    assert sorted(stats.vectors) == ["layers/0/kernel", "layers/1/kernel", "projection/embedding"]


def test_the_choice_is_the_callers():
    network = mlp.discriminator((4,), widths=(3,), dropout=0.0)
    first = spectral(network, choose=lambda path, leaf: kernels(path, leaf) and path.startswith("layers/0"))
    _, stats = jax.eval_shape(first.init, KEY)
    assert list(stats.vectors) == ["layers/0/kernel"]
    with pytest.raises(ValueError, match="nothing to normalise: none of .*'layers/0/bias'"):
        spectral(network, choose=lambda path, leaf: False).init(KEY)
    with pytest.raises(ValueError, match=r"layers/0/bias has shape \(3,\)"):
        spectral(network, choose=lambda path, leaf: path.endswith("bias")).init(KEY)


@pytest.mark.parametrize("iterations", [0, -1])
def test_no_iterations_are_refused(iterations):
    with pytest.raises(ValueError, match=f"iterations={iterations}"):
        spectral(probe(), iterations=iterations)
