"""Licences of a corpus: a file LICENSES.md beside its files, or one folder above."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from grasp_pipeline.corpus.storage import read_utf8

NAME = "LICENSES.md"


@dataclass(frozen=True)
class Licences:
    """Licence per source, and the notices as they were found, which go with every copy of the text."""

    by_source: dict[str, str]
    notices: str


def find_licences(uris: Iterable[str]) -> Licences:
    """Read every LICENSES.md that lies beside the input files or in the folder above them.

    Its Markdown tables that have the columns `source` and `licence` (or `license`) name the licence of each source.

    Args:
        uris: input files as `tables.MANIFEST` names them; those of object stores and of the hub are passed over.

    Raises:
        InputError: a file is not UTF-8 or cannot be read.
    """
    folders = {Path(uri.removeprefix("file://")).parent for uri in uris if _is_local(uri)}
    paths = sorted({folder / NAME for folder in folders} | {folder.parent / NAME for folder in folders})
    texts = [read_utf8(path) for path in paths if path.is_file()]
    by_source = {source: licence for text in texts for source, licence in licence_rows(text).items()}
    return Licences(by_source, "\n\n".join(dict.fromkeys(texts)))


def licence_rows(markdown: str) -> dict[str, str]:
    """Return source -> licence of the Markdown tables that have both columns."""
    found: dict[str, str] = {}
    header: list[str] = []
    for line in markdown.splitlines():
        if not line.lstrip().startswith("|"):
            header = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not header:
            header = [cell.lower() for cell in cells]
            continue
        row = dict(zip(header, cells, strict=False))
        licence = row.get("licence") or row.get("license")
        if row.get("source") and licence and set(line) - set("|-: "):
            found[row["source"]] = licence
    return found


def _is_local(uri: str) -> bool:
    return "://" not in uri or uri.startswith("file://")
