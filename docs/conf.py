"""How the site is made, by `make docs`: Markdown that reads where it lies, too, and a reference made of docstrings."""

import os
import re
from pathlib import Path

import gan_jax

project = "gan_jax"
version = release = gan_jax.__version__
project_copyright = "The gan_jax authors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
html_theme = "furo"
html_title = f"gan_jax {version}"
html_theme_options = {"navigation_with_keys": True}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# The reference: a page for each module, none of which is written by hand or can be forgotten.
apidoc_modules = [{"path": "../gan_jax", "destination": "api", "max_depth": 3, "separate_modules": True}]
exclude_patterns = ["api/modules.rst"]
autodoc_default_options = {"members": True, "show-inheritance": False, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"  # docstrings quote names as Markdown does
add_module_names = False

# Pages that lie outside of docs/ and are shown in it, in the place of the one of this name.
OUTSIDE = {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog", "experiments/README.md": "experiments"}
ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)#\s]+)")
_ITEM = re.compile(r"(\w+(?:, \w+)*): ")


def _inside(app, page: str, source: list[str]) -> None:
    """Put in what is shown from outside, and let links to it lead to where it is shown."""
    shown = {name: path for path, name in OUTSIDE.items()}
    here = ROOT / shown.get(page, f"docs/{page}.md")
    if page in shown:
        source[0] = here.read_text()

    def led(link: re.Match) -> str:
        target = os.path.relpath(here.parent / link[1], ROOT)
        path = f"docs/{OUTSIDE[target]}.md" if target in OUTSIDE else target
        return f"]({os.path.relpath(ROOT / path, (ROOT / 'docs' / page).parent)}"

    parts = re.split(r"(^```.*?^```$)", source[0], flags=re.DOTALL | re.MULTILINE)
    parts[::2] = (_LINK.sub(led, text) for text in parts[::2])  # the others are blocks of code
    source[0] = "".join(parts)


def _marked(found: re.Match) -> str:
    """A name in backticks, parted from what it touches where that would hide it; or a sign that is to be itself."""
    before, name, after, sign = found.groups(default="")
    if sign:
        return f"\\{sign}"
    before += "" if not before or before.isspace() or before in "([{<\"'-/:" else r"\ "
    return before + name + (rf"\ {after}" if after else "")


def _plain(app, what: str, name: str, obj, options, lines: list[str]) -> None:
    """Write a docstring, which is plain text with names in backticks, as the markup that Sphinx reads.

    Lines `name: what it is` become a list, but in the sections that napoleon knows.
    """
    text = re.sub(r"(?:^|(.))(`[^`]*`)(\w?)|([|*\\]|_(?=\W|$))", _marked, "\n".join(lines), flags=re.MULTILINE)
    lines[:] = []
    section = listed = False
    for line in text.split("\n"):
        begins = not lines or not lines[-1] or listed or lines[-1].endswith((".", ":"))
        section = bool(re.match(r"(Args|Raises|Returns|Yields)\b.*:$", line)) or (section and line[:1] in ("", " "))
        if not section and begins and (item := _ITEM.match(line)):
            if not listed:
                lines.append("")
            lines.append(f"- **{item[1]}**: {line[item.end() :]}")
            listed = True
        elif listed and line.startswith(" "):
            lines[-1] += f" {line.strip()}"
        else:
            if listed and line:
                lines.append("")
            listed = False
            lines.append(line)


def _skip(app, what: str, name: str, member, skipped: bool, options) -> bool | None:
    """Leave out the fields of NamedTuples, of which Python says their number alone; the class says what they are."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app) -> None:
    """Connect what is above."""
    app.connect("source-read", _inside)
    app.connect("autodoc-process-docstring", _plain, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
