"""The chunks of the store as a dense index of numbers, no strings; names are looked up when rows are written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline import tables
from grasp_pipeline.arrays import Bools, Ints, TokenLists, offsets_of
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.corpus.row_keys import CHUNK_DIGITS, DOCUMENT_DIGITS, RowKeys
from grasp_pipeline.errors import StoreError

if TYPE_CHECKING:
    from assets.step import Step
    from resources.delta.tables import DeltaTables

BATCH_ROWS = 4096
"""Chunks of token ids read at once: 16 MiB at 1,024 tokens."""

_INDEX_ROWS = 1 << 16
"""Rows of names and numbers read at once."""


@dataclass(frozen=True, kw_only=True)
class StoredPool(ChunkPool):
    """All chunks of `tokenized_shards` as of a version, sorted by chunk_id; codes are in order of the sorted values.

    Beside the token ids at most 60 bytes per chunk are held.

    keys: of the chunk ids; places, survivors: (n,) `position` and `survivor`, as the tables say them; shard: (n,)
    codes; sources, shards: names by code.
    delta: the tables, from which names are read.
    """

    version: int
    keys: RowKeys
    places: NDArray[np.int32]
    survivors: Bools
    shard: NDArray[np.int16]
    sources: tuple[str, ...]
    shards: tuple[str, ...]
    delta: DeltaTables

    @property
    def position(self) -> NDArray[np.int32]:
        """Place of every chunk in its document, (n,)."""
        return self.places

    @property
    def survivor(self) -> Bools:
        """Chunks of the document that stays of each near-duplicate cluster, the first that arrived: (n,)."""
        return self.survivors

    @cached_property
    def documents(self) -> int:
        """Number of documents."""
        return int(self.document.max()) + 1

    def ids(self, membership: Bools) -> list[str]:
        """Return the chunk ids of a subset (n,)."""
        return self.keys.ids(np.flatnonzero(membership))

    def subset_id(self, membership: Bools) -> str:
        """Return `seeds.digest` of the list of a subset's chunk ids, of which a part is held at a time."""
        rows = np.flatnonzero(membership)
        running, joint = hashlib.sha256(b"[["), ""
        for start in range(0, len(rows), _INDEX_ROWS):
            ids = self.keys.ids(rows[start : start + _INDEX_ROWS])
            running.update((joint + ",".join(json.dumps(each, ensure_ascii=False) for each in ids)).encode())
            joint = ","
        running.update(b"]]")
        return running.hexdigest()

    def named(self, rows: NDArray[np.integer[Any]]) -> pl.DataFrame:
        """Return chunk_id, doc_id, n_tokens, source and shard of different rows (k,), in their order.

        The documents' ids are read from the table, a batch at a time.
        """
        place = np.full(self.n, -1, dtype=np.int64)
        place[rows] = np.arange(len(rows))
        found = [pl.DataFrame(schema={"place": pl.Int64, "chunk_id": pl.String, "doc_id": pl.String})]
        for batch in self._names():
            places = pl.Series(place[self.keys.find(batch["chunk_id"])[0]])
            found.append(
                batch.select(places.alias("place"), "chunk_id", "doc_id").filter(pl.col("place") >= 0)
            )
        frame = pl.concat(found).sort("place").drop("place")
        return frame.with_columns(
            n_tokens=pl.Series(self.n_tokens[rows]),
            source=pl.Series(self.sources, dtype=pl.String).gather(self.source[rows]),
            shard=pl.Series(self.shards, dtype=pl.String).gather(self.shard[rows]),
        )

    def listed(self, wanted: Collection[str]) -> tuple[Bools, set[str]]:
        """Return (n,) whether a chunk, or its document, is among some ids, and the ids that are neither."""
        mask, missing, ids = np.zeros(self.n, dtype=np.bool_), set(wanted), sorted(set(wanted))
        for batch in self._names() if ids else ():
            hit = batch.filter(pl.col("chunk_id").is_in(ids) | pl.col("doc_id").is_in(ids))
            mask[self.keys.find(hit["chunk_id"])[0]] = True
            missing -= set(hit["chunk_id"]) | set(hit["doc_id"])
        return mask, missing

    def _names(self) -> Iterator[pl.DataFrame]:
        columns = ["chunk_id", "doc_id"]
        return self.delta.batches(tables.TOKENIZED_SHARDS, self.version, columns=columns, rows=_INDEX_ROWS)


def load_corpus(step: Step) -> StoredPool:
    """Pin and load all chunks with their documents' near-duplicate clusters.

    Raises:
        StoreError: there is no chunk, or a shard's chunks are older than its documents.
    """
    read = step.pin(tables.TOKENIZED_SHARDS)
    documents = step.pin(tables.DOCUMENTS).version
    return index_chunks(step.tables, read.version, documents, step)


