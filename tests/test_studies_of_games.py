"""Reports of the studies of games and mixtures: tables of invented results known by hand, and numbers of the theory."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from gan_jax import games
from gan_jax.training import lookup

MIXTURES, DYNAMICS, BOUNDS, VANISHING = (
    lookup.load(lookup.find(name))
    for name in ("mixture_modes", "game_dynamics", "divergence_bounds", "vanishing_gradients")
)


def rows(text):
    """The cells of a report's tables, by their first; a later row of the same name is another table's."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            first, *rest = (cell.strip() for cell in line.strip().strip("|").split("|"))
            found.setdefault(first, rest)
    return found


# Mixtures


def members(covered, high_quality, reverse_kl):
    columns = zip(covered, high_quality, reverse_kl, strict=True)
    return [dict(zip(("covered", "high_quality", "reverse_kl"), each, strict=True)) for each in columns]


@pytest.mark.slow
def test_the_table_of_mixtures_has_means_and_standard_errors_of_the_average_and_of_the_last():
    config = dataclasses.replace(MIXTURES.SMALLEST, methods=("gan", "pacgan2", "r1", "relativistic"), trials=3)
    results = {
        "ring-gan": {
            # Deviations 1, .04 and, of the two seeds that have one, √.02: over √3 and √2.
            "averaged": members((6, 7, 8), (0.90, 0.94, 0.98), (0.1, 0.3, None)),
            "last": members((2, 2, 5), (0.1, 0.1, 0.4), (1.0, 1.0, 1.0)),
            "points": [[0.0, 0.0]],
        },
        "ring-pacgan2": {
            "averaged": members((8,), (0.123,), (0.5,)),
            "last": members((0, 0), (0.0, 0.0), (None, None)),
            "points": [[0.0, 0.0]],
        },
        "ring-relativistic": {"updates": 7, "stopped": "it blew up"},
    }
    found = rows(MIXTURES.build(config).report(results).text)
    head = found["method"]
    assert ["average" in cell for cell in head] == [True, False, False, False, False, False]
    assert "as it stands" in head[3]
    assert found["GAN"][:3] == ["7.0 ± 0.6", "94.0 ± 2.3", "0.20 ± 0.10 (2 of 3 seeds)"]
    assert found["GAN"][3:] == ["3.0 ± 1.0", "20.0 ± 10.0", "1.00 ± 0.00"]
    assert found["PacGAN2"] == ["8.0", "12.3", "0.50", "0.0 ± 0.0", "0.0 ± 0.0", "none"]
    assert "pending" in found["R1"]
    assert "it blew up" in found["relativistic + R1 + R2"]


def penalty(mixture, name):
    """What a row's penalty is on a mixture, of one critic and one batch."""
    model = MIXTURES.assemble(MIXTURES.SMALLEST, mixture, MIXTURES.METHODS[name])
    params, kept, _ = model.init(model.hyper, jax.random.key(0)).point
    params = jax.tree.map(lambda leaf: leaf + 0.3, params)  # a head may begin at zero
    batch = {"x": jnp.array([[0.3, -0.2], [1.0, 0.5]])}
    value, _ = model.game(model.hyper).penalties.discriminator(params, kept, jax.random.key(1), batch)
    return float(value)


@pytest.mark.parametrize("name", MIXTURES.METHODS)
def test_a_row_has_the_tables_momentum_unless_its_own_code_says_otherwise(name):
    model = MIXTURES.assemble(MIXTURES.SMALLEST, "ring", MIXTURES.METHODS[name])
    assert model.hyper.beta1 == (0.5 if name == "wgan_gp" else MIXTURES.SMALLEST.beta1)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "times"), [("r1", 25), ("relativistic", 25), ("wgan_gp", 1)])
def test_on_modes_five_times_as_wide_a_squared_slope_weighs_twenty_five_times(name, times):
    ring, grid = penalty("ring", name), penalty("grid", name)
    assert ring > 0
    assert grid == pytest.approx(times * ring, rel=1e-5)


@pytest.mark.parametrize(("name", "pack"), [("gan", 1), ("pacgan2", 2), ("pacgan4", 4)])
def test_a_row_trains_all_seeds_on_batches_of_whole_packs(name, pack, tmp_path, monkeypatch):
    config = dataclasses.replace(MIXTURES.SMALLEST, methods=(name,), trials=3, batch=5)
    seen = {}

    def train(program, keys, directory, *, steps):
        batch = jax.eval_shape(lambda key: program.batches.draw(program.batches.arrays, key, 0), keys[0])
        critic = jax.eval_shape(program.init, keys[0]).point.params.discriminator
        inputs = {leaf.shape for leaf in jax.tree.leaves(critic) if leaf.ndim > 1 and 2 * pack in leaf.shape}
        seen.update(seeds=len(keys), steps=steps, points=batch["x"].shape, inputs=inputs)
        return SimpleNamespace(stop=SimpleNamespace(reason="enough"), step=1)

    monkeypatch.setattr(MIXTURES.studies, "train", train)
    result = MIXTURES.build(config).cells[f"ring-{name}"](tmp_path)
    assert result == {"updates": 1, "stopped": "enough"}
    assert (seen["seeds"], seen["steps"]) == (3, config.updates)
    assert seen["points"] == (1, 5 * pack, 2)
    assert seen["inputs"], "the critic sees as many points of the plane at once as a pack has"


