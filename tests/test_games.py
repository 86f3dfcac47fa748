"""Games with known answers: their closed forms against derivatives, integrals, trajectories and published numbers."""

from functools import partial, wraps

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from gan_jax import games, objectives, penalties
from gan_jax.base import Pair
from gan_jax.games import GAMES, spectra
from gan_jax.objectives import OBJECTIVES
from gan_jax.rules import PLAIN_RULES, RULES, plain

numbers = st.floats(-2, 2, width=32, allow_subnormal=False)
places = st.floats(-1.5, 1.5, width=32, allow_subnormal=False)
seeds = st.integers(0, 2**31 - 1)

WASSERSTEIN_GP = partial(games.dirac, objectives.wasserstein())
# Where the objective's undecided critic stands.
LEVELS = {"least_squares": 0.5}


def in_float64(test):
    @wraps(test)
    def double(*args, **kwargs):
        with jax.enable_x64(True):
            return test(*args, **kwargs)

    return double


def dirac(name, *args, **kwargs):
    return games.dirac(OBJECTIVES[name](), *args, level=LEVELS.get(name, 0.0), **kwargs)


def flat_velocity(game, solution):
    """The flow as a function of one vector, generator first."""
    _, unravel = ravel_pytree(jax.tree.map(jnp.asarray, solution))
    return lambda w: ravel_pytree(games.velocity(game, unravel(w)))[0]


def measured(known):
    """The Jacobian of the flow, and each player's Hessian, by automatic differentiation at the solution."""
    solution, unravel = ravel_pytree(jax.tree.map(jnp.asarray, known.solution))

    def loss(w, player):
        terms = (getattr(known.game.losses, player), getattr(known.game.penalties, player))
        return sum(term(unravel(w), Pair({}, {}), jax.random.key(1), {})[0] for term in terms if term)

    @jax.jit
    def derivatives(w):
        return jax.jacobian(flat_velocity(known.game, known.solution))(w), *(
            jax.hessian(loss)(w, player) for player in Pair._fields
        )

    return derivatives(solution)


def pair(theta, psi):
    return Pair(jnp.asarray(theta, float), jnp.asarray(psi, float))


def eigenvalues(matrix):
    return np.sort_complex(np.linalg.eigvals(matrix))


def characteristic(matrix, size):
    """The characteristic polynomial but for zeros, which a rule's memory may add: coefficients up to a size."""
    return np.pad(np.poly(matrix), (0, size - len(matrix)))


# Quadratic games


@given(*[numbers] * 5)
@in_float64
def test_the_saddle_is_its_value_differentiated(alpha, beta, gamma, theta, phi):
    # θ̇ = −∂J/∂θ and φ̇ = +∂J/∂φ of J = γφθ − (α/2)φ² + (β/2)θ².
    expected = [-(gamma * phi + beta * theta), gamma * theta - alpha * phi]
    velocity = compiled_saddle(*map(jnp.float64, (alpha, beta, gamma, theta, phi)))
    np.testing.assert_allclose(velocity, expected, atol=1e-12)
    np.testing.assert_array_equal(games.saddle(alpha, beta, gamma).jacobian, [[-beta, -gamma], [gamma, -alpha]])


@jax.jit
def compiled_saddle(alpha, beta, gamma, theta, phi):
    return jnp.stack(games.velocity(games.saddle(alpha, beta, gamma).game, Pair(theta, phi)))


@pytest.mark.parametrize(
    ("numbers", "expected", "kind"),
    [
        ((1, 0.2, 0.5), (-0.6 - 0.3j, -0.6 + 0.3j), "stable focus"),
        ((2, 0.2, 0.5), (-1.848331, -0.351669), "stable node"),
        ((0.1, 0.1, 1), (-0.1 - 1j, -0.1 + 1j), "stable focus"),
        ((0, 0, 1), (-1j, 1j), "centre"),
        ((1, -3, 1), (0, 0), None),  # det = γ² + αβ = −2: its two roots are of either sign
    ],
)
def test_the_published_saddles(numbers, expected, kind):
    found = eigenvalues(games.saddle(*numbers).jacobian)
    if kind is None:
        assert spectra.classify(found).kind == "saddle"
        return
    np.testing.assert_allclose(found, expected, atol=1e-6)
    motion = spectra.classify(found)
    assert motion.kind == kind
    assert motion.decay == pytest.approx(-max(np.real(expected)), abs=1e-6)
    assert motion.frequency == pytest.approx(max(np.imag(expected)), abs=1e-6)


