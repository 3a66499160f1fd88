"""Programming manuals: Python (reStructuredText), C++ and C (wiki pages), Rust (books and API pages)."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .markup import html_text
from .packages import Package
from .pages import Page, tidy

_PYTHON = Path("usr/share/doc/python3.11/html/_sources")
_CPP = Path("usr/share/cppreference/doc/html")
_RUST = Path("usr/share/doc/rust-doc/html")
_CPP_BODY = re.compile(r'<div id="content">.*?(?=<!-- /content -->)', re.S)
_MAIN = re.compile(r"<main>.*?</main>", re.S)
_REFRESH = '<meta http-equiv="refresh"'


def python_pages(package: Package) -> Iterator[Page]:
    """Sources of the Python manual, one page a file."""
    root = package.root / _PYTHON
    for path in sorted(root.rglob("*.rst.txt")):
        name = path.relative_to(root).as_posix().removesuffix(".rst.txt")
        yield Page(f"python-docs/{name}", "python-docs", partial(_read, path))


def cppreference_pages(package: Package) -> Iterator[Page]:
    """Wiki pages of the C and C++ reference."""
    root = package.root / _CPP
    for path in sorted(root.rglob("*.html")):
        name = path.relative_to(root).as_posix().removesuffix(".html")
        yield Page(f"cppreference/{name}", "cppreference", partial(_cppreference_text, path))


def rust_pages(package: Package) -> Iterator[Page]:
    """Books, API pages and rendered source code of the Rust documentation, without redirects."""
    root = package.root / _RUST
    for path in sorted(root.rglob("*.html")):
        name = path.relative_to(root).as_posix().removesuffix(".html")
        if not path.is_symlink() and not name.endswith("/print"):  # print: the whole book once more
            yield Page(f"rust-docs/{name}", "rust-docs", partial(_rust_text, path))


def _read(path: Path) -> str:
    return tidy(path.read_text(encoding="utf-8", errors="replace"))


def _cppreference_text(path: Path) -> str:
    html = path.read_text(encoding="utf-8", errors="replace")
    body = _CPP_BODY.search(html)
    # The entries of a "see also" cell are lines of their own only by style sheet.
    return html_text((body.group() if body else html).replace("</span><span>", "</span> <span>"))


def _rust_text(path: Path) -> str:
    html = path.read_text(encoding="utf-8", errors="replace")
    if _REFRESH in html:
        return ""
    main = _MAIN.search(html)
    return html_text(main.group() if main else html)
