"""The layering of the house: each module imports only from the layers above it, and a few things nobody does.

What is read is the source (`ast`), so imports inside functions count and nothing is executed.
"""

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LAYERS = (
    "base",
    "provenance",
    "arithmetic",
    "optimisers",
    "objectives",
    "divergences",
    "penalties",
    "latents",
    "rules",
    "games",
    "augment",
    "networks",
    "metrics",
    "diagnostics",
    "data",
    "gan",
    "evaluation",
    "fewshot",
    "meta",
    "training",
    "testing",
    "cli",
)
ROOT = Path(__file__).parents[1]
# They cost several times jax's own on the same step, and hand back modules where this house expects plain trees.
NNX_TRANSFORMS = {
    *("jit", "pmap", "shard_map", "vmap", "scan", "remat", "grad", "value_and_grad", "custom_vjp"),
    *("Optimizer", "ModelAndOptimizer"),
}

Imports = Mapping[str, set[str]]  # each module, and the modules that it imports, by full name


def layer(module: str) -> str:
    """Name the layer of `gan_jax.<layer>...`; the package itself is in none, and its name is empty."""
    return module.partition(".")[2].partition(".")[0]


def violations(imports: Imports) -> list[str]:
    """List what breaks the order; `gan_jax` itself may import anything, hence nothing imports it."""
    found = []
    for module, targets in imports.items():
        if layer(module) and layer(module) not in LAYERS:
            found.append(f"{module} is in no layer")
        for target in sorted(targets):
            if target.split(".")[0] == "experiments":
                found.append(f"{module} imports {target}: the package knows no experiment")
            elif target.split(".")[0] != "gan_jax" or module == "gan_jax":
                continue
            elif target == "gan_jax":
                found.append(f"{module} imports gan_jax itself, which may import anything: name the module")
            elif layer(module) in LAYERS and layer(target) in LAYERS:
                if LAYERS.index(layer(target)) > LAYERS.index(layer(module)):
                    found.append(f"{module} imports upward: {target}")
                if (layer(module), layer(target)) == ("meta", "gan"):
                    found.append(f"{module} imports {target}: meta works on any Learner, not on GANs")
    try:
        TopologicalSorter({module: targets for module, targets in imports.items() if module != "gan_jax"}).prepare()
    except CycleError as error:
        found.append(f"an import cycle: {' -> '.join(error.args[1])}")
    return found