@given(st.floats(0, 2), st.floats(0, 2), st.floats(0.1, 2))
def test_overdamped_from_twice_the_coupling_on(alpha, beta, gamma):
    gap = abs(abs(alpha - beta) - 2 * gamma)
    motion = spectra.classify(np.linalg.eigvals(games.saddle(alpha, beta, gamma).jacobian))
    if alpha + beta < 1e-3 or gap < 1e-3:  # a centre, or the boundary, where rounding decides
        return
    assert motion.kind == ("stable node" if abs(alpha - beta) > 2 * gamma else "stable focus")
    assert motion.frequency == pytest.approx(np.sqrt(max(0.0, 4 * gamma**2 - (alpha - beta) ** 2)) / 2, abs=1e-6)
    root = np.sqrt(complex((alpha - beta) ** 2 - 4 * gamma**2)) / 2
    assert motion.decay == pytest.approx((alpha + beta) / 2 - root.real, abs=1e-6)


@given(st.floats(0.1, 2), st.floats(0.1, 2), st.floats(0.01, 0.1))
def test_critical_damping_is_a_node(beta, gamma, rate):
    # The double eigenvalue of a defective matrix is known to half its digits: rounding makes it turn a little.
    known = games.saddle(beta + 2 * gamma, beta, gamma)
    step = spectra.STEPS["simultaneous"](known, Pair(rate, rate))
    for values in (np.linalg.eigvals(known.jacobian), spectra.exponents(np.linalg.eigvals(step), rate)):
        assert spectra.classify(values, tolerance=1e-4).kind == "stable node"
    assert spectra.classify(np.linalg.eigvals(known.jacobian)).kind == "stable node"


@pytest.mark.parametrize("zero_sum", [True, False])
@pytest.mark.parametrize(("m", "n"), [(3, 2), (1, 4)])
@in_float64
def test_the_flow_of_any_quadratic_game_is_the_rows_of_its_hessians(m, n, zero_sum):
    known = games.random_quadratic(jax.random.key(m), m, n, zero_sum=zero_sum)
    flow, *hessians = measured(known)
    np.testing.assert_allclose(flow, known.jacobian, atol=1e-12)
    np.testing.assert_allclose(hessians, known.hessians, atol=1e-12)


@in_float64
def test_blocks_are_generator_first_and_count_from_the_solution():
    p, q, k, r = [[1.0, 2.0], [0.0, 3.0]], [[5.0]], [[7.0], [11.0]], [[13.0, 17.0]]
    solution = Pair(np.array([0.5, -1.0]), np.array(2.0))
    known = games.quadratic(p, q, k, r, solution=solution)
    # Of P only the symmetric part has a gradient.
    np.testing.assert_array_equal(known.jacobian, [[-1, -1, -7], [-1, -3, -11], [-13, -17, -5]])
    assert known.sizes == Pair(2, 1)
    velocity = jax.jit(lambda params: games.velocity(known.game, params))
    still = velocity(jax.tree.map(jnp.asarray, solution))
    assert not any(np.any(mine) for mine in still)
    moved = velocity(pair([1.5, -1.0], 1.0))
    np.testing.assert_allclose(moved.generator, [-1 + 7, -1 + 11])
    np.testing.assert_allclose(moved.discriminator, -13 + 5)


@given(seeds)
def test_a_zero_sum_game_with_curvature_is_stable_and_sums_to_zero(seed):
    known = games.random_quadratic(jax.random.key(seed), 3, 2)
    assert np.linalg.eigvals(known.jacobian).real.max() < 1e-12
    np.testing.assert_array_equal(known.hessians.generator, -known.hessians.discriminator)


