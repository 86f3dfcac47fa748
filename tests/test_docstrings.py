"""What every public name says of itself: what its arguments are, and what it refuses."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gan_jax"
# Types that do not say by themselves what is meant: a number has a unit or a range, an array without a shape has one, a
# function takes something. An argument of another type (a contract, a path, an array of a shape) is told by it.
BARE = re.compile(r"\b(int|float|str|bool|Scalar|Range|Array|Callable|tuple|Sequence|Mapping)\b")
SHAPED = re.compile(r"\w+\[(Array|np\.ndarray)[^\]]*\]")
# Words that mean the same everywhere, and what a docstring says of its arguments by naming another's.
KNOWN = {"params", "stats", "batch", "hyper", "directory", "path"}
ELSEWHERE = re.compile(r"[Aa]rg(ument)?s.*(of|as|for) `|as `\w+` (takes|does|has)|see `")


def functions(path):
    """The public functions of a module, and public methods of its classes, with their docstrings."""
    for node in ast.parse(path.read_text()).body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for each in inside:
            if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
                yield (
                    each,
                    (ast.get_docstring(each) or "") + (ast.get_docstring(node) or "" if node is not each else ""),
                )


def raised(function):
    """What a function raises by itself, not within functions that it makes."""
    inner = {
        id(n)
        for made in ast.walk(function)
        if isinstance(made, ast.FunctionDef) and made is not function
        for n in ast.walk(made)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Raise) and id(node) not in inner and isinstance(node.exc, ast.Call):
            name = getattr(node.exc.func, "id", getattr(node.exc.func, "attr", ""))
            if name[0].isupper() or name == "unknown":  # which makes a ValueError
                yield name


PUBLIC = [
    pytest.param(function, text, id=f"{path.relative_to(PACKAGE).with_suffix('')}:{function.name}")
    for path in sorted(PACKAGE.rglob("*.py"))
    if "cli" not in path.parts and "experiments" not in path.parts
    for function, text in functions(path)
]


@pytest.mark.parametrize(("function", "text"), PUBLIC)
def test_each_argument_is_spoken_of(function, text):
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    bare = {
        each.arg for each in arguments if each.annotation and BARE.search(SHAPED.sub("", ast.unparse(each.annotation)))
    }
    silent = {
        name
        for name in bare - KNOWN
        if not re.search(rf"\b{name.removesuffix('s').replace('_', '.?')}(e?s|ed)?\b", text)
    }
    silent = set() if ELSEWHERE.search(text) else silent
    assert not silent, f"{function.name} does not say what {', '.join(sorted(silent))} is"


@pytest.mark.parametrize(("function", "text"), PUBLIC)
def test_each_error_is_spoken_of(function, text):
    for name in raised(function):
        assert name in text or (name == "unknown" and "ValueError" in text), f"{function.name} raises {name}"
