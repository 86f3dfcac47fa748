"""Laws and closed forms of the divergences; expected values are NumPy's and SciPy's, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from gan_jax.divergences import (
    DIVERGENCES,
    KERNELS,
    MultivariateNormal,
    Normal,
    divergence,
    energy_distance,
    energy_kernel,
    gaussian_kernel,
    kantorovich_rubinstein,
    lipschitz,
    maximum_mean_discrepancy,
    multivariate_kl,
    multivariate_squared_hellinger,
    objective,
    quadrature,
    rational_quadratic_kernel,
    variational,
    wasserstein_1d,
)
from gan_jax.objectives import minimax, non_saturating
from gan_jax.testing import check_objective, logits

LOG2 = np.log(2)
GENERATORS = {  # f and its slope, as the tables print them
    "kl": (lambda u: u * np.log(u), lambda u: 1 + np.log(u)),
    "reverse_kl": (lambda u: -np.log(u), lambda u: -1 / u),
    "pearson": (lambda u: (u - 1) ** 2, lambda u: 2 * (u - 1)),
    "neyman": (lambda u: (1 - u) ** 2 / u, lambda u: 1 - 1 / u**2),
    "squared_hellinger": (lambda u: (np.sqrt(u) - 1) ** 2, lambda u: 1 - 1 / np.sqrt(u)),
    "jensen_shannon": (
        lambda u: u * np.log(u) - (u + 1) * np.log((1 + u) / 2),
        lambda u: np.log(2 * u / (1 + u)),
    ),
    "gan": (lambda u: u * np.log(u) - (u + 1) * np.log(u + 1), lambda u: np.log(u / (1 + u))),
    "total_variation": (lambda u: abs(u - 1) / 2, lambda u: np.sign(u - 1) / 2),
}
ENDS = {"reverse_kl": 0, "neyman": 1, "squared_hellinger": 1, "jensen_shannon": LOG2, "gan": 0, "total_variation": 0.5}
AT_08 = {  # between N(0, 1) and N(.8, 1)
    "kl": 0.32,
    "reverse_kl": 0.32,
    "pearson": 0.896481,
    "neyman": 0.896481,
    "squared_hellinger": 0.153767,
    "jensen_shannon": 0.148356,
    "gan": 0.148356 - np.log(4),
    "total_variation": 0.310843,
}

every_divergence = pytest.mark.parametrize("name", DIVERGENCES)
# A divergence without rows in the tables is examined by the laws of all of them alone.
known_divergence = pytest.mark.parametrize("name", GENERATORS)
every_kernel = pytest.mark.parametrize("name", KERNELS)
seeds = st.integers(0, 2**32 - 1)
ratios = st.floats(1e-3, 1e3)
means = st.floats(-2, 2)
widths = st.floats(0.8, 1.2)  # χ² is finite


@known_divergence
@given(u=ratios)
def test_the_generators_are_those_of_the_table(name, u):
    with jax.enable_x64(True):
        np.testing.assert_allclose(DIVERGENCES[name]().f(jnp.asarray(u)), GENERATORS[name][0](u), rtol=1e-9, atol=1e-13)


@known_divergence
def test_the_generators_at_zero_are_their_limits(name):
    limits = {"reverse_kl": np.inf, "neyman": np.inf, "kl": 0, "gan": 0, "jensen_shannon": LOG2, "total_variation": 0.5}
    np.testing.assert_allclose(DIVERGENCES[name]().f(jnp.zeros(())), limits.get(name, 1), rtol=1e-6)


@known_divergence
@given(u=ratios, below=st.floats(0, 20))
def test_fenchel_young(name, u, below):
    """f(u) + f*(t) ≥ ut, with equality at t = f'(u)."""
    f, slope = GENERATORS[name]
    conjugate, t = DIVERGENCES[name]().conjugate, ENDS.get(name, 10) - below
    with jax.enable_x64(True):
        assert f(u) + conjugate(jnp.asarray(t)) >= u * t - 1e-9 * (1 + abs(u * t))
        tangent = slope(u)
        found = f(u) + conjugate(jnp.asarray(tangent))
    np.testing.assert_allclose(found, u * tangent, rtol=1e-7, atol=1e-7 * u)