# Games

LEAVES = "leaves"
# Eigenvalues at the solution, how far a trajectory comes at its end (none if it has left) and whether it rests there,
# from a start of √(1.2² + .6²) = 1.34: what is said of it, and whether it converges.
MOTIONS = {
    "node": ([-1, -3], 1e-3, True, "straight in", "yes"),
    "focus": ([-1 + 2j, -1 - 2j], 1e-3, True, "spirals in", "yes"),
    "centre": ([2j, -2j], 1.3, False, "circles", "no"),
    "a centre that closes": ([2j, -2j], 1.0, False, "creeps in", "no"),
    "repelling node": ([1, 3], None, False, LEAVES, "no"),
    "repelling focus": ([1 + 2j, 1 - 2j], None, False, "spirals out", "no"),
    "a focus within a cycle": ([1 + 2j, 1 - 2j], 1.0, False, "to a cycle", "no"),
    "saddle": ([1, -1], None, False, LEAVES, "no"),
    "no motion": ([0, 0], 1.3, True, "stands still", "no"),
    "unknown, gone": (None, None, False, LEAVES, "no"),
    "unknown, there": (None, 0.01, True, "arrives", "yes"),
    "unknown, at rest": (None, 1.0, True, "rests elsewhere", "no"),
    "unknown, on the way": (None, 1.0, False, "does not arrive", "no"),
}


@pytest.mark.slow
def test_the_words_of_a_motion_are_those_of_its_spectrum_or_of_what_is_seen():
    game = "saddle_focus"
    config = dataclasses.replace(DYNAMICS.SMALLEST, games=(game,), rules=tuple(MOTIONS), portraits=(game,))

    def played(eigenvalues, far, still):
        known = eigenvalues is not None
        return {
            "spectrum": DYNAMICS._spectrum(np.array(eigenvalues, complex)) if known else None,
            **{"radius": 0.5 if known else None, "closed": 0.25, "difference": 0.0 if known else None},
            **{"far": far, "still": still, "path": [[1.2, 0.6], [1.0, 0.5]]},
        }

    field = np.ones((2, DYNAMICS.GRID, DYNAMICS.GRID)).tolist()
    results = {game: {"flow": None, "field": field, "rules": {rule: played(*row[:3]) for rule, row in MOTIONS.items()}}}
    report = DYNAMICS._report(config, results)

    titles = [axes.get_title() for axes in report.figures["portraits"].axes[: len(MOTIONS)]]
    expected = [f"{row[3]}  0.500" if row[0] is not None else row[3] for row in MOTIONS.values()]
    assert titles == expected
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.text.splitlines() if line[:1] == "|"]
    verdicts = {line[1]: line[-1] for line in lines if line[1] in MOTIONS and len(line) == 9}
    assert verdicts == {rule: row[4] for rule, row in MOTIONS.items()}
    (short,) = (line[1:] for line in lines if line[0].startswith("saddle") and len(line) == len(MOTIONS) + 1)
    assert short == ["0.5000" if row[0] is not None else row[3] for row in MOTIONS.values()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "decay", "frequency", "kind"),
    [
        # I + hA has eigenvalues 1 + .1(−.6 ± .3i) and 1 ± .1i.
        (lambda: games.saddle(1.0, 0.2, 0.5), 0.6, 0.3, "stable focus"),
        (games.bilinear, 0.0, 1.0, "unstable focus"),
    ],
)
def test_a_played_rule_has_the_spectrum_and_the_distance_of_its_powers(make, decay, frequency, kind):
    rate = 0.1
    config = dataclasses.replace(DYNAMICS.SMALLEST, rate=rate, duration=20.0)
    with jax.enable_x64(True):
        known = make()
        played = DYNAMICS._play(config, known, "simultaneous")
    step = 1 + rate * complex(-decay, frequency)
    assert played["spectrum"]["kind"] == kind
    assert played["radius"] == pytest.approx(abs(step)) == pytest.approx(played["closed"])
    assert played["spectrum"]["frequency"] == pytest.approx(np.angle(step) / rate)
    matrix = np.linalg.matrix_power(np.eye(2) + rate * np.asarray(known.jacobian), 200)
    assert played["distance"] == pytest.approx(np.linalg.norm(matrix @ config.start), rel=1e-9, abs=1e-12)
    assert played["still"] is (kind == "stable focus")


