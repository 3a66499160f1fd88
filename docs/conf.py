"""Sphinx builds the site from these pages: `make docs`. References are generated from the code, before every build."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from scripts.reference import out_of_the_folder, write_reference  # noqa: E402

project = "grasp_pipeline"
author = "the authors of grasp_pipeline"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "grasp_pipeline"
html_show_copyright = False
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
nitpicky = False
"""Names of other libraries in signatures are not looked up: that needs a network. Links between pages are checked."""


def setup(app) -> None:
    """Write the generated pages; links that leave the folder lead to them, or become plain text."""
    write_reference(DOCS / "reference")
    app.connect(
        "source-read", lambda _app, _name, source: source.__setitem__(0, out_of_the_folder(source[0]))
    )
