"""What became of a document at every stage of a curation, read through the versions that the curation read."""

from __future__ import annotations

from typing import Any

import polars as pl

from grasp_pipeline import tables
from grasp_pipeline.errors import InputError, visible
from grasp_pipeline.lineage.curation import Curation

PREVIEW = 200
"""Characters of a text that are shown."""

SHORTEST = 6
"""Characters of an id that are enough, where they name one document."""

WHY = (
    "reason",
    "score",
    "value",
    "threshold",
    "margin",
    "quota",
    "strongest_task",
    "nearest_kept",
    "similarity",
)
WORTH = ("order", "marginal_value", "top_task", "top_task_value", "repeats")


def explain(curation: Curation, wanted: str) -> dict[str, Any]:
    """Return what became of a document or chunk.

    Args:
        curation: whose versions are read.
        wanted: a doc_id or chunk_id, or six characters or more of its beginning, or an origin `FILE#ROW`; of the file
            the end of its path is enough.

    Returns:
        JSON-serialisable: curation, published, doc_id, origin, source, shard, preview (None where nothing was kept to
        read), rejected (rows of `rejected_documents`, each with its survivor) and chunks, in order: each is kept, with
        its worth, or dropped, with reason, score, threshold and the nearest kept text, or undecided where nothing was
        published.

    Raises:
        InputError: the curation knows no such document, or more than one.
    """
    documents = _found(curation, tables.DOCUMENTS, wanted)
    rejected = _found(curation, tables.REJECTED_DOCUMENTS, wanted)
    if documents.is_empty() and rejected.is_empty():
        chunk = (
            curation.read(tables.TOKENIZED_SHARDS).filter(_id("chunk_id", wanted)).select("doc_id").unique()
        )
        owners = chunk.head(2).collect(engine="streaming")["doc_id"].to_list()
        documents = _rows(curation, tables.DOCUMENTS, pl.col("doc_id").is_in(owners))
    names = set(documents["doc_id"]) | set(rejected["doc_id"].str.split(":").list.first())
    if not names:
        raise InputError(
            f"curation {curation.number} knows no document or chunk {wanted!r}; give a doc_id, a chunk_id or FILE#ROW, "
            "the file as its manifest names it"
        )
    if len(names) > 1:
        raise InputError(f"{wanted!r} fits {', '.join(sorted(names)[:5])} and perhaps more; give more of it")
    (doc_id,) = names
    copies = pl.col("doc_id").str.starts_with(f"{doc_id}:") | (pl.col("doc_id") == doc_id)
    if documents.is_empty():
        shown = rejected
    else:
        shown, rejected = documents, _rows(curation, tables.REJECTED_DOCUMENTS, copies)
    about = shown.row(0, named=True)
    return {
        "curation": curation.number,
        "published": curation.row["published"],
        "doc_id": doc_id,
        **{name: about[name] for name in ("origin", "source", "shard", "n_bytes")},
        "preview": None if documents.is_empty() else documents["text"][0][:PREVIEW],
        "cluster": None if documents.is_empty() or documents["survivor"][0] else documents["cluster"][0],
        "rejected": [_with_survivor(curation, row) for row in rejected.sort("doc_id", "stage").to_dicts()],
        "chunks": [] if documents.is_empty() else _chunks(curation, doc_id),
    }


def _id(column: str, wanted: str) -> pl.Expr:
    exact = pl.col(column) == wanted
    return exact | pl.col(column).str.starts_with(wanted) if len(wanted) >= SHORTEST else exact


def _found(curation: Curation, table: tables.Table, wanted: str) -> pl.DataFrame:
    if "#" in wanted:
        origin, inside = pl.col("origin"), "/" + wanted.lstrip("/")
        same = (origin == wanted) | origin.str.ends_with(inside)
        with_id = origin.str.starts_with(f"{wanted} (") | origin.str.contains(f"{inside} (", literal=True)
        return _rows(curation, table, same | with_id)
    return _rows(curation, table, _id("doc_id", wanted))


def _rows(curation: Curation, table: tables.Table, which: pl.Expr) -> pl.DataFrame:
    return curation.read(table).filter(which).head(100).collect(engine="streaming")


def _with_survivor(curation: Curation, row: dict[str, Any]) -> dict[str, Any]:
    told = {name: row[name] for name in ("stage", "reason", "detail", "value", "duplicate_of", "origin")}
    if row["duplicate_of"] is not None:
        survivor = _rows(curation, tables.DOCUMENTS, pl.col("doc_id") == row["duplicate_of"])
        told["survivor_origin"] = survivor["origin"][0] if survivor.height else None
    return told