@known_divergence
def test_the_conjugate_is_the_supremum_over_ratios(name):
    """Of ratios, which are never negative: below −2 Pearson's conjugate is −f(0), and not the paper's parabola."""
    u = np.geomspace(1e-6, 1e6, 200_001)
    t = ENDS.get(name, 5.0) - np.linspace(0.05, 10, 40)
    expected = np.array([np.max(u * each - GENERATORS[name][0](u)) for each in t])
    np.testing.assert_allclose(DIVERGENCES[name]().conjugate(jnp.asarray(t)), expected, rtol=1e-4, atol=1e-4)


@known_divergence
def test_the_generator_is_the_conjugate_of_its_conjugate(name):
    u = np.geomspace(0.05, 20, 40)
    t = ENDS[name] - np.geomspace(1e-9, 1e3, 400_001) if name in ENDS else np.linspace(-50, 50, 400_001)
    with jax.enable_x64(True):
        conjugate = np.asarray(DIVERGENCES[name]().conjugate(jnp.asarray(t)))
    found = [np.max(each * t - conjugate) for each in u]
    np.testing.assert_allclose(found, GENERATORS[name][0](u), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "end"), ENDS.items())
def test_the_conjugate_is_infinite_outside_its_domain(name, end):
    conjugate = DIVERGENCES[name]().conjugate
    assert conjugate(jnp.float32(end + 0.1)) == np.inf
    assert jax.grad(conjugate)(jnp.float32(end + 0.1)) == 0, "and no NaN comes back from where it is not"


@known_divergence
@given(raw=logits())
def test_the_activation_stays_in_the_domain(name, raw):
    g = DIVERGENCES[name]().activation(jnp.sort(raw))
    assert (g <= np.float32(ENDS.get(name, np.inf))).all()
    assert (g[1:] >= g[:-1]).all()


@every_divergence
def test_the_activation_increases(name):
    """A large output speaks for real data, in each game alike."""
    raw = jnp.linspace(-5, 5, 101)
    assert (jnp.diff(DIVERGENCES[name]().activation(raw)) > 0).all()


@every_divergence
@given(raw=st.floats(-8, 8))
def test_the_closed_form_is_the_composition(name, raw):
    with jax.enable_x64(True):
        d, v = DIVERGENCES[name](), jnp.asarray(raw)
        np.testing.assert_allclose(d.composed(v), d.conjugate(d.activation(v)), rtol=1e-9, atol=1e-12)
        slopes = [jax.grad(h)(v) for h in (d.composed, lambda v: d.conjugate(d.activation(v)))]
        np.testing.assert_allclose(*slopes, rtol=1e-9, atol=1e-12)


@known_divergence
@given(log_ratio=st.floats(-5, 5).filter(lambda log_ratio: abs(log_ratio) > 1e-9))
def test_the_optimum_is_the_slope_of_the_generator(name, log_ratio):
    with jax.enable_x64(True):
        found = DIVERGENCES[name]().optimal(jnp.asarray(log_ratio))
    np.testing.assert_allclose(found, GENERATORS[name][1](np.exp(log_ratio)), rtol=1e-9, atol=1e-12)


# --- games ---


@every_divergence
def test_every_objective_passes_the_common_exam(name):
    d = DIVERGENCES[name]()
    bound = min(d.limit, 1e4)
    check_objective(objective(d), zero_sum=True, bound=bound)
    check_objective(objective(d, saturating=False), bound=bound)


@every_divergence
def test_values_and_slopes_are_finite_to_the_stated_limit(name):
    d = DIVERGENCES[name]()
    raw = jnp.array([-1.0, 1.0]) * min(d.limit, 1e18)
    for part in (d.activation, d.composed):
        assert jnp.isfinite(part(raw)).all()
        assert jnp.isfinite(jax.vmap(jax.grad(part))(raw)).all()


@given(real=logits(), fake=logits())
def test_the_gan_row_yields_the_games_of_goodfellow(real, fake):
    for pair, expected in (
        (objective(divergence("gan")), minimax()),
        (objective(divergence("gan"), saturating=False), non_saturating()),
    ):
        for found, loss in zip(pair, expected, strict=True):
            np.testing.assert_allclose(found(real, fake), loss(real, fake), rtol=1e-6, atol=1e-37)


