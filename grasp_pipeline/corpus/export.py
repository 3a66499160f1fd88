"""The kept text as files that people train on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl


def kept_spans(pruned: pl.LazyFrame, chunks: pl.LazyFrame, documents: pl.LazyFrame) -> pl.DataFrame:
    """Return the kept text: one row per run of neighbouring kept chunks of a document.

    Args:
        pruned: rows of `tables.PRUNED_CORPUS`.
        chunks: rows of `tables.TOKENIZED_SHARDS`.
        documents: rows of `tables.DOCUMENTS`.

    Returns:
        doc_id, part (0, 1...), source, text, n_tokens, sorted by doc_id and part.
    """
    kept = chunks.select("chunk_id", "doc_id", "position", "start", "end", "n_tokens").join(
        pruned.select("chunk_id"), on="chunk_id", how="semi"
    )
    gap = (pl.col("position") != pl.col("position").shift(1).over("doc_id") + 1).fill_null(value=True)
    runs = (
        kept.sort("doc_id", "position")
        .with_columns(part=gap.cast(pl.Int64).cum_sum().over("doc_id") - 1)
        .group_by("doc_id", "part")
        .agg(pl.col("start").min(), pl.col("end").max(), pl.col("n_tokens").sum())
    )
    return (
        runs.join(documents.select("doc_id", "source", "text"), on="doc_id")
        .with_columns(text=pl.col("text").str.slice(pl.col("start"), pl.col("end") - pl.col("start")))
        .select("doc_id", "part", "source", "text", "n_tokens")
        .sort("doc_id", "part")
        .collect()
    )


def write_export(
    spans: pl.DataFrame, folder: Path, formats: Sequence[str], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the spans and a manifest with sizes and sha-256 digests; returns the manifest.

    Args:
        spans: from `kept_spans`.
        folder: an existing, empty folder.
        formats: `parquet`, `jsonl` (zstd-compressed).
        about: written into the manifest.
    """
    import zstandard

    files: dict[str, dict[str, Any]] = {}
    for name in formats:
        path = folder / ("corpus.parquet" if name == "parquet" else "corpus.jsonl.zst")
        if name == "parquet":
            spans.write_parquet(path, compression="zstd")
        else:
            with zstandard.open(path, "wb") as file:
                for piece in spans.iter_slices(4096):
                    file.write(piece.write_ndjson().encode())
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha}
    manifest = {"rows": spans.height, "tokens": int(spans["n_tokens"].sum()), "files": files, **about}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True))
    return manifest