@in_float64
def test_zero_sum_losses_are_opposite():
    losses = games.saddle(0.3, 0.7, 1.1).game.losses
    (g, (_, metrics)), (d, (_, more)) = (loss(pair(0.4, -1.2), Pair({}, {}), None, {}) for loss in losses)
    assert g == pytest.approx(-1.1 * 0.48 - 0.15 * 1.44 + 0.35 * 0.16) == pytest.approx(-d)
    assert metrics == {"generator/loss": g}
    assert more == {"discriminator/loss": d}


def test_a_bilinear_game_has_the_singular_values_of_its_matrix_as_frequencies():
    gamma = np.arange(6.0).reshape(2, 3) - 1.0
    known = games.bilinear(gamma)
    assert known.sizes == Pair(2, 3)
    values = np.linalg.svd(gamma)[1]
    expected = np.sort_complex(np.concatenate([1j * values, -1j * values, [0]]))
    found = np.linalg.eigvals(known.jacobian)
    np.testing.assert_allclose(np.sort(found.imag), np.sort(expected.imag), atol=1e-12)
    np.testing.assert_allclose(found.real, 0, atol=1e-12)
    assert spectra.classify(found) == ("centre", pytest.approx(0, abs=1e-9), pytest.approx(values.max()))


# The Dirac-GAN


def roots(damping, slope=0.5):
    """The eigenvalues of [[0, s], [−s, −d]] in the order of `np.sort_complex`."""
    root = np.sqrt(complex(damping**2 / 4 - slope**2))
    return np.sort_complex([-damping / 2 - root, -damping / 2 + root])


# −g_f = ℓ_f at the undecided critic, and ℓ_rr + ℓ_ff there: differentiated by hand. An objective without a row is
# examined by `check_objective` alone.
SLOPES = {
    "minimax": (0.5, 0.5),
    "non_saturating": (0.5, 0.5),
    "wasserstein": (1.0, 0.0),
    "hinge": (1.0, 0.0),
    "least_squares": (0.5, 2.0),
    "relativistic": (0.5, 0.5),
}


@pytest.mark.parametrize(
    ("penalty", "curvature", "noise"),
    [(None, 0.0, 0.0), (penalties.total(penalties.r1(0.3), penalties.r2(1.7)), 2.0, 0.8)],
)
@pytest.mark.parametrize("name", SLOPES)
@in_float64
def test_the_flow_of_each_dirac_gan(name, penalty, curvature, noise):
    slope, curve = SLOPES[name]
    known = dirac(name, penalty, noise=noise)
    expected = [[0, slope], [-slope, -(noise**2) * curve - curvature]]
    flow, *hessians = measured(known)
    np.testing.assert_allclose(known.jacobian, expected, atol=1e-12)
    np.testing.assert_allclose(flow, expected, atol=1e-9)
    np.testing.assert_allclose(hessians, known.hessians, atol=1e-9)


# The flow's exponents at the solution.
DIRACS = {
    "minimax": (lambda: games.dirac(), (-0.5j, 0.5j)),
    "non_saturating": (lambda: games.dirac(objectives.non_saturating()), (-0.5j, 0.5j)),
    "wasserstein": (lambda: games.dirac(objectives.wasserstein()), (-1j, 1j)),
    "r1 .3": (lambda: games.dirac(penalty=penalties.r1(0.3)), (-0.15 - 0.476970j, -0.15 + 0.476970j)),
    "r2 .3": (lambda: games.dirac(penalty=penalties.r2(0.3)), (-0.15 - 0.476970j, -0.15 + 0.476970j)),
    "r1 1": (lambda: games.dirac(penalty=penalties.r1(1.0)), (-0.5, -0.5)),
    "r1 2": (lambda: games.dirac(penalty=penalties.r1(2.0)), (-1.866025, -0.133975)),
    "noise .5": (lambda: games.dirac(noise=0.5), (-0.0625 - 0.496078j, -0.0625 + 0.496078j)),
    "noise 1": (lambda: games.dirac(noise=1.0), (-0.25 - 0.433013j, -0.25 + 0.433013j)),
    "noise 2": (lambda: games.dirac(noise=2.0), (-1.866025, -0.133975)),
    "least_squares": (lambda: games.dirac(objectives.least_squares()), (0, 0)),
}