# Divergences


def test_a_bound_is_counted_from_the_blind_critic_to_the_closed_form_and_what_exceeds_it_is_shown():
    def pair(q, closed, *values):
        return {"q": q, "closed": closed, "values": [list(curve) for curve in values], "estimates": [[0.0, 0.0]]}

    results = {
        "kl": {
            "blind": 0.0,
            "updates": [1, 2],
            "pairs": [
                pair("N(0.8, 1)", 0.32, (0.0, 0.16), (-9.0, 0.24)),
                pair("N(0.8, 2)", 0.5, (0.0, 0.5), (0.4, 0.5)),
            ],
        },
        "gan": {
            "blind": -1.0,
            "updates": [1, 2],
            "pairs": [
                pair("N(0.8, 1)", -0.5, (-0.9, -0.75), (-0.8, -0.6)),
                pair("N(0.8, 2)", -0.5, (-1.0, -1.0), (0.0, -1.25)),
            ],
        },
    }
    text = BOUNDS.build(BOUNDS.SMALLEST).report(results).text
    found = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if "N(0.8" in line]
    assert found == [
        ["N(0.8, 1)", "0.3200", "0.2000", "62.5% (50.0% to 75.0%)", "-8.0e-02"],
        ["N(0.8, 2)", "0.5000", "0.5000", "100.0% (100.0% to 100.0%)", "0.0e+00"],
        ["N(0.8, 1)", "-0.5000", "-0.6750", "65.0% (50.0% to 80.0%)", "-1.0e-01"],
        ["N(0.8, 2)", "-0.5000", "-1.1250", "-25.0% (-50.0% to 0.0%)", "5.0e-01"],
    ]


# Slopes that vanish


def value_of_the_game(distance):
    """E_p log D + E_q log(1 − D) of the best D = p/(p + q) between N(0, 1) and N(distance, 1), by quadrature."""
    p, q = stats.norm(0, 1), stats.norm(distance, 1)

    def integrand(x):
        log_ratio = p.logpdf(x) - q.logpdf(x)
        return -p.pdf(x) * np.logaddexp(0, -log_ratio) - q.pdf(x) * np.logaddexp(0, log_ratio)

    value, _ = integrate.quad(integrand, -12, 12 + distance, points=[0, distance / 2, distance], epsabs=1e-13)
    return value


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    config = dataclasses.replace(VANISHING.SMALLEST, distances=(2.0,), watched=2.0)
    return config, VANISHING.build(config).cells["exact"](tmp_path_factory.mktemp("exact"))


@pytest.mark.slow
def test_the_exact_slope_of_minimax_is_that_of_the_games_value(exact):
    _, found = exact
    at, small = int(np.argmin(abs(np.array(found["distances"]) - 2.0))), 1e-4
    assert found["distances"][at] == pytest.approx(2.0)
    slope = (value_of_the_game(2.0 + small) - value_of_the_game(2.0 - small)) / (2 * small)
    assert found["slopes"]["minimax"][at] == pytest.approx(slope, rel=1e-5)
    assert 2 * found["jensen_shannon"][at] == pytest.approx(value_of_the_game(2.0) + np.log(4), rel=1e-6)


@pytest.mark.slow
def test_the_exact_slopes_of_the_two_games_of_goodfellow_share_the_distance(exact):
    """σ(a) + σ(−a) = 1 under the slope d of the best critic's logit; WGAN-GP's of point masses is 1 + d/2λ."""
    config, found = exact
    distances = np.array(found["distances"])
    both = np.add(found["slopes"]["minimax"], found["slopes"]["non_saturating"])
    np.testing.assert_allclose(both, distances, atol=1e-9)
    np.testing.assert_allclose(found["slopes"]["wasserstein"], 1 + distances / (2 * config.penalty))


@pytest.mark.slow
def test_the_table_of_slopes_has_the_mean_of_the_last_beside_the_exact_one(exact):
    config, found = exact
    slopes = {"minimax": [[[9.0, 0.1], [9.0, 0.3]]], "non_saturating": [[[9.0, 2.0], [9.0, 5.0]]]}
    trained = {
        "updates": [1, 2],
        "value": [[[0.0, 0.0]] * 2],
        "steepest": [[[1.0, 1.0]] * 2],
        "saturated": {"discriminator": [[[0.0, 1.0]] * 2]},
        "slopes": slopes,
    }
    cells = rows(VANISHING.build(config).report({"exact": found, "classifier": trained}).text)["2"]
    saturating = (value_of_the_game(2.0 + 1e-4) - value_of_the_game(2.0 - 1e-4)) / 2e-4
    assert cells == ["0.2", f"{saturating:.3g}", "3.5", f"{2 - saturating:.3g}"]