def imported(tree: ast.AST, package: str, modules: set[str]) -> Iterator[str]:
    """Name every module that a tree imports; `package` is what its relative imports start from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield submodule if submodule in modules or (source == "gan_jax" and alias.name in LAYERS) else source


def trees(root: Path) -> dict[str, tuple[str, ast.Module]]:
    """Parse every file of the package: full name -> (package it is in, tree)."""
    parsed = {}
    for file in sorted((root / "gan_jax").rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        package = ".".join(parts[:-1])
        name = package if parts[-1] == "__init__" else ".".join(parts)
        parsed[name] = (package, ast.parse(file.read_text(encoding="utf-8"), str(file)))
    return parsed


def attributes(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Name every `owner.attribute` and every `from owner import attribute`, the owner by its last word."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node.value).split(".")[-1], node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module.split(".")[-1], alias.name) for alias in node.names)


PACKAGE = trees(ROOT)
every_module = pytest.mark.parametrize("module", PACKAGE)


def test_the_package_keeps_the_order():
    imports = {name: set(imported(tree, package, set(PACKAGE))) for name, (package, tree) in PACKAGE.items()}
    assert "gan_jax.base" in imports["gan_jax.objectives"], "the reader of imports reads nothing"
    assert violations(imports) == []


@every_module
def test_flax_stays_in_the_networks(module):
    package, tree = PACKAGE[module]
    flax = {target for target in imported(tree, package, set(PACKAGE)) if target.split(".")[0] == "flax"}
    assert not flax or layer(module) == "networks", f"{module} imports {flax}: only gan_jax.networks knows Flax"


@every_module
def test_no_transform_of_flax_is_used(module):
    used = {name for owner, name in attributes(PACKAGE[module][1]) if owner == "nnx"} & NNX_TRANSFORMS
    assert not used, f"{module} uses nnx's {used}: split the module and use jax's"


@every_module
def test_nothing_asks_for_the_default_backend(module):
    """A program compiled here for a device that is not would take the wrong branch."""
    asked = [name for _, name in attributes(PACKAGE[module][1]) if name == "default_backend"]
    assert not asked, f"{module} asks for the default backend: use lax.platform_dependent"


@pytest.mark.parametrize(
    ("imports", "expected"),
    [
        ({"gan_jax.objectives": {"gan_jax.base", "jax"}}, []),
        ({"gan_jax": {"gan_jax.cli", "gan_jax.base"}, "gan_jax.base": set()}, []),
        ({"gan_jax.rules.a": {"gan_jax.rules.b"}, "gan_jax.rules": {"gan_jax.rules.a"}}, []),
        ({"gan_jax.base": {"gan_jax.objectives"}}, ["gan_jax.base imports upward: gan_jax.objectives"]),
        ({"gan_jax.rules.a": {"gan_jax.gan"}}, ["gan_jax.rules.a imports upward: gan_jax.gan"]),
        ({"gan_jax.utils": {"jax"}}, ["gan_jax.utils is in no layer"]),
        ({"gan_jax.utils.text": set()}, ["gan_jax.utils.text is in no layer"]),
        (
            {"gan_jax.rules.a": {"gan_jax.rules.b"}, "gan_jax.rules.b": {"gan_jax.rules.a"}},
            ["an import cycle: gan_jax.rules.a -> gan_jax.rules.b -> gan_jax.rules.a"],
        ),
        (
            {"gan_jax.meta.maml": {"gan_jax.gan"}},
            ["gan_jax.meta.maml imports gan_jax.gan: meta works on any Learner, not on GANs"],
        ),
        (
            {"gan_jax.cli": {"experiments.digits"}},
            ["gan_jax.cli imports experiments.digits: the package knows no experiment"],
        ),
        (
            {"gan_jax": {"experiments"}},
            ["gan_jax imports experiments: the package knows no experiment"],
        ),
        (
            {"gan_jax.cli": {"gan_jax"}},
            ["gan_jax.cli imports gan_jax itself, which may import anything: name the module"],
        ),
    ],
)
def test_the_check_finds_what_breaks_the_order(imports, expected):
    assert violations(imports) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import jax.numpy as jnp, gan_jax.base", {"jax.numpy", "gan_jax.base"}),
        ("from gan_jax import gan, rules", {"gan_jax.gan", "gan_jax.rules"}),
        ("from gan_jax import load", {"gan_jax"}),
        ("from gan_jax.rules import alternating", {"gan_jax.rules.alternating"}),
        ("from gan_jax.rules import RULES", {"gan_jax.rules"}),
        ("from . import alternating", {"gan_jax.rules.alternating"}),
        ("from .alternating import step", {"gan_jax.rules.alternating"}),
        ("from .. import gan", {"gan_jax.gan"}),
        ("from ..gan import assemble", {"gan_jax.gan"}),
        ("def late():\n    import gan_jax.gan", {"gan_jax.gan"}),
        ("if TYPE_CHECKING:\n    from gan_jax.gan import GAN", {"gan_jax.gan"}),
    ],
)
def test_every_form_of_import_is_read(source, expected):
    assert set(imported(ast.parse(source), "gan_jax.rules", {"gan_jax.rules.alternating"})) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nnx.jit(f)", ("nnx", "jit")),
        ("flax.nnx.Optimizer(m)", ("nnx", "Optimizer")),
        ("from flax.nnx import grad", ("nnx", "grad")),
        ("jax.default_backend()", ("jax", "default_backend")),
        ("from jax import default_backend as here", ("jax", "default_backend")),
    ],
)
def test_every_form_of_use_is_read(source, expected):
    assert expected in attributes(ast.parse(source))