@pytest.mark.parametrize(("make", "expected"), DIRACS.values(), ids=DIRACS)
@in_float64
def test_the_published_dirac_gans(make, expected):
    known, h = make(), 0.1
    np.testing.assert_allclose(eigenvalues(known.jacobian), expected, atol=1e-6)
    # And the step itself, differentiated: I + hA simultaneously.
    multipliers = eigenvalues(spectra.linearise(known, plain("simultaneous", Pair(h, h))))
    np.testing.assert_allclose(multipliers, 1 + h * np.array(expected), atol=1e-6)


@given(st.floats(0, 4), st.floats(0, 2))
def test_noise_damps_as_a_penalty_of_half_its_variance(weight, noise):
    known = compiled_dirac_flow(weight, noise)
    np.testing.assert_allclose(
        eigenvalues(known), roots(weight + noise**2 / 2), atol=1e-3
    )  # √ of float32 near critical


@jax.jit
def compiled_dirac_flow(weight, noise):
    known = games.dirac(penalty=penalties.r1(weight), noise=noise)
    assert known.hessians is None  # of traced numbers
    return jax.jacobian(flat_velocity(known.game, known.solution))(jnp.zeros(2))


@given(places, places)
@in_float64
def test_the_nonlinear_flow_without_noise(theta, psi):
    def sigma(x):
        return 1 / (1 + np.exp(-x))

    s = sigma(psi * theta)
    by_hand = {
        "minimax": (psi * s, -theta * s),
        "non_saturating": (psi * (1 - s), -theta * s),
        "wasserstein": (psi, -theta),
        "hinge": (psi, -theta if psi * theta > -1 else 0.0),
        "least_squares": (-psi * (psi * theta - 0.5), -theta * (psi * theta + 0.5)),
        "relativistic": (psi * (1 - s), -theta * s),
    }
    for name, flow in compiled_flows(jnp.array([theta, psi], float)).items():
        np.testing.assert_allclose(flow, by_hand[name], atol=1e-12, err_msg=name)


@jax.jit
def compiled_flows(w):
    return {name: flat_velocity(*dirac(name)[:2])(w) for name in SLOPES}


# How near a quadrature of polynomials comes: a kink is beyond them.
QUADRATURE = dict.fromkeys(SLOPES, 1e-8) | {"hinge": 3e-2}


@pytest.mark.parametrize("name", QUADRATURE)
@in_float64
def test_noise_is_an_expectation_over_both_sides(name):
    theta, psi, sigma, level = 0.7, -0.6, 0.9, LEVELS.get(name, 0.0)
    grid = np.linspace(-9, 9, 601)
    density = np.exp(-(grid**2) / 2)
    density = np.outer(density, density).ravel() / density.sum() ** 2
    real, fake = (axis.ravel() for axis in np.meshgrid(sigma * grid, theta + sigma * grid, indexing="ij"))
    known = dirac(name, noise=sigma)
    for player, loss in zip(Pair._fields, known.game.losses, strict=True):
        of_logits = getattr(OBJECTIVES[name](), player)
        expected = np.sum(density * np.asarray(of_logits(level + psi * real, level + psi * fake)))
        found, (_, metrics) = loss(pair(theta, psi), Pair({}, {}), None, {})
        assert found == pytest.approx(expected, abs=QUADRATURE[name])
        assert metrics == {f"{player}/loss": found}


@pytest.mark.slow
def test_penalties_are_apart_and_see_the_noise():
    seen = []

    def penalty(key, critic, real, fake):
        seen.append((real, fake))
        return critic(real) ** 2 + 3 * critic(fake) ** 2

    known = games.dirac(penalty=penalty, noise=2.0, nodes=2)
    loss = jax.jit(known.game.penalties.discriminator)
    value, (_, metrics) = loss(pair(0.5, 3.0), Pair({}, {}), jax.random.key(0), {})
    # E(ψx)² = ψ²σ² on data and ψ²(θ² + σ²) on fakes; two nodes hold a variance.
    assert value == pytest.approx(9 * 4 + 3 * 9 * 4.25, rel=1e-5)
    assert metrics == {"discriminator/penalty": value}
    assert seen[-1][0].shape == seen[-1][1].shape == (4, 1)
    assert known.game.penalties.generator is None
    # Its curvature at the solution, 2σ² + 6σ², beside minimax's ½σ².
    assert known.jacobian[1, 1] == pytest.approx(-8 * 4 - 0.5 * 4)