@given(real=logits(bound=100.0), fake=logits(bound=100.0))
def test_the_jensen_shannon_row_is_the_gan_row_shifted(real, fake):
    pair, expected = objective(divergence("jensen_shannon")), minimax()
    shifted = expected.discriminator(real, fake) - 2 * LOG2
    np.testing.assert_allclose(pair.discriminator(real, fake), shifted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pair.generator(real, fake), expected.generator(real, fake) + LOG2, rtol=1e-5, atol=1e-6)


@every_divergence
@given(real=logits(bound=10.0), fake=logits(bound=10.0))
def test_the_critics_loss_is_the_negated_bound(name, real, fake):
    d = DIVERGENCES[name]()
    loss = jnp.mean(objective(d).discriminator(real, fake))
    np.testing.assert_allclose(variational(d, real, fake), -loss, rtol=1e-4, atol=1e-4)


@every_divergence
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_column_of_outputs_is_refused(name, player):
    loss = getattr(objective(DIVERGENCES[name]()), player)
    for real, fake in (((4,), (4, 1)), ((4, 1), (4, 1)), ((4,), (3,)), ((), ())):
        with pytest.raises(AssertionError):
            jax.eval_shape(loss, jnp.zeros(real), jnp.zeros(fake))


@pytest.mark.parametrize("std", [0.0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_gaussian_without_a_width_is_refused(name, std):
    good, bad = Normal(0.0, 1.0), Normal(0.0, std)
    for pair in ((good, bad), (bad, good)):
        with pytest.raises(ValueError, match=f"std={std}"):
            divergence(name).between(*pair)


def test_an_unknown_divergence_is_refused():
    with pytest.raises(ValueError, match=r"unknown divergence 'jeffrey': there is kl, .*total_variation"):
        divergence("jeffrey")


# --- bounds and closed forms between Gaussians ---

GRID = np.linspace(-11, 11, 2001)


def masses(mean, std=1.0):
    """A Gaussian on the grid: to rounding, integrals of smooth functions are sums."""
    weights = stats.norm(mean, std).pdf(GRID)
    return weights / weights.sum()


def random_critics(seed):
    """Cubic polynomials and small perceptrons on the grid, [16, G]."""
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.05, 1.0, (8, 1))
    cubic = np.polynomial.polynomial.polyval(GRID / 3, rng.normal(size=(4, 8)))
    hidden = np.tanh(rng.normal(size=(8, 5, 1)) * GRID + rng.normal(size=(8, 5, 1)))
    return np.concatenate([scale * cubic, np.einsum("cug,cu->cg", hidden, rng.normal(size=(8, 5)))])


@partial(jax.jit, static_argnums=0)
def compiled_bounds(name, raw, p, q):
    d = DIVERGENCES[name]()
    return jax.vmap(lambda raw: variational(d, raw, raw, real_weights=p, fake_weights=q))(raw)


def bounds(name, raw, p, q):
    """The bound of each critic on the grid, in float64."""
    with jax.enable_x64(True):
        return np.asarray(compiled_bounds(name, *map(jnp.asarray, (raw, p, q))))


@partial(jax.jit, static_argnums=0)
def compiled_between(name, p, q):
    return DIVERGENCES[name]().between(p, q)


def between(name, p, q):
    """The divergence between Gaussians (mean, deviation), in float64."""
    with jax.enable_x64(True):
        return float(compiled_between(name, Normal(*p), Normal(*q)))


@every_divergence
@given(seed=seeds, gap=st.floats(-1.5, 1.5), std=widths)
def test_no_critic_exceeds_the_divergence(name, seed, gap, std):
    found = bounds(name, random_critics(seed), masses(0), masses(gap, std))
    assert (found <= between(name, (0.0, 1.0), (gap, std)) + 1e-7).all()


@known_divergence
def test_the_optimal_critic_attains_it(name):
    d, p, q = DIVERGENCES[name](), masses(0), masses(0.8)
    with jax.enable_x64(True):
        log_ratio = jnp.asarray(stats.norm.logpdf(GRID) - stats.norm.logpdf(GRID, 0.8))
        optimum = d.optimal(log_ratio)
        found = np.sum(p * optimum) - np.sum(q * d.conjugate(optimum))
    assert found == pytest.approx(AT_08[name], rel=1e-4)


@known_divergence
@given(seed=seeds)
def test_every_move_away_from_the_optimum_costs(name, seed):
    """The raw output that is tight, moved along random critics; total variation has none but at infinity."""
    tight = {
        "kl": lambda ell: 1 + ell,
        "pearson": lambda ell: 2 * np.expm1(ell),
        "neyman": lambda ell: 2 * ell,
        "squared_hellinger": lambda ell: ell / 2,
        "total_variation": lambda ell: 1e5 * ell,
    }
    ell = stats.norm.logpdf(GRID) - stats.norm.logpdf(GRID, 0.8)
    best = tight.get(name, lambda ell: ell)(ell)
    raw = np.concatenate([[best], best + 0.1 * random_critics(seed)])
    at, *moved = bounds(name, raw, masses(0), masses(0.8))
    assert at == pytest.approx(AT_08[name], rel=1e-4)
    assert (np.array(moved) <= at + 1e-12).all()


@known_divergence
def test_the_numbers_of_equally_wide_gaussians(name):
    found = jax.jit(DIVERGENCES[name]().between)(Normal(0.0, 1.0), Normal(0.8, 1.0))  # in float32
    np.testing.assert_allclose(found, AT_08[name], rtol=5e-6)


@known_divergence
@given(gap=st.floats(-1.2, 1.2), std=widths)
def test_closed_forms_are_integrals(name, gap, std):
    p, q = stats.norm(gap, 1.0), stats.norm(0.0, std)

    def integrand(x):
        log_ratio = p.logpdf(x) - q.logpdf(x)
        return q.pdf(x) * GENERATORS[name][0](np.exp(log_ratio)) if abs(log_ratio) < 300 else 0.0

    expected, _ = integrate.quad(integrand, -14, 14, limit=400, points=[-4, -2, 0, 2, 4])
    np.testing.assert_allclose(between(name, (gap, 1.0), (0.0, std)), expected, rtol=1e-4, atol=1e-6)


@every_divergence
@given(gap=means, std=widths, shift=means, scale=st.floats(0.01, 100))
def test_closed_forms_do_not_depend_on_the_units(name, gap, std, shift, scale):
    found = between(name, (scale * gap + shift, scale * std), (shift, scale))
    np.testing.assert_allclose(found, between(name, (gap, std), (0.0, 1.0)), rtol=1e-6, atol=1e-9)


@every_divergence
@given(gap=means, std=widths)
def test_a_divergence_is_positive_and_zero_between_equals_alone(name, gap, std):
    level = -np.log(4) if name == "gan" else 0.0
    assert between(name, (gap, std), (gap, std)) == pytest.approx(level, abs=1e-9)
    assert between(name, (gap, std), (gap + 0.1, std)) > level + 1e-4
    assert between(name, (gap, std), (gap, 1.1 * std)) > level + 1e-4


@every_divergence
def test_slopes_of_closed_forms_are_finite(name):
    slope = jax.jit(jax.grad(DIVERGENCES[name]().between, argnums=(0, 1)))
    for q in (Normal(0.0, 1.0), Normal(0.8, 1.0), Normal(0.0, 1.1)):
        slopes = slope(Normal(0.0, 1.0), q)
        assert all(jnp.isfinite(slope) for slope in jax.tree.leaves(slopes))


def test_chi_square_is_infinite_where_tails_are_too_light():
    wide, narrow = Normal(0.0, 1.5), Normal(0.0, 1.0)
    assert divergence("pearson").between(wide, narrow) == np.inf
    assert divergence("neyman").between(narrow, wide) == np.inf
    # ∫p²/q = s⁻¹(2 − s²)^−½ for a p of deviation s
    np.testing.assert_allclose(divergence("pearson").between(narrow, wide), 2.25 / np.sqrt(3.5) - 1, rtol=1e-5)


def test_quadrature_has_the_moments_of_the_gaussian():
    points, weights = quadrature(Normal(3.0, 0.5))
    for function, expected in ((jnp.ones_like, 1.0), (lambda x: x, 3.0), (jnp.square, 9.25), (jnp.exp, np.exp(3.125))):
        np.testing.assert_allclose(jnp.sum(weights * function(points)), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="nodes=1"):
        quadrature(Normal(0.0, 1.0), nodes=1)
    with pytest.raises(ValueError, match="reach=0"):
        quadrature(Normal(0.0, 1.0), reach=0)


def random_normals(seed, dim):
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(2, dim, dim))
    return rng.normal(size=(2, dim)), roots @ roots.transpose(0, 2, 1) + 0.5 * np.eye(dim)


