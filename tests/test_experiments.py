"""No experiment rots: each runs two steps at its smallest, samples, and says what it is."""

import dataclasses
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gan_jax.base import Program, Study
from gan_jax.cli.words import RunOptions
from gan_jax.training import lookup, loop, studies

NAMES = [experiment.name for experiment in lookup.catalogue()]
MODULES = {name: lookup.load(lookup.find(name)) for name in NAMES}
# The embedded ones, where the default must be prepared.
DATA = dict.fromkeys(("features", "fashion_resnet", "mnist_mlp", "omniglot_maml_gan", "stacked_mnist"), "digits")
BUILT = {name: module.build(module.SMALLEST, DATA.get(name)) for name, module in MODULES.items()}
LARGE = ("fashion_resnet", "omniglot_maml_gan")  # to compile; `make test-slow` tries them
every_program = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE))
        for name, built in BUILT.items()
        if isinstance(built, Program)
    ],
)
every_study = pytest.mark.parametrize("name", [name for name, built in BUILT.items() if isinstance(built, Study)])


def test_the_table_of_experiments_is_what_their_docstrings_say():
    folder = lookup.shipped()
    made = runpy.run_path(str(folder / "_readme.py"))["text"]()
    assert (folder / "README.md").read_text() == made, "make experiments/README.md"


@pytest.mark.slow
@every_study
def test_a_study_at_the_smallest_computes_each_cell_and_reports_at_each_stage(name, tmp_path):
    study = BUILT[name]
    for count, cell in enumerate(study.cells, 1):
        studies.run(study, tmp_path, (cell,), "0", lambda name, seconds: None)
        assert len(studies.finished(study, tmp_path)) == count
    text, figures = studies.report(study, tmp_path)
    assert text.count("|") > 4, "a study ends in a table"
    assert figures, "a study ends in a figure"
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)


@every_study
def test_a_study_has_a_report_before_there_is_any_result(name):
    assert BUILT[name].report({}).text


@every_program
def test_two_steps_at_the_smallest(name):
    program = BUILT[name]
    traces = []

    def step(*arguments):
        traces.append(None)
        return program.step(*arguments)

    key, counted = jax.random.key(0), program._replace(step=step)
    before = jax.tree.map(np.asarray, loop.init(program, key))
    result = loop.train(counted, key, steps=2, chunk=1)
    assert len(traces) == 1
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (before, result.state)), strict=True)]
    assert any(moved)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state))
    for shown in jax.jit(program.observe)(key, result.state).values():
        assert jnp.isfinite(shown).all()
    if program.sample:
        assert jax.jit(program.sample, static_argnums=2)(key, result.state, 3, None).shape[0] == 3


@pytest.mark.slow
@every_program
def test_a_chunk_gives_its_state_away_and_never_asks_the_host(name):
    program = BUILT[name]
    key = jax.random.key(0)
    state = jax.eval_shape(lambda key: loop.init(program, key), key)
    lowered = loop.compile_chunk(program, 2).lower(key, state, program.batches.arrays, jnp.int32(0))
    donated = [leaf.donated for leaf in jax.tree.leaves(lowered.args_info[0][1])]
    assert all(donated)
    assert len(donated) == len(jax.tree.leaves(state))
    text = lowered.as_text()
    assert not [word for word in ("callback", "infeed", "outfeed", "send", "recv") if word in text]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_how_and_with_what_result(name):
    experiment = lookup.find(name)
    summary = lookup.summary(experiment)
    assert all(summary), f"{name} lacks a line: {summary}"
    assert "pending" not in summary.result + summary.cost
    config = MODULES[name].Config
    fields = {field.name for field in dataclasses.fields(config)}
    assert not fields & {field.name for field in dataclasses.fields(RunOptions)}
    assert all(field.default is not dataclasses.MISSING for field in dataclasses.fields(config))


@pytest.mark.slow
def test_conditional_variants_take_the_label():
    for name in ("mnist_dcgan", "mnist_mlp"):
        module = MODULES[name]
        # Classes start alike, and each is told apart by a step that has seen it.
        config = dataclasses.replace(module.SMALLEST, conditional=True, batch=100)
        program = module.build(config, "digits")
        state = loop.train(program, jax.random.key(0), steps=1).state
        one, other = (program.sample(jax.random.key(1), state, 2, label) for label in (3, 7))
        assert not np.array_equal(one, other), name
        assert program.observe(jax.random.key(0), state)["image"].shape == (100, 28, 28, 1)