@pytest.mark.parametrize("weight", [0.3, 1.0, 10.0])
def test_a_penalty_with_a_kink_has_no_flow_to_linearise(weight):
    known = WASSERSTEIN_GP(penalties.wgan_gp(weight))
    assert known.jacobian is None
    with pytest.raises(ValueError, match="no smooth equilibrium"):
        spectra.STEPS["simultaneous"](known, Pair(0.1, 0.1))
    assert WASSERSTEIN_GP(penalties.wgan_gp(0.0)).jacobian is not None
    for side in (-1, 1):
        velocity = jax.jit(games.velocity, static_argnums=0)(known.game, pair(0.0, side * 1e-4))
        assert velocity.discriminator == pytest.approx(side * 2 * weight, rel=1e-3)


# The catalogue


@pytest.mark.parametrize("name", GAMES)
@in_float64
def test_every_game_stands_still_at_its_solution_and_its_matrix_is_its_flow(name):
    known = GAMES[name]()
    w = ravel_pytree(jax.tree.map(jnp.asarray, known.solution))[0]
    assert sum(known.sizes) == len(w)
    np.testing.assert_allclose(jax.jit(flat_velocity(known.game, known.solution))(w), 0, atol=1e-15)
    if known.jacobian is not None:
        np.testing.assert_allclose(measured(known)[0], known.jacobian, atol=1e-9)
        assert known.jacobian.dtype == np.float64


@pytest.mark.parametrize("name", GAMES)
def test_games_are_played_in_the_precision_of_their_parameters(name):
    known = GAMES[name]()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), known.solution)
    with jax.enable_x64(True):
        moved = jax.eval_shape(lambda: games.velocity(known.game, params))
        lost = jax.eval_shape(lambda: [loss(params, Pair({}, {}), None, {})[0] for loss in known.game.losses])
        assert {leaf.dtype for leaf in jax.tree.leaves((moved, lost))} == {jnp.dtype("float32")}


def test_games_of_traced_numbers_can_be_learned():
    # ∂ψ̇/∂γ of R1 is −ψ; ∂θ̇/∂γ of the saddle is −φ.
    def damping(weight):
        known = games.dirac(penalty=penalties.r1(weight))
        return games.velocity(known.game, pair(0.0, 3.0)).discriminator

    def pull(gamma):
        known = games.bilinear(gamma)
        assert known.hessians is None
        return games.velocity(known.game, pair(0.0, 3.0)).generator

    assert jax.jit(jax.grad(damping))(0.5) == pytest.approx(-3.0)
    assert jax.jit(jax.grad(pull))(0.5) == pytest.approx(-3.0)


# Steps as matrices

RATES = Pair(0.11, 0.23)


def general_sum():
    """A game without symmetries that could hide an error; `testing.check_rule` asks others."""
    return games.random_quadratic(jax.random.key(3), 3, 2, zero_sum=False)


def test_every_rule_has_its_matrix():
    assert set(spectra.STEPS) >= {*RULES, *PLAIN_RULES}
    assert set(spectra.PERIODS) <= set(spectra.STEPS)


@pytest.mark.parametrize("name", [*RULES, *PLAIN_RULES])
@in_float64
def test_the_measured_step_of_each_rule_is_its_matrix(name):
    known = general_sum()
    expected = spectra.STEPS[name](known, RATES)
    found = spectra.linearise(known, plain(name, RATES), steps=spectra.PERIODS.get(name, 1))
    size = max(len(found), len(expected))
    np.testing.assert_allclose(characteristic(found, size), characteristic(expected, size), atol=1e-9)
    if len(found) == len(known.jacobian):  # without memory the matrices themselves agree, not their spectra alone
        np.testing.assert_allclose(found, expected, atol=1e-9)