def _chunks(curation: Curation, doc_id: str) -> list[dict[str, Any]]:
    mine = pl.col("doc_id") == doc_id
    chunks = (
        curation.read(tables.TOKENIZED_SHARDS)
        .filter(mine)
        .select("chunk_id", "position", "n_tokens", "start", "end")
        .sort("position")
        .collect(engine="streaming")
    )
    kept = {row["chunk_id"]: row for row in _rows_of(curation, tables.PRUNED_CORPUS, mine, WORTH)}
    dropped = {row["chunk_id"]: row for row in _rows_of(curation, tables.DROP_REASONS, mine, WHY)}
    nearest = texts_of(curation, [row["nearest_kept"] for row in dropped.values() if row["nearest_kept"]])
    told = []
    for chunk in chunks.iter_rows(named=True):
        name = chunk["chunk_id"]
        if name in kept:
            told.append(chunk | {"fate": "kept"} | kept[name])
        elif name in dropped:
            told.append(
                chunk
                | {"fate": "dropped"}
                | dropped[name]
                | {"nearest_kept_text": nearest.get(dropped[name]["nearest_kept"])}
            )
        else:
            told.append(chunk | {"fate": "undecided"})
    return told


def _rows_of(
    curation: Curation, table: tables.Table, which: pl.Expr, columns: tuple[str, ...]
) -> list[dict[str, Any]]:
    return (
        curation.read(table).filter(which).select("chunk_id", *columns).collect(engine="streaming").to_dicts()
    )


def texts_of(curation: Curation, chunk_ids: list[str]) -> dict[str | None, str]:
    """Return chunk_id -> the beginning of its text, of some chunks."""
    if not chunk_ids:
        return {}
    places = (
        curation.read(tables.TOKENIZED_SHARDS)
        .filter(pl.col("chunk_id").is_in(chunk_ids))
        .select("chunk_id", "doc_id", "start", "end")
        .collect(engine="streaming")
    )
    texts = (
        curation.read(tables.DOCUMENTS)
        .filter(pl.col("doc_id").is_in(places["doc_id"].unique().to_list()))
        .select("doc_id", "text")
        .collect(engine="streaming")
    )
    return {
        row["chunk_id"]: row["text"][row["start"] : row["end"]][:PREVIEW]
        for row in places.join(texts, on="doc_id").iter_rows(named=True)
    }


def explanation_text(told: dict[str, Any]) -> str:
    """Return an explanation as lines for the terminal."""
    lines = [
        f"Document {told['doc_id']}",
        f"Origin: {told['origin']}; source {told['source']}; {told['n_bytes']:,} bytes; {told['shard']}",
        f"Curation {told['curation']}{'' if told['published'] else ', which published nothing'}",
    ]
    if told["preview"] is not None:
        lines.append(f"Text: {_line(told['preview'])}")
    if told["cluster"] is not None:
        lines.append(f"Near-duplicate of {told['cluster']}, which came first")
    for row in told["rejected"]:
        line = f"Rejected at {row['stage']}: {row['reason']} ({_line(row['detail'])}), {row['origin']}"
        if row["duplicate_of"] is not None:
            line += (
                f"; the survivor is {row['duplicate_of']}, {row['survivor_origin'] or 'not in the corpus'}"
            )
        lines.append(line)
    for chunk in told["chunks"]:
        line = f"Chunk {chunk['position']} ({chunk['chunk_id'][:16]}, {chunk['n_tokens']} tokens): {chunk['fate']}"
        if chunk["fate"] == "kept":
            line += f", place {chunk['order']}, worth {_number(chunk['marginal_value'])}, top task {chunk['top_task']}"
        elif chunk["fate"] == "dropped":
            line += f", {chunk['reason']}"
            if chunk["value"] is not None:
                line += (
                    f": {chunk['score']} {_number(chunk['value'])}, threshold {_number(chunk['threshold'])}"
                )
            if chunk["quota"]:
                line += f"; {chunk['quota']}"
            if chunk["nearest_kept"] is not None:
                line += (
                    f"; nearest kept {chunk['nearest_kept'][:16]} (cosine {_number(chunk['similarity'])}): "
                    f"{_line(chunk['nearest_kept_text'] or '')}"
                )
        lines.append(line)
    return "\n".join(map(visible, lines))


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
