"""What the pages show is so: code runs unless a page says why not, commands are ones, links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from gan_jax import cli
from gan_jax.cli import training
from gan_jax.training import lookup

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "experiments").glob("*.md"), *(ROOT / "docs").rglob("*.md")])
}
# Whose commands are run too. Those of other pages measure for an hour, or rent machines: they are parsed.
TAUGHT = ("docs/quickstart.md", "docs/reproducibility.md", "docs/howto/")
FENCE = re.compile(r"(?:<!-- not run: ([^\n]+?) -->\n+)?^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block of code, and why it is not run, if it is not."""

    why: str
    language: str
    code: str


def blocks(page: str) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(PAGES[page])]


def languages(page: str) -> set[str]:
    """Of what there is something to run."""
    known = {"python", "sh"} if page.startswith(TAUGHT) else {"python"}
    return {block.language for block in blocks(page) if not block.why} & known


def execute(page: str, folder: Path) -> None:
    """Do what a reader of the page does, in order; blocks of Python share a session.

    A block of Python whose first line is a comment that names a file is that file.
    """
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    session = {"__name__": "page"}
    for why, language, code in blocks(page):
        if language == "python" and (name := re.match(r"# (\S+\.py)\n", code)):
            (folder / name[1]).write_text(code)
        elif language == "python" and not why:
            exec(compile(code, page, "exec"), session)
        elif language == "sh" and not why and page.startswith(TAUGHT):
            shell = ["bash", "-euo", "pipefail", "-c", code]
            done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{code}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if languages(page) == {"python"}])
def test_blocks_of_python_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    execute(page, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("page", [page for page in PAGES if "sh" in languages(page)])
def test_blocks_of_shell_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    execute(page, tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_read(page):
    """Indented, named otherwise or left open, it would be run by nobody."""
    left = FENCE.sub("", PAGES[page])
    toctrees = len(re.findall(r"^```\{toctree\}$", left, re.MULTILINE))
    assert len(re.findall(r"```|~~~", left)) == 2 * toctrees
    assert PAGES[page].count("<!-- not run:") == sum(bool(block.why) for block in blocks(page))
    assert {block.language for block in blocks(page)} <= {"python", "sh", "text"}


def shown(page: str) -> set[str]:
    """The calls of gan-jax in a page: lines of its blocks, and what it quotes that is more than a command's name."""
    code = "\n".join(block.code for block in blocks(page) if block.language == "sh").replace("\\\n", " ")
    quoted = re.findall(r"`((?:[A-Z_]+=\w+ )?gan-jax [a-z]+ [^`]+)`", FENCE.sub("", PAGES[page]).replace("\n", " "))
    return {line.strip() for line in [*code.splitlines(), *quoted] if " gan-jax " in f" {line}"}


@pytest.mark.parametrize(("page", "line"), [(page, line) for page in PAGES for line in sorted(shown(page))])
def test_commands_are_ones_that_the_command_line_takes(page, line):
    words = shlex.split(line, comments=True)
    words = [word for word in words[words.index("gan-jax") + 1 :] if word not in ("--help", "--resume")]
    match words:
        case ["train", name, *rest] if not name.endswith(".py") and name != "EXPERIMENT":
            experiment = lookup.find(name)
            training._typed(name, experiment, lookup.load(experiment), rest)
        case ["train", *_]:
            pass
        case _:
            cli._command(words)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", PAGES[page])):
        path = target.partition("#")[0]
        there = (ROOT / page).parent / path
        assert target.startswith(("https://", "mailto:")) or there.exists(), f"{page} leads to {target}"