OPTIONS = [
    ("alternating", {"d_steps": 3}, 1),
    ("lookahead_minmax", {"every": 3, "weight": 0.3, "d_steps": 2}, 3),
    ("negative_momentum", {"momentum": -0.2, "d_steps": 2}, 1),
    ("consensus", {"weight": 0.4}, 1),
    ("symplectic", {"weight": 0.4}, 1),
    ("unrolled", {"unroll": 2}, 1),
]


@pytest.mark.parametrize(("name", "options", "steps"), [row for row in OPTIONS if row[0] in {*RULES, *PLAIN_RULES}])
@in_float64
def test_the_options_of_a_rule_are_those_of_its_matrix(name, options, steps):
    known = general_sum()
    expected = spectra.STEPS[name](known, RATES, **options)
    found = spectra.linearise(known, plain(name, RATES, **options), steps=steps)
    size = max(len(found), len(expected))
    np.testing.assert_allclose(characteristic(found, size), characteristic(expected, size), atol=1e-9)


@in_float64
def test_momentum_is_measured_with_its_memory_and_counters_are_held():
    known, h, beta = general_sum(), 0.1, 0.6
    # A schedule has a counter, whole and no coordinate; constant, it changes nothing.
    optimiser = optax.sgd(optax.constant_schedule(h), momentum=beta)
    found = spectra.linearise(known, RULES["simultaneous"](Pair(optimiser, optimiser)))
    # In (w, m): m⁺ = βm − Aw and w⁺ = w − hm⁺.
    one, a = np.eye(5), known.jacobian
    np.testing.assert_allclose(found, np.block([[one + h * a, -h * beta * one], [-a, beta * one]]), atol=1e-12)


def test_a_step_is_measured_in_the_precision_that_is_on():
    known, rule = games.saddle(), plain("simultaneous", Pair(0.1, 0.1))
    np.testing.assert_allclose(
        spectra.linearise(known, rule), spectra.STEPS["simultaneous"](known, Pair(0.1, 0.1)), atol=1e-6
    )


# The modulus of the leading eigenvalue on the bilinear game of γ = 1, by rate.
BILINEAR = {
    "simultaneous": (1.001249, 1.004988, 1.019804, 1.118034),
    "alternating": (1, 1, 1, 1),
    "extragradient": (0.998752, 0.995038, 0.980612, 0.901388),
    "optimistic": (0.998746, 0.994936, 0.978906, 0.707107),
}


@pytest.mark.parametrize("name", BILINEAR)
@in_float64
def test_the_published_bilinear_table(name):
    for s, modulus in zip((0.05, 0.1, 0.2, 0.5), BILINEAR[name], strict=True):
        measured = spectra.linearise(games.bilinear(), plain(name, Pair(s, s)))
        for matrix in (measured, spectra.STEPS[name](games.bilinear(), Pair(s, s))):
            # The optimistic step of rate ½ is defective: a double eigenvalue is known to half the digits.
            assert abs(np.linalg.eigvals(matrix)).max() == pytest.approx(modulus, abs=1e-6)


def test_consensus_on_the_bilinear_game():
    for s, c in ((0.1, 0.5), (0.3, 1.0)):
        matrix = spectra.STEPS["consensus"](games.bilinear(), Pair(s, s), weight=c)
        assert abs(np.linalg.eigvals(matrix)) == pytest.approx(np.full(2, np.sqrt((1 - s * c) ** 2 + s**2)))


@given(seeds, st.floats(0, 1), st.floats(0, 1), st.sampled_from([(1, 1), (3, 2)]), st.integers(1, 3))
def test_alternating_preserves_volume_on_bilinear_games(seed, h, k, shape, d_steps):
    known = games.bilinear(np.random.default_rng(seed).normal(size=shape))
    matrix = spectra.STEPS["alternating"](known, Pair(h, k), d_steps=d_steps)
    assert np.linalg.det(matrix) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["simultaneous", "extragradient", "optimistic", "consensus", "symplectic"])
