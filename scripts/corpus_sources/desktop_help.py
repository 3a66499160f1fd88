"""GNOME's help in many languages; untranslated pages and paragraphs stay English."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .markup import mallard_text
from .packages import Package
from .pages import Page

_HELP = Path("usr/share/help")


def help_pages(package: Package) -> Iterator[Page]:
    """Every page of every locale; `C` is the English original."""
    root = package.root / _HELP
    for path in sorted(root.rglob("*.page")):
        locale, book, *rest = path.relative_to(root).with_suffix("").parts
        name = "/".join(rest) if book == "gnome-help" else f"{book}/{'/'.join(rest)}"
        yield Page(f"gnome-help/{locale}/{name}", "gnome-help", partial(_text, path), f"gnome-help/{name}")


def _text(path: Path) -> str:
    return mallard_text(path.read_bytes())
