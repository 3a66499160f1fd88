"""Texts to look at: a few of every source and reason, drawn by a seeded reservoir, with their kept neighbours.

Everything is aggregated in streams: of a corpus of any size only the texts that were drawn are held.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import polars as pl

from grasp_pipeline.report.accounts import KEPT
from grasp_pipeline.seeds import seed_for

PER_GROUP = 10
"""Texts of a source and reason."""

MOST_GROUPS = 200
"""Groups that are drawn from, those of most rows first: with `PER_GROUP` and `CHARACTERS` this bounds the page."""

CHARACTERS = 600
"""Of a text, and of its neighbour."""

SHORTEST_SHARED = 4
"""Words in a row that two texts must share to be marked."""

GROUP = ("outcome", "source", "reason")


@dataclass(frozen=True)
class SampleTables:
    """The tables that texts are drawn from, lazy: rows as in `grasp_pipeline.tables`.

    pruned, dropped, rejected: `pruned_corpus`, `drop_reasons`, `rejected_documents`; chunks, documents:
    `tokenized_shards` and `documents`, for the texts.
    """

    pruned: pl.LazyFrame
    dropped: pl.LazyFrame
    rejected: pl.LazyFrame
    chunks: pl.LazyFrame
    documents: pl.LazyFrame


def draw_samples(
    read: SampleTables, per_group: int = PER_GROUP, most_groups: int = MOST_GROUPS
) -> list[dict[str, Any]]:
    """Draw texts of every outcome (kept, dropped, rejected), source and reason.

    A row is drawn by the lowest of seeded hashes of its id, which is a reservoir that needs no order: equal tables give
    equal samples, and a row that joins changes at most one place of its own group.

    Returns:
        JSON-serialisable, by group and then drawn order: id, doc, outcome, source, reason, tokens, value, threshold,
        score, tasks (pairs of task and value), text, near (id and text of the nearest kept chunk, similarity, and the
        shared passages of both as pairs of offsets) and note. What does not apply is null.
    """
    seed = seed_for("report", "samples") % 2**32
    kept = _drawn(
        read.pruned.with_columns(outcome=pl.lit(KEPT), reason=pl.lit(KEPT)), "chunk_id", seed, per_group
    )
    dropped = _drawn(read.dropped.with_columns(outcome=pl.lit("dropped")), "chunk_id", seed, per_group)
    rejected = _drawn(read.rejected.with_columns(outcome=pl.lit("rejected")), "doc_id", seed, per_group)
    largest = (
        pl.concat([frame.select(*GROUP, "rows") for frame in (kept, dropped, rejected)])
        .sort("rows", *GROUP, descending=[True, False, False, False])
        .head(most_groups)
        .drop("rows")
    )
    kept, dropped, rejected = (
        frame.join(largest, on=GROUP, how="semi").explode("ids").rename({"ids": "id"})
        for frame in (kept, dropped, rejected)
    )
    drawn = [
        *_kept_rows(read, kept["id"].to_list()),
        *_dropped_rows(read, dropped["id"].to_list()),
    ]
    texts = _texts(
        read,
        [row["id"] for row in drawn] + [row["nearest"] for row in drawn if row.get("nearest") is not None],
    )
    told = [_with_texts(row, texts) for row in drawn]
    return [*told, *_rejected_rows(read, rejected["id"].to_list())]


def _drawn(frame: pl.LazyFrame, key: str, seed: int, per_group: int) -> pl.DataFrame:
    """Return outcome, source, reason, rows (of the group) and ids: those drawn, lowest hash first."""
    luck = pl.col(key).hash(seed)
    drawn = frame.select(*GROUP, pl.col(key).alias("id"), luck=luck)
    return (
        drawn.group_by(GROUP)
        .agg(rows=pl.len(), ids=pl.col("id").bottom_k_by("luck", per_group))
        .sort(GROUP)
        .collect(engine="streaming")
    )


def _rows(frame: pl.LazyFrame, key: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    found = frame.filter(pl.col(key).is_in(list(ids))).collect(engine="streaming")
    place = {name: number for number, name in enumerate(ids)}
    return sorted(found.to_dicts(), key=lambda row: place[row[key]])


def _kept_rows(read: SampleTables, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": row["chunk_id"],
            "doc": row["doc_id"],
            "outcome": KEPT,
            "source": row["source"],
            "reason": KEPT,
            "tokens": row["kept_tokens"],
            "value": row["marginal_value"],
            "tasks": [[row["top_task"], row["top_task_value"]]],
        }
        for row in _rows(read.pruned, "chunk_id", ids)
    ]


def _dropped_rows(read: SampleTables, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {
            "id": row["chunk_id"],
            "doc": row["doc_id"],
            "outcome": "dropped",
            "source": row["source"],
            "reason": row["reason"],
            "tokens": row["n_tokens"],
            "value": row["value"],
            "threshold": row["threshold"],
            "score": row["score"],
            "note": row["quota"],
            "tasks": [
                [row["strongest_task"], row["strongest_value"]],
                *(
                    [[row["weakest_task"], row["weakest_value"]]]
                    if row["weakest_task"] != row["strongest_task"]
                    else []
                ),
            ],
            "nearest": row["nearest_kept"],
            "similarity": row["similarity"],
        }
        for row in _rows(read.dropped, "chunk_id", ids)
    ]


def _rejected_rows(read: SampleTables, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return rejected documents; their texts are not stored, but that of the copy which stayed is."""
    rows = _rows(read.rejected, "doc_id", ids)
    stayed = [row["duplicate_of"] for row in rows if row["duplicate_of"] is not None]
    texts = dict(
        read.documents.filter(pl.col("doc_id").is_in(stayed))
        .select("doc_id", pl.col("text").str.head(CHARACTERS))
        .collect(engine="streaming")
        .iter_rows()
    )
    told = []
    for row in rows:
        copy = texts.get(row["duplicate_of"])
        told.append(
            {
                "id": row["doc_id"],
                "doc": row["doc_id"],
                "outcome": "rejected",
                "source": row["source"],
                "reason": row["reason"],
                "value": row["value"],
                "note": "; ".join(part for part in (row["detail"], row["origin"]) if part),
                "tasks": [],
                "near": None
                if copy is None
                else {"id": row["duplicate_of"], "text": copy, "similarity": None, "mine": [], "theirs": []},
            }
        )
    return told


