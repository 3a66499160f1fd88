"""Writing an export: all formats in one pass, then the cards, the notices and the manifests with checksums."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import polars as pl

from grasp_pipeline.corpus.export.card import front_matter
from grasp_pipeline.corpus.export.files import Ledger, Write, huggingface_folder, jsonl_file, parquet_file
from grasp_pipeline.corpus.export.licences import NAME as NOTICES
from grasp_pipeline.corpus.export.spans import without_fragments
from grasp_pipeline.corpus.export.tokens import Vocabulary, mds_folder, tokens_folder
from grasp_pipeline.errors import ConfigError

TOKEN_FORMATS = frozenset({"mds", "tokens"})
FOLDER_FORMATS = frozenset({"huggingface", "mds", "tokens"})
"""Formats of several files in a folder of their own, which only make sense together."""

MANIFEST = "manifest.json"


def check_destination(formats: Sequence[str], root: str) -> None:
    """Refuse formats that the store cannot replace as a whole.

    Raises:
        ConfigError: the store is an object store and a format is a folder of several files.
    """
    folders = sorted(FOLDER_FORMATS.intersection(formats))
    if "://" in root and folders:
        raise ConfigError(
            f"export.formats names {', '.join(folders)}: folders of several files that must be replaced together, "
            f"which the object store {root} cannot do; take them out of export.formats, or keep the store in a local "
            "folder and copy its folder export"
        )


def write_formats(
    blocks: Iterable[pl.DataFrame],
    folder: Path,
    formats: Sequence[str],
    vocabulary: Vocabulary,
    shard_tokens: int,
    min_span_tokens: int = 1,
) -> Ledger:
    """Write the spans in every format, a block at a time.

    Args:
        blocks: from `span_blocks`, with `input_ids` where a format is in `TOKEN_FORMATS`.
        folder: an existing, empty folder.
        formats: of parquet, jsonl, huggingface, mds, tokens.
        vocabulary: of the token ids.
        shard_tokens: tokens per file of huggingface and mds.
        min_span_tokens: fewest tokens of a span that is not a whole document; shorter ones are left out.

    Returns:
        What was written, and what was left out.

    Raises:
        ConfigError: the library of a format is missing.
        StoreError: the tables contradict each other.
    """
    ledger = Ledger()
    with ExitStack() as stack:
        writes = [
            stack.enter_context(_opened(name, folder, ledger, vocabulary, shard_tokens)) for name in formats
        ]
        for block in blocks:
            spans, fragments = without_fragments(block, min_span_tokens)
            ledger.left_out.add(fragments)
            if spans.height:
                for write in writes:
                    write(spans)
                ledger.add(spans)
    return ledger


def finish_export(
    folder: Path, ledger: Ledger, card: str, notices: str, about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write card, notices and manifest into the export and into each folder of a format; returns the manifest.

    Args:
        folder: what `write_formats` wrote into.
        ledger: what it returned.
        card: Markdown.
        notices: licence notices, Markdown; empty: none.
        about: added to every manifest.
    """
    folders = [folder / name for name in sorted(FOLDER_FORMATS) if (folder / name).is_dir()]
    for place in [folder, *folders]:
        head = front_matter(ledger.total.rows, bool(notices)) if place.name == "huggingface" else ""
        (place / "README.md").write_text(head + card, encoding="utf-8")
        if notices:
            (place / NOTICES).write_text(notices, encoding="utf-8")
    files = {
        path.relative_to(folder).as_posix(): _facts(path, folder, ledger)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    left_out = {"rows": ledger.left_out.rows, "tokens": ledger.left_out.tokens}
    totals = {"rows": ledger.total.rows, "tokens": ledger.total.tokens, "left_out": left_out, **about}
    for place in folders:
        prefix = f"{place.name}/"
        own = {name.removeprefix(prefix): facts for name, facts in files.items() if name.startswith(prefix)}
        _write_manifest(place, {**totals, "files": own})
    manifest = {**totals, "files": files}
    _write_manifest(folder, manifest)
    return manifest


def _opened(
    name: str, folder: Path, ledger: Ledger, vocabulary: Vocabulary, shard_tokens: int
) -> AbstractContextManager[Write]:
    if name == "parquet":
        return parquet_file(folder, ledger)
    if name == "jsonl":
        return jsonl_file(folder, ledger)
    if name == "huggingface":
        return huggingface_folder(folder, ledger, shard_tokens)
    if name == "mds":
        return mds_folder(folder, ledger, vocabulary, shard_tokens)
    return tokens_folder(folder, ledger, vocabulary)


def _facts(path: Path, folder: Path, ledger: Ledger) -> dict[str, Any]:
    with path.open("rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    facts: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": sha}
    counts = ledger.files.get(path.relative_to(folder).as_posix())
    if counts is not None:
        facts |= {"rows": counts.rows, "tokens": counts.tokens}
    return facts


def _write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