@pytest.mark.slow
@given(seed=seeds, dim=st.sampled_from([1, 3]))
def test_multivariate_closed_forms_are_those_of_the_books(seed, dim):
    (mp, mq), (cp, cq) = random_normals(seed, dim)
    p, q = MultivariateNormal(jnp.asarray(mp), jnp.asarray(cp)), MultivariateNormal(jnp.asarray(mq), jnp.asarray(cq))
    det, inverse, gap = np.linalg.det, np.linalg.inv(cq), mp - mq
    expected = (np.trace(inverse @ cp) - dim + np.log(det(cq) / det(cp)) + gap @ inverse @ gap) / 2
    np.testing.assert_allclose(multivariate_kl(p, q), expected, rtol=1e-3, atol=1e-4)
    middle = (cp + cq) / 2
    affinity = (det(cp) * det(cq)) ** 0.25 / det(middle) ** 0.5 * np.exp(-gap @ np.linalg.inv(middle) @ gap / 8)
    np.testing.assert_allclose(multivariate_squared_hellinger(p, q), 2 - 2 * affinity, rtol=1e-3, atol=1e-4)
    for function in (multivariate_kl, multivariate_squared_hellinger):
        np.testing.assert_allclose(function(p, p), 0, atol=1e-5)


@pytest.mark.slow
@given(gap=means, std=widths)
def test_multivariate_closed_forms_have_those_of_the_line_as_a_case(gap, std):
    line = Normal(gap, std), Normal(0.0, 1.0)
    plane = [MultivariateNormal(jnp.full(1, one.mean), jnp.full((1, 1), one.std**2)) for one in line]
    for function, name in ((multivariate_kl, "kl"), (multivariate_squared_hellinger, "squared_hellinger")):
        np.testing.assert_allclose(function(*plane), DIVERGENCES[name]().between(*line), rtol=1e-4, atol=1e-6)


