"""What one curation did otherwise than another: inputs, configuration, documents, chunks, certificates, sealed losses.

Documents and chunks are compared by their keys alone, so that no text is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from grasp_pipeline import tables
from grasp_pipeline.lineage.curation import Curation

GONE = "not in the corpus"
NEW = "new in the corpus"

HEAD = (
    *("time", "run_id", "published", "target", "budget_tokens", "arm", "documents", "chunks", "tokens"),
    *("improvement", "lower_bound", "certified", "statement"),
)


def compare(
    before: Curation, after: Curation, sealed: Mapping[int, pl.DataFrame | None] | None = None
) -> dict[str, Any]:
    """Return what differs between two curations, JSON-serialisable.

    Args:
        before, after: the curations.
        sealed: number -> `tables.EVALUATION_LOSSES` as measured on that curation's corpus, None where it was not.

    Returns:
        before, after: number and what the row of `curations` says; inputs: entered, left, changed, unchanged (files);
        configuration and packages: field -> both values, of those that differ; sources: tokens of the corpus and kept
        tokens of both per source; documents and chunks: counts of entered, left and unchanged, in all and by reason (of
        documents in the corpus, of chunks in the pruned corpus); certificates and sealed_losses: rows side by side, or
        the sentence that says what was not measured.
    """
    a, b = before.inputs, after.inputs
    return {
        "before": {"curation": before.number} | {name: before.row[name] for name in HEAD},
        "after": {"curation": after.number} | {name: after.row[name] for name in HEAD},
        "inputs": {
            "entered": sorted(b.keys() - a.keys()),
            "left": sorted(a.keys() - b.keys()),
            "changed": sorted(uri for uri in a.keys() & b.keys() if a[uri] != b[uri]),
            "unchanged": sum(a[uri] == b[uri] for uri in a.keys() & b.keys()),
        },
        "configuration": differing(before.configuration, after.configuration),
        "packages": differing(json.loads(before.row["packages"]), json.loads(after.row["packages"])),
        "sources": _sources(before, after),
        "documents": _documents(before, after),
        "chunks": _chunks(before, after),
        "certificates": _side_by_side(
            pl.DataFrame(before.certificate, infer_schema_length=None),
            pl.DataFrame(after.certificate, infer_schema_length=None),
            ("task", "baseline"),
            ("arm", "improvement", "lower_bound", "certified"),
        ),
        "sealed_losses": _sealed(before, after, sealed or {}),
    }


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return field -> both values, where they differ; None for a field that one of them lacks."""
    names = sorted(before.keys() | after.keys())
    return {
        name: [before.get(name), after.get(name)] for name in names if before.get(name) != after.get(name)
    }


def _sources(before: Curation, after: Curation) -> list[dict[str, Any]]:
    parts = []
    for when, each in (("before", before), ("after", after)):
        corpus = each.read(tables.TOKENIZED_SHARDS).group_by("source").agg(pl.col("n_tokens").sum())
        kept = each.read(tables.PRUNED_CORPUS).group_by("source").agg(pl.col("kept_tokens").sum())
        both = corpus.join(kept, on="source", how="full", coalesce=True)
        parts.append(both.rename({"n_tokens": f"tokens_{when}", "kept_tokens": f"kept_{when}"}))
    joined = parts[0].join(parts[1], on="source", how="full", coalesce=True)
    return joined.fill_null(0).sort("source").collect(engine="streaming").to_dicts()


def _documents(before: Curation, after: Curation) -> dict[str, Any]:
    def keys(each: Curation) -> pl.LazyFrame:
        return each.read(tables.DOCUMENTS).select("doc_id", "source")

    def rejected(each: Curation) -> pl.LazyFrame:
        rows = each.read(tables.REJECTED_DOCUMENTS)
        return rows.select("doc_id", "reason").unique("doc_id", keep="any").sort("doc_id")

    return _moves(keys(before), keys(after), rejected(before), rejected(after), "doc_id")


def _chunks(before: Curation, after: Curation) -> dict[str, Any]:
    def keys(each: Curation) -> pl.LazyFrame:
        return each.read(tables.PRUNED_CORPUS).select("chunk_id", "source", tokens="kept_tokens")

    def dropped(each: Curation) -> pl.LazyFrame:
        return each.read(tables.DROP_REASONS).select("chunk_id", "reason")

    return _moves(keys(before), keys(after), dropped(before), dropped(after), "chunk_id")


def _moves(
    before: pl.LazyFrame, after: pl.LazyFrame, out_before: pl.LazyFrame, out_after: pl.LazyFrame, key: str
) -> dict[str, Any]:
    """Count keys that entered, left or stayed, with why those outside are outside: key and reason of `out_*`."""

    def reasons(moved: pl.LazyFrame, outside: pl.LazyFrame, otherwise: str) -> dict[str, int]:
        counted = (
            moved.join(outside, on=key, how="left")
            .group_by(pl.col("reason").fill_null(otherwise))
            .agg(pl.len())
            .sort("reason")
        )
        return dict(counted.collect(engine="streaming").iter_rows())

    entered = reasons(after.join(before, on=key, how="anti"), out_before, NEW)
    left = reasons(before.join(after, on=key, how="anti"), out_after, GONE)
    unchanged = before.join(after, on=key, how="semi").select(pl.len()).collect(engine="streaming").item()
    return {
        "entered": sum(entered.values()),
        "left": sum(left.values()),
        "unchanged": unchanged,
        "entered_was": entered,
        "left_is": left,
    }


def _side_by_side(
    before: pl.DataFrame, after: pl.DataFrame, on: tuple[str, ...], columns: tuple[str, ...]
) -> list[dict[str, Any]]:
    parts = [
        frame.select(*on, *(pl.col(name).alias(f"{name}_{when}") for name in columns))
        for when, frame in (("before", before), ("after", after))
    ]
    return parts[0].join(parts[1], on=on, how="full", coalesce=True, nulls_equal=True).sort(on).to_dicts()


def _sealed(
    before: Curation, after: Curation, sealed: Mapping[int, pl.DataFrame | None]
) -> list[dict[str, Any]] | str:
    a, b = sealed.get(before.number), sealed.get(after.number)
    if a is None or b is None:
        names = " and ".join(str(each.number) for each, rows in ((before, a), (after, b)) if rows is None)
        return (
            f"The sealed losses of curation {names} were not measured; the job fidelity measures what ships."
        )
    return _side_by_side(a, b, ("arm", "task"), ("loss",))