def index_chunks(
    delta: DeltaTables, version: int, documents_version: int, tokens_of: Step | None = None
) -> StoredPool:
    """Return the index of all chunks as of a version; tokens_of: a step whose store holds token ids, None for none.

    Rows are read in batches, once for the index and once for the token ids.

    Raises:
        StoreError: there is no chunk, or a shard's chunks are older than its documents.
    """
    documents = _Documents.of(delta, documents_version)
    columns = ["chunk_id", "doc_id", "position", "n_tokens", "source", "shard"]
    names: dict[str, dict[str, int]] = {"source": {}, "shard": {}}
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in ("key", *columns[1:])}
    digits, older = -1, set[str]()
    for batch in delta.batches(tables.TOKENIZED_SHARDS, version, columns=columns, rows=_INDEX_ROWS):
        digits = RowKeys.digits_of(batch["chunk_id"], CHUNK_DIGITS) if digits < 0 else digits
        parts["key"].append(RowKeys.checked(batch["chunk_id"], digits))
        rows, known = documents.keys.find(batch["doc_id"])
        known[known] = documents.present[rows]
        if not known.all():
            older |= set(batch["shard"].filter(~known))
            continue
        parts["doc_id"].append(rows.astype(np.int32))
        parts["position"].append(batch["position"].to_numpy().astype(np.int32))
        parts["n_tokens"].append(batch["n_tokens"].to_numpy())
        for column, seen in names.items():
            places = [seen.setdefault(name, len(seen)) for name in batch[column].unique().sort()]
            codes = batch[column].rank("dense").to_numpy().astype(np.int64) - 1
            parts[column].append(np.array(places, dtype=np.int16 if column == "shard" else np.int32)[codes])
    if digits < 0:
        raise StoreError("tokenized_shards holds no chunks; materialize it for every shard first")
    if older:
        raise StoreError(
            f"the shards {', '.join(sorted(older))} of tokenized_shards are older than their documents; "
            "materialize tokenized_shards for them again"
        )
    key = np.concatenate(parts.pop("key"))
    order = np.argsort(key, kind="stable")
    keys = RowKeys(digits, key[order])
    del key
    column = {name: np.concatenate(parts.pop(name))[order] for name in list(parts)}
    sources, shards = (tuple(sorted(names[name])) for name in ("source", "shard"))
    n_tokens = column.pop("n_tokens")
    return StoredPool(
        n_tokens=n_tokens,
        source=_in_order(column.pop("source"), names["source"]),
        shard=_in_order(column.pop("shard"), names["shard"]),
        document=_dense(column["doc_id"]),
        cluster=_dense(documents.cluster[column["doc_id"]]),
        survivors=documents.survivor[column.pop("doc_id")],
        places=column.pop("position"),
        chunks=None if tokens_of is None else _load_tokens(tokens_of, version, keys, n_tokens),
        version=version,
        keys=keys,
        sources=sources,
        shards=shards,
        delta=delta,
    )


@dataclass(frozen=True)
class _Documents:
    """Documents by row of their sorted ids.

    keys: of the ids of documents and clusters; cluster: row of each one's cluster; survivor, present: whether it is the
    survivor of its cluster, and a document at all.
    """

    keys: RowKeys
    cluster: NDArray[np.int32]
    survivor: Bools
    present: Bools

    @staticmethod
    def of(delta: DeltaTables, version: int) -> _Documents:
        columns = ["doc_id", "cluster", "survivor"]

        def batches() -> Iterator[pl.DataFrame]:
            return delta.batches(tables.DOCUMENTS, version, columns=columns, rows=_INDEX_ROWS)

        # Most documents are their own cluster's survivor, whose id is there already.
        named = (
            part
            for batch in batches()
            for part in (
                batch["doc_id"],
                batch.filter(pl.col("cluster") != pl.col("doc_id"))["cluster"].unique(),
            )
            if len(part)
        )
        keys = RowKeys.distinct(named, DOCUMENT_DIGITS)
        cluster = np.zeros(len(keys.keys), dtype=np.int32)
        survivor, present = np.zeros((2, len(cluster)), dtype=np.bool_)
        for batch in batches():
            rows, _ = keys.find(batch["doc_id"])
            cluster[rows] = keys.find(batch["cluster"])[0]
            survivor[rows] = batch["survivor"].to_numpy()
            present[rows] = True
        return _Documents(keys, cluster, survivor, present)


def _in_order(codes: NDArray[Any], names: dict[str, int]) -> NDArray[Any]:
    """Return codes given in order of appearance as codes in order of the sorted names."""
    place = np.empty(len(names), dtype=codes.dtype)
    place[[names[name] for name in sorted(names)]] = np.arange(len(names), dtype=codes.dtype)
    return place[codes]


def _dense(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return codes without gaps, in the same order."""
    seen = np.zeros(int(codes.max()) + 1, dtype=np.bool_)
    seen[codes] = True
    return (np.cumsum(seen, dtype=np.int32) - 1)[codes]


def _load_tokens(step: Step, version: int, keys: RowKeys, sizes: Ints) -> TokenLists:
    """Read the token ids of all chunks to where the index has them, a batch at a time."""
    from assets.scratch import scratch_array

    offsets = offsets_of(sizes)
    tokens = scratch_array(step.store, (int(offsets[-1]),), np.dtype(np.int32))
    batches = step.tables.batches(
        tables.TOKENIZED_SHARDS, version, columns=["chunk_id", "input_ids"], rows=BATCH_ROWS
    )
    for batch in batches:
        rows = keys.find(batch["chunk_id"])[0]
        lists = TokenLists.of_column(batch["input_ids"])
        lengths = lists.lengths
        if (lengths != sizes[rows]).any():
            bad = batch["chunk_id"][int(np.argmax(lengths != sizes[rows]))]
            raise StoreError(
                f"the chunk {bad} of tokenized_shards does not hold the n_tokens it says; materialize its shard again"
            )
        moved = np.repeat(offsets[rows] - lists.offsets[:-1], lengths)
        tokens[moved + np.arange(len(moved))] = lists.tokens
    return TokenLists(tokens, offsets)
