"""Sphinx configuration."""

from pathlib import Path

import pyro_kanerva
from pyro_kanerva.playground import write_page

project = "pyro_kanerva"
author = "the pyro_kanerva developers"
copyright = "2026, the pyro_kanerva developers"
version = release = pyro_kanerva.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # a tutorial runs again only if its code has changed
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds for a cell
nb_code_prompt_show = "Show the code of the figure"
nb_code_prompt_hide = "Hide"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
exclude_patterns = ["_build", "jupyter_execute"]  # myst-nb writes the latter beside the output folder
html_theme = "furo"
html_title = f"pyro_kanerva {release}"


def _skip_tuple_fields(app, what, name, obj, skip, options):
    """Leave out the fields of NamedTuples: the docstring of the class says what they are."""
    return True if str(getattr(obj, "__doc__", "")).startswith("Alias for field number") else None


def _write_playground(app, exception):
    """The page that docs/playground.md shows, as ``pyro-kanerva playground --pretrained letters`` writes it."""
    if exception is None and app.builder.format == "html":
        patterns = pyro_kanerva.Episodes(pyro_kanerva.glyphs("test"), 48, 1)[0][0]
        path = Path(app.outdir, "_static", "playground.html")
        write_page(path, pyro_kanerva.pretrained("letters"), patterns, "letters")


def setup(app):
    app.connect("autodoc-skip-member", _skip_tuple_fields)
    app.connect("build-finished", _write_playground)