def test_a_small_step_is_the_flow(name):
    known, h = general_sum(), 1e-5
    options = {"weight": 1e-5} if name in ("consensus", "symplectic") else {}
    steps = np.linalg.eigvals(spectra.STEPS[name](known, Pair(h, h), **options))
    found = np.sort_complex(spectra.exponents(steps[abs(steps) > 0.5], h))
    np.testing.assert_allclose(found, eigenvalues(known.jacobian), atol=2e-3)


# What spectra mean


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-1, -3], ("stable node", 1, 0)),
        ([-1, -1], ("stable node", 1, 0)),
        ([-1 + 2j, -1 - 2j], ("stable focus", 1, 2)),
        ([2j, -2j], ("centre", 0, 2)),
        ([1, 3], ("unstable node", -3, 0)),
        ([1 + 2j, 1 - 2j], ("unstable focus", -1, 2)),
        ([1, -1], ("saddle", -1, 0)),
        ([0, 0], ("degenerate", 0, 0)),
        ([0, -1], ("degenerate", 0, 0)),
        ([-1, -5 + 9j, -5 - 9j], ("stable node", 1, 0)),  # what is left in the end
        ([-2, 1j, -1j, 0], ("centre", 0, 1)),
        ([-np.inf, -1], ("stable node", 1, 0)),
        ([-np.inf, -np.inf], ("stable node", np.inf, 0)),
    ],
)
def test_a_spectrum_says_what_moves_how(values, expected):
    assert spectra.classify(values) == expected


@given(numbers, numbers, st.floats(0.01, 1))
def test_exponents_are_the_flow_of_the_same_steps(x, y, rate):
    steps = np.array([complex(x, y), complex(x, -y)])
    logs = spectra.exponents(steps, rate)
    # Taken apart, for e^−∞ of a zero is no product of complex numbers.
    np.testing.assert_allclose(np.exp(rate * logs.real) * np.exp(1j * rate * logs.imag), steps, atol=1e-12)
    assert (abs(logs.imag) <= np.pi / rate + 1e-9).all()


def test_a_mode_that_is_gone_at_once_has_no_exponent():
    logs = spectra.exponents([0.0, 0.5, -0.5], 0.5)
    assert logs[0].real == -np.inf
    assert logs[1:] == pytest.approx([2 * np.log(0.5), 2 * (np.log(0.5) + 1j * np.pi)])


# Trajectories


def distances(known, name, rate=0.05, steps=4000, at=(1.0, 1.0), **options):
    first = pair(*at)
    rule = plain(name, Pair(rate, rate), **options)
    path = np.asarray(jax.jit(lambda first: games.play(known, rule, first, steps))(first))
    assert path.shape == (steps + 1, 2)
    np.testing.assert_allclose(path[0], at, rtol=1e-6)
    return np.linalg.norm(path, axis=1)


@pytest.mark.parametrize("name", ["dirac", "dirac_wasserstein", "bilinear"])
def test_without_a_penalty_simultaneous_leaves_and_alternating_circles(name):
    known = GAMES[name]()
    away = distances(known, "simultaneous")
    assert away[-1] > 1.9 * away[0]
    around = distances(known, "alternating")
    assert 0.9 * around[0] < around.min() < around.max() < 1.05 * around[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["simultaneous", "alternating"])
@pytest.mark.parametrize(("make", "exponents"), DIRACS.values(), ids=DIRACS)
def test_each_published_dirac_gan_arrives_or_not_as_its_exponents_say(make, exponents, name):
    path = distances(make(), name)
    if max(np.real(exponents)) < 0:
        assert path[-1] < 1e-4
    else:
        assert path.min() > 0.1


@pytest.mark.parametrize(
    "make",
    [
        lambda: games.dirac(objectives.wasserstein(), penalties.r2(0.5)),
        lambda: dirac("least_squares", noise=0.5),
        lambda: games.saddle(0.1, 0.1, 1.0),
    ],
)
def test_with_damping_both_arrive(make):
    known = make()
    for name in ("simultaneous", "alternating"):
        assert distances(known, name)[-1] < 1e-4


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_wgan_gp_rests_on_a_wrong_point_if_it_is_strong(weight):
    known = WASSERSTEIN_GP(penalties.wgan_gp(weight))
    assert distances(known, "alternating")[-1] == pytest.approx(2 * weight, rel=1e-3)


