"""How the site is made, by `make docs`: Markdown that reads where it lies, too, and a reference made of docstrings."""

import re

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
autodoc_default_options = {"members": True, "show-inheritance": False}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
default_role = "code"  # docstrings quote names as Markdown does
add_module_names = False

# Pages that lie outside of docs/, and are shown in it.
OUTSIDE = {"CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog", "experiments/README.md": "experiments"}


def _inside(app, page: str, source: list[str]) -> None:
    """Let links to pages that are shown here lead to where they are shown."""
    for path, shown in OUTSIDE.items():
        source[0] = re.sub(rf"\]\((?:\.\./)+{re.escape(path)}", f"](/{shown}.md", source[0])


def _skip(app, what: str, name: str, member, skipped: bool, options) -> bool | None:
    """Leave out the fields of NamedTuples, of which Python says their number alone; the class says what they are."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app) -> None:
    """Connect what is above."""
    app.connect("source-read", _inside)
    app.connect("autodoc-skip-member", _skip)
