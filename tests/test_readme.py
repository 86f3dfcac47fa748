"""The README's two commands exist, and the staircase of the architecture is that of the house."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_readme_has_two_commands_and_they_are_targets():
    (shell,) = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    targets = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make (\S+)", shell, re.MULTILINE)) == {"demo", "test"} <= set(targets)


def test_the_staircase_names_every_module_in_order():
    table = re.findall(r"^\| ((?:`[\w/]+` ?)+)\|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    named = [name.strip("/") for row in table for name in re.findall(r"`([\w/]+)`", row)]
    package = ROOT / "gan_jax"
    there = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    assert set(named) == there - {"__init__"}
    layers = runpy.run_path(str(ROOT / "tests" / "test_architecture.py"))["LAYERS"]
    ranks = [layers.index(name) for name in named]
    assert ranks == sorted(ranks)
