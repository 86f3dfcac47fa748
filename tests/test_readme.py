"""What the README shows is so."""

import re
import runpy
from pathlib import Path

import numpy as np

from gan_jax.training import lookup

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_example_runs_and_is_twenty_lines():
    (example,) = blocks("python")
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["points"].shape == (1000, 2)
    assert np.isfinite(names["points"]).all()
    assert len([line for line in example.splitlines() if line.strip()]) <= 22


def test_the_commands_name_targets_and_experiments_that_exist():
    shell = "\n".join(blocks("sh"))
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\S+)", shell, re.MULTILINE)) == {"demo", "test"}
    assert {"demo", "test"} <= set(targets)
    for name in re.findall(r"gan-jax train (\w+)", shell):
        lookup.find(name)


def test_the_staircase_names_every_module_in_order():
    table = re.findall(r"^\| ((?:`[\w/]+` ?)+)\|", README, re.MULTILINE)
    named = [name.strip("/") for row in table for name in re.findall(r"`([\w/]+)`", row)]
    package = ROOT / "gan_jax"
    there = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(named) == there - {"__init__"}
    layers = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["LAYERS"]
    ranks = [layers.index(name) for name in named]
    assert ranks == sorted(ranks)


def test_links_and_pictures_resolve():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