# --- integral probability metrics ---

distances = st.floats(2**-7, 1e4, width=32)


wasserstein = jax.jit(wasserstein_1d)
transport = jax.jit(jax.value_and_grad(wasserstein_1d, argnums=(0, 1)))
energy = jax.jit(energy_distance, static_argnames="unbiased")


def normal_sample(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@given(a=st.floats(-1e3, 1e3, width=32), distance=distances)
def test_wasserstein_of_point_masses_is_their_distance_with_a_slope_of_one(a, distance):
    fixed, moving = np.float32([a]), np.float32([a + distance])
    value, slopes = transport(fixed, moving)
    np.testing.assert_allclose(value, np.float64(moving[0]) - fixed[0], rtol=1e-5)
    assert (slopes[0][0], slopes[1][0]) == (-1, 1)


@pytest.mark.slow
@given(distance=st.floats(2, 1e4, width=32))
def test_jensen_shannon_of_disjoint_supports_is_log_two_without_a_slope(distance):
    """The exact demonstration of vanishing gradients: Gaussians of deviation .01 stand for the point masses."""

    def jensen_shannon(gap):
        return divergence("jensen_shannon").between(Normal(0.0, 0.01), Normal(gap, 0.01)) / 2

    value, slope = jax.value_and_grad(jensen_shannon)(jnp.float32(distance))
    np.testing.assert_allclose(value, LOG2, rtol=1e-6)
    assert slope == 0


@given(seed=seeds, shift=st.floats(-100, 100, width=32), size=st.sampled_from([(16, 16), (16, 5)]))
def test_wasserstein_is_that_of_scipy_and_of_sorted_pairs(seed, shift, size):
    x, y = normal_sample(seed, size[0]), normal_sample(seed + 1, size[1]) + shift
    found = wasserstein(x, y)
    np.testing.assert_allclose(found, stats.wasserstein_distance(x, y), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(wasserstein(y, x), found, rtol=1e-5)
    if len(x) == len(y):
        np.testing.assert_allclose(found, np.mean(np.abs(np.sort(x) - np.sort(y))), rtol=1e-4, atol=1e-5)


@given(mean=means, other=means)
def test_wasserstein_of_shifted_gaussians_is_the_shift(mean, other):
    quantiles = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    x, y = jnp.asarray(mean + quantiles), jnp.asarray(other + quantiles)
    np.testing.assert_allclose(wasserstein(x, y), abs(mean - other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_has_no_distance(bad):
    """Neither none nor a small one: samples that diverged must not look like the best."""
    x = np.ones((4, 2), np.float32)
    for broken in (np.full_like(x, bad), np.where(np.arange(8).reshape(4, 2) == 3, bad, x)):
        assert not np.isfinite(energy(broken, x))


@given(seed=seeds, order=st.permutations(range(6)))
def test_samples_have_no_order(seed, order):
    x, y, order = normal_sample(seed, 6, 2), normal_sample(seed + 1, 6, 2) + 1, jnp.array(order)
    for function in (energy, lambda x, y: wasserstein(x[:, 0], y[:, 0])):
        np.testing.assert_allclose(function(x[order], y), function(x, y), rtol=1e-4, atol=1e-6)


@given(seed=seeds)
def test_the_dual_value_of_a_critic_is_at_most_the_distance(seed):
    x, y = normal_sample(seed, 12), normal_sample(seed + 1, 7) + 0.5
    rng = np.random.default_rng(seed)
    both = jnp.concatenate([x, y])
    critic = jnp.sin(rng.normal() * both) + rng.normal() * both
    value = kantorovich_rubinstein(critic[:12], critic[12:], jax.jit(lipschitz)(both[:, None], critic))
    assert value <= wasserstein(x, y) + 1e-5


def test_the_dual_value_is_attained_along_the_transport():
    x, y = normal_sample(0, 50), normal_sample(0, 50) + 3
    np.testing.assert_allclose(kantorovich_rubinstein(-2 * x, -2 * y, 2.0), wasserstein_1d(x, y), rtol=1e-5)


@pytest.mark.slow
def test_the_steepest_chord_leaves_out_equal_points():
    points = jnp.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    values = jnp.array([0.0, 0.0, 10.0])
    assert lipschitz(points, values) == 2
    assert jnp.isfinite(jax.grad(lipschitz, argnums=1)(points, values)).all()


def pairs(x, y, kernel, unbiased):
    """MMD² by two loops."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)

    def within(points):
        terms = [kernel(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j or not unbiased]
        return np.mean(terms)

    return within(x) + within(y) - 2 * np.mean([kernel(a, b) for a in x for b in y])


BY_HAND = {
    "gaussian_kernel": (gaussian_kernel(2.0), lambda a, b: np.exp(-np.sum((a - b) ** 2) / 8)),
    "rational_quadratic_kernel": (
        rational_quadratic_kernel(0.5),
        lambda a, b: (1 + np.sum((a - b) ** 2)) ** -0.5,
    ),
    "energy_kernel": (energy_kernel(), lambda a, b: -np.linalg.norm(a - b)),
}


@every_kernel
@pytest.mark.parametrize("unbiased", [True, False])
@given(seed=seeds)
def test_discrepancies_are_means_over_pairs(name, unbiased, seed):
    x, y = normal_sample(seed, 5, 3), normal_sample(seed + 1, 4, 3) + 0.5
    kernel, by_hand = BY_HAND[name]
    found = maximum_mean_discrepancy(x, y, kernel, unbiased=unbiased)
    np.testing.assert_allclose(found, pairs(x, y, by_hand, unbiased), rtol=1e-4, atol=1e-5)


@every_kernel
def test_the_unbiased_discrepancy_of_equals_has_mean_zero_and_the_biased_one_is_positive(name):
    x, y = normal_sample(0, 2000, 4, 2), normal_sample(1, 2000, 4, 2)

    def estimates(unbiased):
        estimate = jax.vmap(lambda x, y: maximum_mean_discrepancy(x, y, KERNELS[name](), unbiased=unbiased))
        return np.asarray(estimate(x, y), np.float64)

    unbiased, biased = estimates(True), estimates(False)
    assert abs(unbiased.mean()) < 5 * unbiased.std() / np.sqrt(2000)
    assert unbiased.min() < 0
    assert biased.min() >= 0
    assert biased.mean() > 20 * biased.std() / np.sqrt(2000)


@pytest.mark.slow
@given(a=means, b=means)
def test_discrepancies_of_point_masses(a, b):
    x, y = jnp.full((3, 1), a), jnp.full((2, 1), b)
    for unbiased in (True, False):
        found = energy(x, y, unbiased=unbiased)
        np.testing.assert_allclose(found, 2 * abs(a - b), rtol=1e-5, atol=1e-6)
        found = maximum_mean_discrepancy(x, y, gaussian_kernel(0.5), unbiased=unbiased)
        np.testing.assert_allclose(found, 2 - 2 * np.exp(-2 * (a - b) ** 2), rtol=1e-4, atol=1e-5)


@given(seed=seeds)
def test_energy_on_the_line_is_the_squared_gap_of_distribution_functions(seed):
    """2∫(F_x − F_y)², of which SciPy gives the root."""
    x, y = normal_sample(seed, 9), normal_sample(seed + 1, 6) + 1
    found = energy(x[:, None], y[:, None], unbiased=False)
    np.testing.assert_allclose(found, stats.energy_distance(x, y) ** 2, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@every_kernel
@given(seed=seeds)
def test_discrepancies_are_blind_to_where_and_which_way(name, seed):
    x, y = normal_sample(seed, 6, 3), normal_sample(seed + 1, 5, 3) + 1
    rng = np.random.default_rng(seed)
    turn = jnp.asarray(np.linalg.qr(rng.normal(size=(3, 3)))[0], jnp.float32)
    shift = jnp.asarray(rng.normal(size=(1, 3)), jnp.float32)
    found, moved = (
        maximum_mean_discrepancy(a, b, KERNELS[name]()) for a, b in ((x, y), (x @ turn + shift, y @ turn + shift))
    )
    np.testing.assert_allclose(moved, found, rtol=1e-3, atol=1e-5)


@every_kernel
def test_discrepancies_have_finite_slopes_where_points_coincide(name):
    x = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    for unbiased in (True, False):
        estimate = partial(maximum_mean_discrepancy, kernel=KERNELS[name](), unbiased=unbiased)
        assert jnp.isfinite(jax.jit(jax.grad(estimate))(x, x)).all()


@pytest.mark.slow
def test_the_energy_distance_pulls_however_far():
    """Between far point masses its slope is that of 2‖x − y‖, where a Gaussian kernel's is zero."""
    x, y = jnp.zeros((2, 2)), jnp.full((2, 2), 1e4) * jnp.array([[0.6, 0.8]])
    slope = jax.grad(energy_distance)(x, y).sum(0)
    np.testing.assert_allclose(slope, [-1.2, -1.6], rtol=1e-5)
    assert (jax.grad(lambda x: maximum_mean_discrepancy(x, y, gaussian_kernel()))(x) == 0).all()


def test_parameters_may_be_traced():
    x, y = normal_sample(0, 4, 2), normal_sample(1, 4, 2)
    for factory in (gaussian_kernel, rational_quadratic_kernel):
        found = jax.jit(lambda parameter: maximum_mean_discrepancy(x, y, factory(parameter)))(2.0)  # noqa: B023
        np.testing.assert_allclose(found, maximum_mean_discrepancy(x, y, factory(2.0)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_a_parameter_out_of_its_range_is_refused(value):
    with pytest.raises(ValueError, match=f"bandwidth={value} must be positive"):
        gaussian_kernel(value)
    with pytest.raises(ValueError, match=f"shape={value} must be positive"):
        rational_quadratic_kernel(value)


def test_samples_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match="a sample of 1 points is too small: give at least 2"):
        energy_distance(jnp.zeros((3, 2)), jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="a sample of 0 points is too small: give at least 1"):
        wasserstein_1d(jnp.zeros(3), jnp.zeros(0))
    for x, y in (((3,), (3,)), ((3, 2), (3, 1))):
        with pytest.raises(AssertionError):
            energy_distance(jnp.zeros(x), jnp.zeros(y))
    with pytest.raises(AssertionError):
        wasserstein_1d(jnp.zeros((3, 1)), jnp.zeros((3, 1)))
