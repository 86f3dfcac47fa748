"""The ways in which this field is known to err, each with the test that catches it: `make mutants`.

A mutant is a line of the library made wrong in a copy of the checkout. Its test must fail there, and pass before.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
EXAM = "tests/rules/test_exam.py::test_every_rule_passes"


class Mutant(NamedTuple):
    """An error: what is wrong, in which file, the line as it is and as it would be, and the test that fails."""

    error: str
    file: str
    right: str
    wrong: str
    test: str


MUTANTS = (
    Mutant(
        "a sign: the discriminator descends what it should ascend",
        "objectives.py",
        "discriminator=lambda real, fake: fake - real)",
        "discriminator=lambda real, fake: real - fake)",
        "tests/test_objectives.py::test_every_objective_passes_the_common_exam[wasserstein]",
    ),
    Mutant(
        "a sign: the critic of an f-divergence minimises its bound",
        "divergences/ratios.py",
        "divergence.composed(fake) - divergence.activation(real),",
        "divergence.activation(real) - divergence.composed(fake),",
        "tests/test_divergences.py::test_every_objective_passes_the_common_exam[kl]",
    ),
    Mutant(
        "a saturating logarithm in the name of the non-saturating one",
        "objectives.py",
        "generator=lambda real, fake: _cross_entropy(fake, 1.0),",
        "generator=lambda real, fake: -jnp.log(1.0 / (1.0 + jnp.exp(-fake)) + 1e-8),",
        "tests/test_objectives.py::test_the_non_saturating_slope_survives_where_a_fake_is_found_out",
    ),
    Mutant(
        "both labels smoothed",
        "objectives.py",
        "loss(real, 1.0 - smoothing) + loss(fake, 0.0)",
        "loss(real, 1.0 - smoothing) + loss(fake, smoothing)",
        "tests/test_objectives.py::test_smoothing_labels_real_examples_and_only_them",
    ),
    Mutant(
        "a column of logits against a row: [B, 1] and [B] make [B, B]",
        "objectives.py",
        "            chex.assert_rank([real, fake], 1)\n            chex.assert_equal_shape([real, fake])\n",
        "",
        "tests/test_objectives.py::test_a_column_of_logits_is_refused",
    ),
    Mutant(
        "γ for γ/2 in R1",
        "penalties.py",
        "return 0.5 * weight * _squared_slopes(critic, real)",
        "return weight * _squared_slopes(critic, real)",
        "tests/test_penalties.py::test_penalties_of_a_linear_critic_do_not_depend_on_the_samples",
    ),
    Mutant(
        "R1 at the fakes",
        "penalties.py",
        "return 0.5 * weight * _squared_slopes(critic, real)",
        "return 0.5 * weight * _squared_slopes(critic, fake)",
        "tests/test_penalties.py::test_r1_is_taken_at_each_real_example_and_r2_at_each_fake",
    ),
    Mutant(
        "the norm of a slope over the wrong axes",
        "penalties.py",
        "axis=tuple(range(1, slopes.ndim)))",
        "axis=tuple(range(slopes.ndim - 1)))",
        "tests/test_penalties.py::test_penalties_of_a_linear_critic_do_not_depend_on_the_samples",
    ),
    Mutant(
        "one mixture of real and fake for each coordinate",
        "penalties.py",
        "jax.random.uniform(key, (examples.shape[0],) + (1,) * (examples.ndim - 1))",
        "jax.random.uniform(key, examples.shape)",
        "tests/test_penalties.py::test_wgan_gp_mixes_each_example_with_one_number",
    ),
    Mutant(
        "an extragradient that steps from the extrapolated point",
        "rules/extragradient.py",
        "back = point._replace(rule=",
        "back = ahead._replace(rule=",
        f"{EXAM}[extragradient]",
    ),
    Mutant(
        "an extragradient whose second gradient is the first again",
        "rules/extragradient.py",
        "point._replace(params=ahead.params), last, lazy,",
        "point, last, lazy,",
        f"{EXAM}[extragradient]",
    ),
    Mutant(
        "an optimistic step that never remembers",
        "rules/optimistic.py",
        "optimisers=states, slopes=slopes)",
        "optimisers=states, slopes=moves.slopes)",
        f"{EXAM}[optimistic]",
    ),
    Mutant(
        "an alternating step whose generator moves first",
        "rules/alternating.py",
        '[("discriminator", index) for index in range(d_steps)] + [("generator", d_steps - 1)]',
        '[("generator", d_steps - 1)] + [("discriminator", index) for index in range(d_steps)]',
        "tests/rules/test_rules.py::test_alternating_on_a_quadratic_game_is_a_product_of_its_half_steps",
    ),
    Mutant(
        "swapped players: each moves along the other's gradient",
        "rules/gradients.py",
        "loss, penalty = getattr(game.losses, player), getattr(game.penalties, player)",
        "loss, penalty = game.losses[1 - Pair._fields.index(player)], getattr(game.penalties, player)",
        f"{EXAM}[simultaneous]",
    ),
    Mutant(
        "off by one in d_steps",
        "rules/alternating.py",
        "for index in range(d_steps)]",
        "for index in range(d_steps - 1)]",
        "tests/rules/test_rules.py::test_each_discriminator_step_has_its_own_batch_and_the_generator_the_last",
    ),
    Mutant(
        "every discriminator step on the same batch",
        "rules/alternating.py",
        "lambda leaf, index=index: leaf[index]",
        "lambda leaf, index=index: leaf[0]",
        "tests/rules/test_rules.py::test_each_discriminator_step_has_its_own_batch_and_the_generator_the_last",
    ),
    Mutant(
        "a lazy penalty that is not multiplied",
        "rules/gradients.py",
        "jax.grad(scalar(penalty, float(lazy)), has_aux=True)",
        "jax.grad(scalar(penalty, 1.0), has_aux=True)",
        "tests/rules/test_rules.py::test_a_lazy_penalty_acts_every_nth_move_n_times",
    ),
    Mutant(
        "consensus that pulls towards the other equilibria",
        "rules/consensus.py",
        "optax.tree.add_scale(slopes, weight, adjustment)",
        "optax.tree.add_scale(slopes, -weight, adjustment)",
        f"{EXAM}[consensus]",
    ),
    Mutant(
        "a symplectic adjustment that turns the wrong way",
        "rules/symplectic.py",
        "lambda back, forth: (back - forth) / 2",
        "lambda back, forth: (forth - back) / 2",
        f"{EXAM}[symplectic]",
    ),
    Mutant(
        "an antisymmetric part that is not halved",
        "rules/symplectic.py",
        "lambda back, forth: (back - forth) / 2",
        "lambda back, forth: back - forth",
        "tests/rules/test_symplectic.py::test_a_step_is_its_matrix",
    ),
    Mutant(
        "an alignment without the paper's tenth",
        "rules/symplectic.py",
        "products / optax.tree.size(params) + 0.1",
        "products / optax.tree.size(params)",
        "tests/rules/test_symplectic.py::test_a_tenth_of_the_products_per_parameter_decides_the_sign",
    ),
    Mutant(
        "a competitive step that answers the other's step with the wrong sign",
        "rules/competitive.py",
        "right = optax.tree.sub(my_slope,",
        "right = optax.tree.add(my_slope,",
        f"{EXAM}[competitive]",
    ),
    Mutant(
        "a competitive step of one rate in the place of both",
        "rules/competitive.py",
        "answer = _scaled(getattr(rates, other), to_other",
        "answer = _scaled(getattr(rates, mine), to_other",
        "tests/rules/test_competitive.py::test_zero_sum_games_have_one_at_any_rates",
    ),
    Mutant(
        "normal equations, which square the condition",
        "rules/competitive.py",
        'solve_method="incremental"',
        'solve_method="batched"',
        "tests/rules/test_competitive.py::test_a_stiff_system_is_solved_in_single_precision",
    ),
    Mutant(
        "a generator that sees where the discriminator goes, and not through its steps",
        "rules/unrolled.py",
        '"discriminator", future, slope, new)',
        '"discriminator", future, jax.lax.stop_gradient(slope), new)',
        "tests/rules/test_unrolled.py::test_on_the_quadratic_saddle_it_is_the_sum_of_a_geometric_series",
    ),
    Mutant(
        "one step ahead too many",
        "rules/unrolled.py",
        "for _ in range(unroll):",
        "for _ in range(unroll + 1):",
        "tests/rules/test_unrolled.py::test_unrolling_nothing_is_simultaneous_bit_for_bit",
    ),
    Mutant(
        "a generator that is shown the present discriminator",
        "rules/unrolled.py",
        "return both._replace(step=step)",
        "return both",
        f"{EXAM}[unrolled]",
    ),
    Mutant(
        "a lookahead that always goes back to its first point",
        "rules/lookahead.py",
        "jnp.where(due, new, slow)",
        "slow",
        f"{EXAM}[lookahead_minmax]",
    ),
    Mutant(
        "a round that ends with its first step",  # of the same spectrum, so the exam cannot tell
        "rules/lookahead.py",
        "due = count % every == 0",
        "due = outer.count % every == 0",
        "tests/rules/test_lookahead.py::test_a_round_on_a_linear_game_is_its_matrix_and_the_next_begins_there",
    ),
    Mutant(
        "a momentum that is positive",
        "rules/momentum.py",
        "momentum=momentum) for rate",
        "momentum=-momentum) for rate",
        f"{EXAM}[negative_momentum]",
    ),
    Mutant(
        "a gradient at the point to which the momentum leads",
        "rules/momentum.py",
        "momentum=momentum) for rate",
        "momentum=momentum, nesterov=True) for rate",
        f"{EXAM}[negative_momentum]",
    ),
    Mutant(
        "samples from the generator that is still moving",
        "gan.py",
        "networks.generator.apply(*state.average, z",
        "networks.generator.apply(state.point.params.generator, state.point.stats.generator, z",
        "tests/test_gan.py::test_samples_come_from_the_average_in_evaluation_mode",
    ),
    Mutant(
        "spectral normalisation whose slope ignores the norm",
        "networks/spectral.py",
        "sigma = jnp.sum(lax.stop_gradient(_unit(image)) * image)",
        "sigma = lax.stop_gradient(jnp.sum(_unit(image) * image))",
        "tests/networks/test_spectral.py::test_the_gradient_passes_through_the_norm_with_the_vectors_held",
    ),
    Mutant(
        "adaptation to the query: what is judged was learned from",
        "meta/maml.py",
        "inner.adapt(adapt_key, learned, task.support), task.query)",
        "inner.adapt(adapt_key, learned, task.query), task.query)",
        "tests/meta/test_maml.py::test_maml_fomaml_and_reptile_follow_their_closed_forms",
    ),
    Mutant(
        "a first-order gradient of the adaptation, taken where it begins",
        "meta/maml.py",
        "jax.value_and_grad(judged)(learner.get_params(state))",
        "jax.value_and_grad(judged)(learned.params)",
        "tests/meta/test_maml.py::test_maml_fomaml_and_reptile_follow_their_closed_forms",
    ),
    Mutant(
        "a sign of the adaptation: Reptile walks away",
        "meta/reptile.py",
        "jax.tree.map(jnp.subtract, learned.params, adapted)",
        "jax.tree.map(jnp.subtract, adapted, learned.params)",
        "tests/meta/test_maml.py::test_maml_fomaml_and_reptile_follow_their_closed_forms",
    ),
    Mutant(
        "an implicit gradient of the adaptation without its proximal weight",
        "meta/implicit.py",
        "lambda x: proximity * x, solved",
        "lambda x: x, solved",
        "tests/meta/test_maml.py::test_implicit_maml_differentiates_the_root",
    ),
    Mutant(
        "rates of an adaptation one step late",
        "meta/inner.py",
        "jnp.minimum(step, len(x) - 1)",
        "jnp.minimum(step + 1, len(x) - 1)",
        "tests/meta/test_inner.py::test_rates_of_each_step_are_read_in_their_order_and_the_last_holds_on",
    ),
    Mutant(
        "a sum over devices in the place of a mean",
        "rules/gradients.py",
        "lax.pmean([leaves[index]",
        "lax.psum([leaves[index]",
        "tests/training/test_parallel.py::test_every_rule_on_shares_makes_the_step_of_the_whole_batch",
    ),
    Mutant(
        "no mean over devices",
        "rules/gradients.py",
        "    if axis_name is None:\n        return tree",
        "    if True:\n        return tree",
        "tests/training/test_parallel.py::test_every_rule_on_shares_makes_the_step_of_the_whole_batch",
    ),
    Mutant(
        "a memory that outlives its trial",
        "meta/rl2.py",
        "memory = jnp.where(step == 0, fresh(params), memory)",
        "memory = jnp.where(step == 0, memory, memory)",
        "tests/meta/test_rl2.py::test_the_memory_survives_an_episode_and_dies_with_the_trial",
    ),
    Mutant(
        "an advantage that reaches past the end of its trial",
        "meta/rl2.py",
        "jnp.where(on, later, 0)",
        "later",
        "tests/meta/test_rl2.py::test_at_lambda_0_it_is_the_error_and_between_their_sum",
    ),
    Mutant(
        "the larger of the two losses of proximal policy optimisation",
        "meta/rl2.py",
        "return -jnp.minimum(ratio * advantage",
        "return -jnp.maximum(ratio * advantage",
        "tests/meta/test_rl2.py::test_the_clipped_loss_and_its_slope",
    ),
    Mutant(
        "a memory that begins by forgetting what it should keep",
        "meta/rl2.py",
        "[hidden : 2 * hidden].set(kept)",
        "[hidden : 2 * hidden].set(-kept)",
        "tests/meta/test_rl2.py::test_a_memory_begins_by_lasting_as_long_as_its_span",
    ),
    Mutant(
        "advantages that are not standardised",
        "meta/rl2.py",
        "lessons._replace(advantage=standardised(lessons.advantage, moments.ongoing))",
        "lessons",
        "tests/meta/test_rl2.py::test_a_step_is_its_epochs_of_updates_by_every_part_of_its_trials",
    ),
    Mutant(
        "advantages standardised by what comes after the end of a trial too",
        "meta/rl2.py",
        "jnp.mean(advantage, where=ongoing), jnp.std(advantage, where=ongoing)",
        "jnp.mean(advantage), jnp.std(advantage)",
        "tests/meta/test_rl2.py::test_advantages_are_standardised_by_the_steps_that_are_part_of_their_trials",
    ),
    Mutant(
        "trials learned from once, whatever the epochs",
        "meta/rl2.py",
        "length=config.epochs",
        "length=1",
        "tests/meta/test_rl2.py::test_a_step_is_its_epochs_of_updates_by_every_part_of_its_trials",
    ),
    Mutant(
        "a memory that is cleared where an episode ends",
        "meta/rl2.py",
        "recall(params, memory, seen.step, features(choices, seen))",
        "recall(params, memory * (1 - seen.observation[-1]), seen.step, features(choices, seen))",
        "tests/meta/test_rl2.py::test_a_replayed_trial_is_the_one_that_was_played",
    ),
    Mutant(
        "a task that is drawn anew with each episode of a trial",
        "meta/environments.py",
        "environment.step(step_key, parameters, state.inner, action)",
        "environment.step(step_key, environment.draw(step_key), state.inner, action)",
        "tests/meta/test_environments.py::test_agents_of_one_key_act_in_the_same_tasks",
    ),
    Mutant(
        "the first of the samples in the place of their vote",
        "meta/strategies.py",
        "jnp.argmax(drawn, axis=1), arms).sum(axis=0)",
        "jnp.argmax(drawn, axis=1), arms)[0]",
        "tests/meta/test_strategies.py::test_thompson_sampling_pulls_an_arm_as_often_as_it_is_the_best",
    ),
    Mutant(
        "the beginning of an episode taken for a move of the one before",
        "meta/strategies.py",
        ".add(1 - ended)",
        ".add(1)",
        "tests/meta/test_strategies.py::test_a_belief_counts_rewards_and_moves_within_episodes",
    ),
    Mutant(
        "an upper bound of half the squared width",
        "meta/strategies.py",
        "jnp.sqrt(2 * jnp.log(step + 1.0) / pulled)",
        "jnp.sqrt(jnp.log(step + 1.0) / pulled)",
        "tests/meta/test_strategies.py::test_ucb1_pulls_the_arm_of_the_highest_bound",
    ),
    Mutant(
        "posterior sampling that samples at each step of an episode",
        "meta/strategies.py",
        "lax.cond(step == 0, planned,",
        "lax.cond(step >= 0, planned,",
        "tests/meta/test_strategies.py::test_posterior_sampling_plans_once_an_episode_and_optimism_raises_the_plan",
    ),
    Mutant(
        "a run that collapses and is rewarded as if it had not",
        "meta/control.py",
        "paid = keep(earned, jnp.minimum(earned, 0) - penalty)",
        "paid = earned",
        "tests/meta/test_control.py::test_a_collapse_earns_nothing_even_where_the_score_is_not_looked_at",
    ),
    Mutant(
        "a run that is not finite and goes on",
        "meta/control.py",
        "lives = all_finite((state, metrics, found)) & (found < high)",
        "lives = ~(found >= high)",
        "tests/test_gan_collapse.py::test_a_gan_that_is_not_finite_ends_its_episode_and_no_other",
    ),
    Mutant(
        "a controller that forgets between the episodes of a trial",
        "meta/tuners.py",
        "return carry, Course(",
        "return (tuner.init(start.numbers), *carry[1:]), Course(",
        "tests/meta/test_tuners.py::test_an_agent_is_followed_as_it_is_played",
    ),
    Mutant(
        "a population that copies states without their dials",
        "meta/tuners.py",
        "._replace(key=state.key)",
        "._replace(key=state.key, numbers=state.numbers)",
        "tests/meta/test_tuners.py::test_a_population_goes_on_with_the_best_and_turns_their_dials",
    ),
    Mutant(
        "metrics shown to a controller as their sum since it last acted",
        "training/steering.py",
        "metrics = {name: total / every for",
        "metrics = {name: total for",
        "tests/training/test_steering.py::test_what_is_seen_is_what_was",
    ),
    Mutant(
        "an average judged in the place of the adaptation",
        "fewshot.py",
        "gan.sample(key, state.current(),",
        "gan.sample(key, state,",
        "tests/test_fewshot.py::test_a_state_is_judged_by_the_parameters_that_it_has_now[distance]",
    ),
    Mutant(
        "samples that are not finite at no distance",
        "arithmetic.py",
        "none = squares <= 0",
        "none = ~(squares > 0)",
        "tests/test_divergences.py::test_a_sample_that_is_not_finite_has_no_distance",
    ),
    Mutant(
        "a penalty of every move where every nth was asked for",
        "rules/momentum.py",
        "d_steps=d_steps, lazy=lazy)",
        "d_steps=d_steps)",
        "tests/rules/test_rules.py::test_a_lazy_penalty_acts_every_nth_move_n_times[2-negative_momentum]",
    ),
    Mutant(
        "fakes drawn anew at the point where an extrapolation begins, though players share them",
        "rules/extragradient.py",
        "first, lazy, reuse=reuse)",
        "first, lazy)",
        "tests/rules/test_extragradient.py::test_players_that_reuse_have_the_discriminators_key_at_both_points",
    ),
    Mutant(
        "fakes drawn anew at the point ahead, though players share them",
        "rules/extragradient.py",
        "last, lazy, reuse=reuse)",
        "last, lazy)",
        "tests/rules/test_extragradient.py::test_players_that_reuse_have_the_discriminators_key_at_both_points",
    ),
    Mutant(
        "fakes drawn anew by the optimistic rule, though players share them",
        "rules/optimistic.py",
        "batch, lazy, reuse=reuse)",
        "batch, lazy)",
        "tests/rules/test_optimistic.py::test_players_that_reuse_have_the_discriminators_key_in_the_first_step_and_after",
    ),
)


def caught(mutant: Mutant, copy: Path) -> bool:
    """Whether the mutant's test fails in a copy of the checkout in which the mutant has taken the line's place."""
    path = copy / "gan_jax" / mutant.file
    text = path.read_text()
    if mutant.right not in text:
        raise SystemExit(f"{mutant.file} no longer has the line of {mutant.error!r}: bring the mutant up to date")
    path.write_text(text.replace(mutant.right, mutant.wrong))
    try:
        # Code 1 is a test that failed; 2 to 5 are no test at all.
        ended = subprocess.run([sys.executable, "-m", "pytest", "-x", mutant.test], cwd=copy, capture_output=True)
    finally:
        path.write_text(text)
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{mutant.test} could not be run: {ended.stdout.decode()[-2000:]}")
    return ended.returncode == 1


def main() -> int:
    """Run every mutant and say which survive; those named on the command line only, if any."""
    chosen = [mutant for mutant in MUTANTS if not sys.argv[1:] or any(word in mutant.error for word in sys.argv[1:])]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        ignored = shutil.ignore_patterns(".*", "runs", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=ignored)
        clean = subprocess.run([sys.executable, "-m", "pytest", *sorted({m.test for m in chosen})], cwd=copy)
        if clean.returncode:
            raise SystemExit("the tests fail without a mutant")
        survivors = 0
        for mutant in chosen:
            dead = caught(mutant, copy)
            survivors += not dead
            print(f"{'caught  ' if dead else 'SURVIVES'}  {mutant.error}  ({mutant.test})", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} are caught")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