def _texts(read: SampleTables, ids: Sequence[str]) -> dict[str, str]:
    """Return chunk_id -> its text, cut."""
    if not ids:
        return {}
    places = (
        read.chunks.filter(pl.col("chunk_id").is_in(list(set(ids))))
        .select("chunk_id", "doc_id", "start", "end")
        .collect(engine="streaming")
    )
    documents = dict(
        read.documents.filter(pl.col("doc_id").is_in(places["doc_id"].unique().to_list()))
        .select("doc_id", "text")
        .collect(engine="streaming")
        .iter_rows()
    )
    return {
        chunk: documents[doc][start : min(end, start + CHARACTERS)]
        for chunk, doc, start, end in places.iter_rows()
        if doc in documents
    }


def _with_texts(row: dict[str, Any], texts: dict[str, str]) -> dict[str, Any]:
    nearest, similarity = row.pop("nearest", None), row.pop("similarity", None)
    row["text"] = texts.get(row["id"])
    if nearest is None:
        return row
    theirs = texts.get(nearest)
    row["near"] = {"id": nearest, "text": theirs, "similarity": similarity, "mine": [], "theirs": []}
    if row["text"] and theirs:
        row["near"] |= shared_passages(row["text"], theirs)
    return row


def shared_passages(mine: str, theirs: str) -> dict[str, list[list[int]]]:
    """Return the passages that two texts share, `SHORTEST_SHARED` words or more, as pairs of character offsets."""
    first, second = _words(mine), _words(theirs)
    matcher = SequenceMatcher(
        None, [mine[a:b].lower() for a, b in first], [theirs[a:b].lower() for a, b in second], autojunk=False
    )
    blocks = [block for block in matcher.get_matching_blocks() if block.size >= SHORTEST_SHARED]
    return {
        "mine": [[first[b.a][0], first[b.a + b.size - 1][1]] for b in blocks],
        "theirs": [[second[b.b][0], second[b.b + b.size - 1][1]] for b in blocks],
    }


def _words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+", text)]