@pytest.mark.parametrize("weight", [0.1, 0.3, 0.7])
@pytest.mark.parametrize("start", [0.1, 3.0])
def test_wgan_gp_circles_if_it_is_weak(weight, start):
    known, rule = WASSERSTEIN_GP(penalties.wgan_gp(weight)), plain("alternating", Pair(0.005, 0.005))
    first = pair(start, start)
    path = np.asarray(jax.jit(lambda first: games.play(known, rule, first, 20000))(first))
    amplitude = 2 * weight / np.tanh(np.pi * weight / (2 * np.sqrt(1 - weight**2)))
    assert abs(path[-4000:, 0]).max() == pytest.approx(amplitude, rel=0.01)
    assert np.linalg.norm(path, axis=1).min() > 0.1  # it never so much as comes near


def test_noise_does_nothing_to_first_order_where_the_objective_is_straight():
    away = distances(games.dirac(objectives.wasserstein(), noise=1.0), "simultaneous")
    assert away[-1] > 100 * away[0]


def test_least_squares_at_the_level_of_fakes_rests_anywhere():
    # ψ̇ = −ψθ²: the critic dies, and the generator stays where it was.
    ends = [distances(games.dirac(objectives.least_squares()), "alternating", at=(x, 0.1))[-1] for x in (1.0, 2.0)]
    assert ends == pytest.approx([1.0, 2.0], abs=0.2)


@pytest.mark.parametrize("name", [*RULES, *PLAIN_RULES])
def test_trajectories_decay_as_the_matrix_says(name):
    known, rate, steps = games.saddle(0.3, 0.1, 1.0), 0.1, spectra.PERIODS.get(name, 1)
    modulus = abs(np.linalg.eigvals(spectra.STEPS[name](known, Pair(rate, rate)))).max()
    path = distances(known, name, rate=rate, steps=100 * steps)
    # A spiral's radius wobbles: over many turns its logarithm falls by the spectrum's.
    assert np.log(path[-1] / path[0]) == pytest.approx(100 * np.log(modulus), abs=0.7)


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: games.saddle(float("nan"), 1, 1), "discriminator is not finite"),
        (lambda: games.bilinear(float("inf")), "coupling is not finite"),
        (lambda: games.bilinear(np.zeros(3)), "gamma of shape \\(3,\\)"),
        (lambda: games.quadratic(np.eye(2), np.eye(2), np.zeros((2, 3))), "discriminator of shape \\(2, 2\\)"),
        (lambda: games.quadratic(np.eye(2), np.eye(2), np.zeros(2)), "coupling of shape \\(2,\\)"),
        (lambda: games.quadratic([[1]], [[1]], [[1]], [[1, 2]]), "response of shape \\(1, 2\\)"),
        (lambda: games.quadratic([[1]], [[1]], [[1]], solution=Pair(np.zeros(2), np.zeros(1))), "needs 1 and 1"),
        (lambda: games.random_quadratic(None, 0, 2), "generator_dim=0"),
        (lambda: games.random_quadratic(None, 2, -1), "discriminator_dim=-1"),
        (lambda: games.random_quadratic(curvature=-1.0), "curvature=-1.0"),
        (lambda: games.random_quadratic(coupling=float("inf")), "coupling=inf"),
        (lambda: games.dirac(noise=-0.1), "noise=-0.1"),
        (lambda: games.dirac(noise=float("nan")), "noise=nan"),
        (lambda: games.dirac(level=float("inf")), "level=inf"),
        (lambda: games.dirac(noise=1.0, nodes=1), "nodes=1"),
        (lambda: spectra.classify([]), "no motion"),
        (lambda: spectra.classify([float("nan")]), "no motion"),
        (lambda: spectra.classify([1.0], tolerance=0.0), "tolerance=0.0"),
        (lambda: spectra.exponents([1.0], 0.0), "rate=0.0"),
        (lambda: spectra.linearise(games.saddle(), plain("simultaneous", RATES), steps=0), "steps=0"),
    ],
)
def test_wrong_input_is_refused_with_its_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
