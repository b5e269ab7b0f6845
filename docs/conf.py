"""Sphinx configuration."""

import pyro_kanerva

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


def setup(app):
    app.connect("autodoc-skip-member", _skip_tuple_fields)
