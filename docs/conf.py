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


html_copy_source = False
html_show_sourcelink = False
html_use_index = False
html_domain_indices = False

ACCESSIBLE = {
    'role="heading">': 'role="heading" aria-level="2">',
    '<aside class="sidebar-drawer">': '<aside class="sidebar-drawer" aria-label="Pages">',
    '<aside class="toc-drawer': '<aside aria-label="On this page" class="toc-drawer',
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    '<th class="head"><p></p></th>': "<td></td>",
}
"""What theme and docutils write -> what a keyboard and a screen reader need, as axe-core asks for it."""


def make_accessible(app, failed) -> None:
    """Mend the pages as they were written; those of an earlier build are mended already."""
    if failed is not None or app.builder.name != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        for written, wanted in ACCESSIBLE.items():
            page = page.replace(written, wanted)
        if "<h1" not in page:  # the page of the search
            page = page.replace('id="furo-main-content">', 'id="furo-main-content"><h1>Search</h1>')
        path.write_text(page, encoding="utf-8")


def setup(app) -> None:
    """Write the generated pages; links that leave the folder lead to them, or become plain text."""
    write_reference(DOCS / "reference")
    app.connect("build-finished", make_accessible)
    app.connect(
        "source-read", lambda _app, _name, source: source.__setitem__(0, out_of_the_folder(source[0]))
    )
