"""Leading eigenvalues against dense matrices: Arnoldi on matrices, games with known answers, and a whole GAN."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from gan_jax import games, latents, objectives, penalties, rules
from gan_jax.base import Game, Network, Pair, Point
from gan_jax.data import mixtures
from gan_jax.diagnostics.gradients import slopes
from gan_jax.diagnostics.spectrum import analyse, arnoldi, leading, probe, rightmost, spectrum
from gan_jax.gan import adversarial
from gan_jax.networks import mlp
from gan_jax.networks.lowerings import LOWERINGS

KEY = jax.random.key(0)
MINIMAX = objectives.minimax()
seeds = st.integers(0, 2**32 - 1)


def at(params, dtype=jnp.float32):
    return Point(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params), Pair({}, {}), None)


@partial(jax.jit, static_argnames="products")
def factorised(matrix, start, products):
    return arnoldi(lambda v: jnp.matmul(matrix, v, precision="highest"), start, products)


def draw(seed, size):
    random = np.random.default_rng(seed)
    return random.normal(size=(size, size)).astype(np.float32), random.normal(size=size).astype(np.float32)


# The factorisation


@given(seeds, st.sampled_from([1, 5, 12]))
def test_the_factorisation_holds_and_its_vectors_are_orthonormal(seed, products):
    matrix, start = draw(seed, 12)
    basis, hessenberg = map(np.asarray, factorised(matrix, start, products))
    rows = products if products == 12 else products + 1  # beyond the whole space there is no further vector
    np.testing.assert_allclose(basis[:rows] @ basis[:rows].T, np.eye(rows), atol=2e-6)
    np.testing.assert_allclose(basis[0], start / np.linalg.norm(start), atol=1e-6)
    np.testing.assert_allclose(matrix @ basis[:products].T, basis.T @ hessenberg, atol=2e-5)
    np.testing.assert_array_equal(np.tril(hessenberg, -2), 0)


def test_vectors_stay_orthonormal_where_one_pass_would_lose_them():
    """A spectrum over seven decades: Krylov vectors all but coincide, and classical Gram-Schmidt fails."""
    turn, _ = np.linalg.qr(draw(0, 40)[0])
    matrix = (turn * np.logspace(0, -7, 40)) @ turn.T
    basis, _ = factorised(matrix.astype(np.float32), draw(0, 40)[1], 20)
    kept = np.asarray(basis)[np.linalg.norm(basis, axis=1) > 0]
    np.testing.assert_allclose(kept @ kept.T, np.eye(len(kept)), atol=1e-5)


@given(seeds)
def test_residuals_are_those_of_the_ritz_vectors(seed):
    matrix, start = draw(seed, 12)
    basis, hessenberg = (np.asarray(part, np.float64) for part in factorised(matrix, start, 5))
    values, residuals = leading(hessenberg)
    assert (np.diff(values.real) <= 1e-12).all()
    small, vectors = np.linalg.eig(hessenberg[:-1])
    for value, residual in zip(values, residuals, strict=True):
        x = vectors[:, np.argmin(abs(small - value))] @ basis[:-1]
        x /= np.linalg.norm(x)
        assert np.linalg.norm(matrix @ x - value * x) == pytest.approx(residual, rel=1e-3, abs=1e-5)


@given(seeds, st.sampled_from([12, 100]))
def test_as_many_products_as_dimensions_find_all_eigenvalues(seed, products):
    matrix, start = draw(seed, 12)
    _, hessenberg = factorised(matrix, start, products)
    assert hessenberg.shape == (13, 12)
    expected = np.linalg.eigvals(matrix.astype(np.float64))
    np.testing.assert_allclose(np.poly(leading(hessenberg).values), np.poly(expected), rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("size", [1, 3])
def test_an_invariant_subspace_ends_the_search_with_exact_eigenvalues(size):
    """The start vector lies in a block of its own; no eigenvalue of the other block, and no zero, is made up."""
    matrix, start = np.zeros((8, 8), np.float32), np.zeros(8, np.float32)
    block = np.array([[1, 2, 0], [-2, 1, 0], [0.5, 0, -3]], np.float32)[-size:, -size:]
    matrix[:size, :size], matrix[size:, size:] = block, 5 * np.eye(8 - size)
    start[:size] = 1
    basis, hessenberg = map(np.asarray, factorised(matrix, start, 6))
    np.testing.assert_array_equal(basis[size:], 0)
    values, residuals = leading(hessenberg)
    np.testing.assert_array_equal(residuals, 0)
    expected = np.linalg.eigvals(block)
    np.testing.assert_allclose(values, expected[np.lexsort((-expected.imag, -expected.real))], atol=1e-5)


def test_a_map_to_zero_has_the_eigenvalue_zero():
    found = analyse(factorised(np.zeros((4, 4), np.float32), np.ones(4, np.float32), 3).hessenberg)
    assert (found.rightmost, found.largest, found.rightmost_error, found.kind) == (0, 0, 0, "degenerate")


# Games with known answers

# THEORY: −(α+β)/2 ± ½√((α−β)² − 4γ²); ±iγ; −γ/2 ± √(γ²/4 − ¼) under R1; −σ²/4 ± √(σ⁴/16 − ¼) under noise.
KNOWN = {
    "focus": (games.saddle(1, 0.2, 0.5), -0.6 + 0.3j, "stable focus"),
    "node": (games.saddle(2, 0.2, 0.5), -1.1 + np.sqrt(1.8**2 - 1) / 2, "stable node"),
    "slow focus": (games.saddle(0.1, 0.1, 1), -0.1 + 1j, "stable focus"),
    "leaves straight": (games.saddle(1, -3, 1), 1 + np.sqrt(3), "saddle"),
    "bilinear": (games.bilinear(0.7), 0.7j, "centre"),
    "dirac": (games.dirac(), 0.5j, "centre"),
    "dirac wasserstein": (games.GAMES["dirac_wasserstein"](), 1j, "centre"),
    "dirac r1": (games.dirac(penalty=penalties.r1(0.3)), -0.15 + 1j * np.sqrt(0.91) / 2, "stable focus"),
    "dirac strong r1": (games.dirac(penalty=penalties.r1(2.0)), -1 + np.sqrt(0.75), "stable node"),
    "dirac noise": (games.dirac(noise=1.0), -0.25 + 1j * np.sqrt(3 / 16), "stable focus"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_the_closed_forms(name):
    known, expected, kind = KNOWN[name]
    found = spectrum(known.game, KEY, at(known.solution), {})
    assert found.rightmost == pytest.approx(expected, abs=1e-6)
    assert found.frequency == pytest.approx(abs(np.imag(expected)), abs=1e-6)
    assert found.kind == kind
    assert found.rightmost_error < 1e-6
    assert found.products == 2
    largest = np.linalg.eigvals(known.jacobian)
    assert abs(found.largest) == pytest.approx(abs(largest).max(), abs=1e-6)


QUADRATIC = jax.jit(lambda matrix, start: arnoldi(lambda v: matrix @ v, start, 5).hessenberg)


@pytest.mark.slow
@given(seeds, st.booleans())
def test_of_quadratic_games(seed, zero_sum):
    with jax.enable_x64(True):
        known = games.random_quadratic(jax.random.key(seed), 3, 2, zero_sum=zero_sum)
        found = analyse(QUADRATIC(known.jacobian, np.random.default_rng(seed).normal(size=5)))
    expected = np.linalg.eigvals(known.jacobian)
    assert found.rightmost.real == pytest.approx(expected.real.max(), rel=1e-6, abs=1e-9)
    assert abs(found.largest) == pytest.approx(abs(expected).max(), rel=1e-6)
    assert found.kind == games.spectra.classify(expected, tolerance=1e-9).kind


@pytest.mark.parametrize("params", [Pair(0.7, -1.2), Pair(-0.4, 2.0)])
def test_away_from_the_equilibrium_where_the_field_is_curved(params):
    """The flow θ̇ = ψσ(ψθ), ψ̇ = −θσ(ψθ) − γψ, differentiated by hand."""
    theta, psi = params
    share = 1 / (1 + np.exp(-theta * psi))
    bend = share * (1 - share)
    matrix = [
        [psi**2 * bend, share + theta * psi * bend],
        [-share - theta * psi * bend, -(theta**2) * bend - 0.3],
    ]
    found = spectrum(KNOWN["dirac r1"][0].game, KEY, at(params), {})
    expected = np.linalg.eigvals(matrix)
    assert found.rightmost.real == pytest.approx(expected.real.max(), abs=1e-6)
    assert abs(found.largest) == pytest.approx(abs(expected).max(), abs=1e-6)


def many(values, pairs):
    """A quadratic game of two times 30 coordinates: stable but for one value a player, and rotations between."""
    size = len(values)
    return games.quadratic(np.diag(values), np.diag(values[::-1]), pairs * np.eye(size))


def test_it_stops_as_soon_as_the_rightmost_has_settled():
    known = many(np.concatenate([[-2.0], np.linspace(3, 4, 39)]), 0.1)
    expected = np.linalg.eigvals(known.jacobian).real.max()
    found = rightmost(known.game, KEY, at(known.solution), {})
    assert found.rightmost == pytest.approx(expected, rel=1e-5)
    assert (found.products, found.kind) == (20, "saddle")
    assert found.rightmost_error <= 1e-6


@pytest.mark.slow
def test_it_goes_on_where_the_rightmost_is_hidden_and_says_where_it_had_to_stop():
    known = many(np.geomspace(1e-2, 10, 40), 0.0)
    with jax.enable_x64(True):
        here = at(known.solution, jnp.float64)
        cut = rightmost(known.game, KEY, here, {}, limit=15)
        found = rightmost(known.game, KEY, here, {})
        rough = rightmost(known.game, KEY, here, {}, tolerance=2.0)
    assert rough.products == 20
    assert cut.products == 15
    assert cut.rightmost_error > 1e-3
    assert 20 < found.products <= 80
    assert found.rightmost == pytest.approx(-1e-2, rel=1e-6)
    assert found.kind == "stable node"


def test_what_is_not_finite_is_unknown():
    for find in (spectrum, rightmost):
        found = find(KNOWN["dirac"][0].game, KEY, at(Pair(jnp.nan, 1.0)), {})
        assert found.kind == "unknown"
        assert np.isnan(found.rightmost) and np.isnan(found.rightmost_error)


def test_numbers_that_mean_nothing_are_refused():
    known = KNOWN["focus"][0]
    here = at(known.solution)
    with pytest.raises(ValueError, match="products=0"):
        spectrum(known.game, KEY, here, {}, products=0)
    with pytest.raises(ValueError, match="limit=0"):
        rightmost(known.game, KEY, here, {}, limit=0)
    for tolerance in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="is never met"):
            rightmost(known.game, KEY, here, {}, tolerance=tolerance)


# Networks


def ring_gan(steps, penalty):
    widths = (20, 20)
    networks = Pair(mlp.generator(2, (2,), widths=widths), mlp.discriminator((2,), widths=widths, dropout=0.0))
    game = adversarial(networks, latents.normal(2), objectives.non_saturating(), penalty)
    made = Pair(*(jax.jit(network.init)(jax.random.key(seed)) for seed, network in enumerate(networks)))
    params, stats = (Pair(*half) for half in zip(*made, strict=True))
    rule = rules.simultaneous(Pair(optax.adam(1e-3, b1=0.5), optax.adam(1e-3, b1=0.5)))

    def step(point, key):
        x = mixtures.sample(mixtures.ring(), key, (1, 64))
        return rule.step(game, key, point, {"x": x})[0], None

    point = Point(params, stats, rule.init(params))
    if steps:
        keys = jax.random.split(jax.random.key(2), steps)
        point, _ = jax.jit(lambda point: jax.lax.scan(step, point, keys))(point)
    return game, point, {"x": mixtures.sample(mixtures.ring(), jax.random.key(3), (64,))}


def dense(game, point, batch):
    here, unravel = ravel_pytree(point.params)

    def flow(w):
        return -ravel_pytree(slopes(game, KEY, point._replace(params=unravel(w)), batch))[0]

    return np.asarray(jax.jit(jax.jacfwd(flow))(here), np.float64)


@pytest.mark.slow
def test_of_a_gan_with_a_thousand_parameters():
    game, point, batch = ring_gan(0, None)
    expected = np.linalg.eigvals(dense(game, point, batch))
    assert len(expected) == 1023
    found = rightmost(game, KEY, point, batch)
    assert found.rightmost.real == pytest.approx(expected.real.max(), rel=1e-4)
    assert found.products < 200


@pytest.mark.full
@pytest.mark.parametrize("precision", [32, 64])
def test_of_a_trained_gan_with_a_penalty(precision):
    game, point, batch = ring_gan(1000, penalties.r1(0.1))
    with jax.enable_x64(precision == 64):
        point, batch = jax.tree.map(lambda leaf: np.asarray(leaf, f"float{precision}"), (point, batch))
        expected = np.linalg.eigvals(dense(game, point._replace(rule=None), batch))
        found = rightmost(game, KEY, point, batch)
        few = spectrum(game, KEY, point, batch)
    assert found.rightmost.real == pytest.approx(expected.real.max(), rel=1e-5 if precision == 32 else 1e-8)
    assert abs(found.largest) == pytest.approx(abs(expected).max(), rel=1e-5)
    # Of ten products: what they claim to know they know.
    for value, error in ((few.rightmost, few.rightmost_error), (few.largest, few.largest_error)):
        assert error > 0.1 or abs(expected - value).min() < 2 * error * abs(value)


@pytest.mark.slow
def test_through_convolutions_however_they_are_computed():
    def hessenberg(name):
        made = LOWERINGS[name]()

        def generate(params, stats, z, *, label, train, key):
            return jnp.tanh(made.up(z.reshape(-1, 2, 2, 1), params)), stats

        def judge(params, stats, x, *, label, train, key):
            return jnp.tanh(made.down(x, params)).sum((1, 2, 3)), stats

        game = adversarial(Pair(Network(None, generate), Network(None, judge)), latents.normal(4), MINIMAX)
        params = Pair(jax.random.normal(KEY, (4, 4, 1, 2)), jax.random.normal(jax.random.key(1), (4, 4, 2, 1)))
        batch = {"image": jnp.ones((3, 4, 4, 2))}
        return jax.jit(partial(probe, game, products=3))(KEY, Point(params, Pair({}, {}), None), batch)

    expected = np.asarray(hessenberg("xla"))
    np.testing.assert_allclose(hessenberg("auto"), expected, atol=1e-4 * abs(expected).max())


def test_stats_and_key_are_held_and_a_game_is_compiled_once():
    traces = []

    def loss(player):
        def value(params, stats, key, batch):
            traces.append(player)
            mine, other = params if player == "generator" else params[::-1]
            noise = jax.random.normal(key, mine.shape)
            # Were the new stats, or another key, used in between, then products would not be of one matrix.
            value = (stats.generator * mine**2 * noise).sum() + (mine * other).sum() * batch["x"].mean()
            return value, (Pair(params.generator.sum(), stats.discriminator), {})

        return value

    game = Game(Pair(*map(loss, Pair._fields)))
    here = Point(Pair(jnp.arange(3.0), jnp.ones(3)), Pair(jnp.float32(2), jnp.float32(0)), None)
    found = [spectrum(game, KEY, here, {"x": jnp.ones(4)}) for _ in range(2)]
    count = len(traces)
    assert found[0] == found[1]
    other = spectrum(game, jax.random.key(1), here, {"x": jnp.ones(4)})
    assert len(traces) == count
    for key, mine in ((KEY, found[0]), (jax.random.key(1), other)):
        first, second = (np.asarray(jax.random.normal(jax.random.fold_in(key, i), (3,)), float) for i in (0, 1))
        matrix = -np.block([[np.diag(4 * first), np.eye(3)], [np.eye(3), np.diag(4 * second)]])
        assert mine.rightmost.real == pytest.approx(np.linalg.eigvals(matrix).real.max(), rel=1e-4)
