"""Frames of the store as the arrays that the core works on, aligned by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists, offsets_of
from grasp_pipeline.calibration.subsets import Subsets
from grasp_pipeline.corpus.pool import ChunkPool, HeldOut
from grasp_pipeline.errors import StoreError
from grasp_pipeline.names import Split, SubsetSplit
from grasp_pipeline.seeds import digest
from resources.notes import SubsetsNote

if TYPE_CHECKING:
    import polars as pl
    from scipy.sparse import csr_array

    from assets.step import Step
    from grasp_pipeline.attribution.blocks import SketchBlocks
    from grasp_pipeline.corpus.events import EventCounts
    from grasp_pipeline.proxy.retrain import Job
    from resources.delta.commits import Read
    from resources.delta.tables import DeltaTables


@dataclass(frozen=True, kw_only=True)
class StoredPool(ChunkPool):
    """All chunks of `tokenized_shards` as of a version, sorted by chunk_id; codes are in order of the sorted values.

    frame: chunk_id, doc_id, position, n_tokens, start, end, source, shard, cluster, survivor (n rows).
    """

    version: int
    frame: pl.DataFrame

    @classmethod
    def of(cls, version: int, frame: pl.DataFrame, chunks: TokenLists | None = None) -> StoredPool:
        """Return the pool of a frame; chunks: their token ids, where they are asked for."""
        return cls(
            n_tokens=frame["n_tokens"].to_numpy().astype(np.int64),
            source=codes(frame["source"]),
            document=codes(frame["doc_id"]),
            cluster=codes(frame["cluster"]),
            chunks=chunks,
            version=version,
            frame=frame,
        )

    @property
    def survivor(self) -> NDArray[np.bool_]:
        """Chunks of the document that stays of each near-duplicate cluster, the first that arrived: (n,)."""
        return self.frame["survivor"].to_numpy()

    @property
    def position(self) -> NDArray[np.int64]:
        """Place of every chunk in its document, (n,)."""
        return self.frame["position"].to_numpy()

    @property
    def documents(self) -> int:
        """Number of documents."""
        return self.frame["doc_id"].n_unique()

    def ids(self, membership: NDArray[np.bool_]) -> list[str]:
        """Return the chunk ids of a subset (n,)."""
        return self.frame["chunk_id"].filter(membership).to_list()

    def subset_id(self, membership: NDArray[np.bool_]) -> str:
        """Return the digest of a subset's chunk ids."""
        return digest(self.ids(membership))


def codes(column: pl.Series) -> NDArray[np.int64]:
    """Return a column as integer codes in order of the sorted values, (n,)."""
    return column.rank("dense").to_numpy().astype(np.int64) - 1


def token_digest(frames: Iterable[pl.DataFrame]) -> str:
    """Return a digest of chunks, their ids and tokens, whatever the order and the pieces in which they come."""

    rows: list[bytes] = []
    for frame in frames:
        tokens = TokenLists.of_column(frame["input_ids"])
        flat = tokens.tokens.astype("<i4").tobytes()
        ends = (4 * tokens.offsets).tolist()
        for chunk_id, start, end in zip(frame["chunk_id"], ends[:-1], ends[1:], strict=True):
            running = hashlib.blake2b(f"{chunk_id}/".encode(), digest_size=16)
            running.update(flat[start:end])
            rows.append(running.digest())
    return hashlib.blake2b(b"".join(sorted(rows)), digest_size=16).hexdigest()


def shard_digest(step: Step, source: Read, shard: str) -> str:
    """Return the digest of a shard's chunks in `tokenized_shards` as of a version."""
    columns = ["chunk_id", "input_ids"]
    return token_digest(
        step.tables.batches(tables.TOKENIZED_SHARDS, source.version, {"shard": shard}, columns)
    )


def shard_tokens(step: Step, source: Read, shard: str) -> int:
    """Count the tokens of a shard of `tokenized_shards` as of a version."""
    import polars as pl

    lazy = step.tables.read(tables.TOKENIZED_SHARDS, source.version, {"shard": shard})
    return lazy.select(pl.col("n_tokens").sum()).collect().item()


def load_corpus(step: Step) -> StoredPool:
    """Pin and load all chunks with their documents' near-duplicate clusters.

    Raises:
        StoreError: there is no chunk, or a shard's chunks are older than its documents.
    """
    read = step.pin(tables.TOKENIZED_SHARDS)
    frame = chunk_frame(step.tables, read.version, step.pin(tables.DOCUMENTS).version)
    return StoredPool.of(read.version, frame, _load_tokens(step, read.version, frame))


def chunk_frame(delta: DeltaTables, version: int, documents_version: int) -> pl.DataFrame:
    """Return all chunks as of a version, without tokens, sorted by chunk_id: the frame of a `StoredPool`.

    Raises:
        StoreError: there is no chunk, or a shard's chunks are older than its documents.
    """
    import polars as pl

    lazy = delta.read(tables.DOCUMENTS, documents_version)
    documents = lazy.select("doc_id", "cluster", "survivor").collect()
    columns = [name for name in tables.TOKENIZED_SHARDS.schema if name != "input_ids"]
    chunks = delta.read(tables.TOKENIZED_SHARDS, version).select(columns).collect().sort("chunk_id")
    if chunks.is_empty():
        raise StoreError("tokenized_shards holds no chunks; materialize it for every shard first")
    frame = chunks.join(documents, on="doc_id", how="left", maintain_order="left")
    if frame["cluster"].null_count():
        missing = frame.filter(pl.col("cluster").is_null())["shard"].unique().sort().to_list()
        raise StoreError(
            f"the shards {', '.join(missing)} of tokenized_shards are older than their documents; "
            "materialize tokenized_shards for them again"
        )
    return frame


_BATCH_ROWS = 4096
"""Chunks of token ids read at once: 16 MiB at 1,024 tokens."""


def _load_tokens(step: Step, version: int, frame: pl.DataFrame) -> TokenLists:
    """Read the token ids of all chunks to where a frame sorted by chunk_id has them, a batch at a time."""
    from assets.scratch import scratch_array

    sizes = frame["n_tokens"].to_numpy()
    offsets = offsets_of(sizes)
    tokens = scratch_array(step.store, (int(offsets[-1]),), np.dtype(np.int32))
    batches = step.tables.batches(
        tables.TOKENIZED_SHARDS, version, columns=["chunk_id", "input_ids"], rows=_BATCH_ROWS
    )
    for batch in batches:
        rows = frame["chunk_id"].search_sorted(batch["chunk_id"]).to_numpy().astype(np.int64)
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


def load_sketches(step: Step, corpus: StoredPool, kind: str) -> SketchBlocks:
    """Pin one kind's sketches and return them at their true scale in the corpus's order, in one pass over the shards.

    They are held as they are stored, in float16: see `assets.scratch` for where.

    Raises:
        StoreError: a chunk has no sketch of the kind, or the shards' sketches do not match.
    """
    from assets.scratch import scratch_array
    from grasp_pipeline.attribution.blocks import TILE_ROWS, ArrayBlocks
    from resources.sketches import SketchReader

    read = step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    stored = SketchReader(step.tables, read.version, kind)
    ids = corpus.frame["chunk_id"]
    sketches = scratch_array(step.store, (corpus.n, stored.d), np.dtype(np.float16))
    have = np.zeros(corpus.n, dtype=bool)
    for block in stored.blocks():
        rows, known = places(ids, block.ids)
        sketches[rows] = block.sketches[known]
        have[rows] = True
    if not have.all():
        shards = sorted(set(corpus.frame["shard"].filter(~have)))
        raise StoreError(
            f"{int((~have).sum())} chunks have no {kind} sketch; materialize gradient_sketches for "
            + ", ".join(shards)
        )
    return ArrayBlocks(sketches, stored.scale, TILE_ROWS)


def places(ids: pl.Series, wanted: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where sorted ids hold those wanted (k,), and which of the wanted they hold."""
    rows = ids.search_sorted(wanted).to_numpy().astype(np.int64)
    known = (ids.gather(np.minimum(rows, len(ids) - 1)) == wanted).to_numpy()
    return rows[known], known


def load_losses(step: Step, corpus: StoredPool, kind: str) -> NDArray[np.float64]:
    """Pin and load every chunk's mean token loss at a kind's checkpoint in the corpus's order: (n,) in nats.

    Raises:
        StoreError: a chunk has no sketch of the kind.
    """
    losses = step.read(tables.GRADIENT_SKETCHES, {"sketch_kind": kind}).select("chunk_id", "loss").collect()
    found = corpus.frame.select("chunk_id").join(losses, on="chunk_id", how="left", maintain_order="left")[
        "loss"
    ]
    if found.null_count():
        raise StoreError(
            f"{found.null_count()} chunks have no {kind} sketch; materialize gradient_sketches for every shard"
        )
    return found.to_numpy()


def load_sketch_sample(
    step: Step, corpus: StoredPool, kind: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pin and load a kind that only a sample of the chunks has: their positions (k,) and sketches (k, d).

    Raises:
        StoreError: the shards' sketches do not match.
    """
    from grasp_pipeline.sketch.storage import decode

    positions = corpus.frame.select("chunk_id").with_row_index("row")
    frame = (
        step.read(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
        .select("chunk_id", "sketch", "d", "scale")
        .collect()
        .join(positions, on="chunk_id")
        .sort("row")
    )
    if frame.is_empty() or frame["d"].n_unique() > 1 or frame["scale"].n_unique() > 1:
        raise StoreError(
            f"the {kind} sketches of different shards do not match; materialize gradient_sketches for every shard"
        )
    rows = frame["row"].to_numpy().astype(np.int64)
    return rows, decode(frame["sketch"], frame["d"][0], frame["scale"][0])


def load_task_vectors(step: Step, kind: str, split: Split) -> tuple[list[str], NDArray[np.float32]]:
    """Pin and load the tasks' mean sketches of a kind and split: names (sorted, `mean` among them) and (T, d)."""
    import polars as pl

    from grasp_pipeline.sketch.storage import decode_vector

    frame = step.read(tables.TASK_SKETCHES).filter(pl.col("sketch_kind") == kind, pl.col("split") == split)
    rows = frame.sort("task").collect()
    return rows["task"].to_list(), np.stack([decode_vector(data) for data in rows["sketch"]])


@dataclass(frozen=True)
class StoredSubsets(Subsets):
    """Designed subsets of one split, with their ids and the number of training seeds of each.

    calibration_pool: version of that table when they were drawn, None where there was none yet.
    """

    ids: list[str]
    seeds: int
    calibration_pool: int | None

    def jobs(self) -> list[Job]:
        """Return the retrainings of all subsets, every seed."""
        from grasp_pipeline.proxy.retrain import Job

        return [
            Job(subset_id, np.flatnonzero(membership), seed)
            for subset_id, membership in zip(self.ids, self.membership, strict=True)
            for seed in range(self.seeds)
        ]


def load_subsets(step: Step, split: SubsetSplit, corpus: StoredPool) -> StoredSubsets:
    """Pin and load the subsets of a split against the corpus they were drawn from."""
    frame = step.read(tables.SUBSETS, {"split": split}).collect().sort("subset_id")
    if frame["pool_version"].unique().to_list() != [corpus.version]:
        raise StoreError(
            f"the {split} subsets were drawn from another version of tokenized_shards; materialize subsets again"
        )
    commit = step.tables.latest(tables.SUBSETS, {"split": split})
    assert commit is not None, "pinned above"
    note = SubsetsNote.of(commit)
    membership = np.stack([unpack_membership(data, corpus.n) for data in frame["membership"]])
    return StoredSubsets(
        tuple(frame["stratum"]),
        membership,
        np.full(len(membership), -1),
        frame["subset_id"].to_list(),
        note.seeds,
        note.calibration_pool,
    )


@dataclass(frozen=True)
class Utilities:
    """Measured utilities of subsets: task names (without `mean`), values (m, T, S), digest of the conditions."""

    names: list[str]
    values: NDArray[np.float64]
    recipe: str


def load_utilities(step: Step, subsets: StoredSubsets, read: Read) -> Utilities:
    """Load the utilities of subsets, all seeds, from a split of `subset_utilities` as of a version.

    Raises:
        StoreError: utilities are missing, or not all were measured under the same conditions.
    """
    import polars as pl

    from grasp_pipeline.names import MEAN

    split = dict(read.partition)["split"]
    frame = (
        step.tables.rows(read)
        .filter(pl.col("task") != MEAN, pl.col("seed") < subsets.seeds)
        .collect()
        .join(pl.DataFrame({"subset_id": subsets.ids}).with_row_index("row"), on="subset_id")
        .sort("row", "task", "seed")
    )
    names = frame["task"].unique().sort().to_list()
    shape = (len(subsets.ids), len(names), subsets.seeds)
    if frame.height != np.prod(shape):
        raise StoreError(
            f"subset_utilities holds {frame.height} of {int(np.prod(shape))} utilities of the {split} subsets; "
            "materialize the asset that measures them again"
        )
    recipes = frame["recipe"].unique().to_list()
    if len(recipes) > 1:
        raise StoreError(
            f"the utilities of the {split} subsets were measured under {len(recipes)} different conditions; "
            "materialize the asset that measures them again"
        )
    return Utilities(names, frame["utility"].to_numpy().reshape(shape), recipes[0])


def grid_views(
    step: Step, corpus: StoredPool, kinds: Iterable[str], names: list[str]
) -> Iterator[tuple[str, SketchBlocks, NDArray[np.float64], None]]:
    """Load sketch kinds one by one for `calibration.grid_predictions.predict_grid`; names: of the tasks, in order."""
    for kind in sorted(set(kinds)):
        sketches = load_sketches(step, corpus, kind)
        tasks, vectors = load_task_vectors(step, kind, "query")
        yield kind, sketches, vectors[[tasks.index(name) for name in names]].astype(np.float64), None


@dataclass(frozen=True)
class StoredHeldOut(HeldOut):
    """Held-out chunks of one split of `tasks`.

    frame: task, document, fold, n_tokens... of each (N rows); tasks: their names, sorted; digest: of all of them.
    """

    frame: pl.DataFrame
    tasks: tuple[str, ...]
    digest: str

    def per_document(self, values: NDArray[Any]) -> pl.DataFrame:
        """Return task, document, fold, n_tokens and the sum of values (N,) of every document, sorted by its key."""
        import polars as pl

        summed = self.frame.with_columns(value=pl.Series(values)).group_by(
            "task", "document", "fold", maintain_order=True
        )
        return summed.agg(pl.col("n_tokens", "value").sum())


def load_held_out(step: Step, split: Split, bos: int, chunk_tokens: int) -> StoredHeldOut:
    """Pin and load one split of `tasks`."""
    import polars as pl

    from grasp_pipeline.proxy.objective import pad_chunks

    frame = step.read(tables.TASKS, {"split": split}).collect().sort("task", "document", "chunk_id")
    rows, sizes = pad_chunks(frame["input_ids"].to_list(), bos, chunk_tokens)
    identity = digest(
        split, frame["task"].to_list(), frame["chunk_id"].to_list(), frame["input_ids"].to_list()
    )
    document = frame.select(pl.struct("task", "document").rle_id()).to_series().to_numpy().astype(np.int64)
    tasks = tuple(frame["task"].unique().sort())
    return StoredHeldOut(
        rows, sizes, codes(frame["task"]), document, frame.drop("input_ids"), tasks, identity
    )


def query_events(step: Step, corpus: StoredPool, names: list[str]) -> EventCounts:
    """Pin the queries and count their events in the corpus; names: of the tasks, sorted."""

    from grasp_pipeline.corpus.events import count_events

    frame, task = _queries(step, names)
    return count_events(corpus.text, TokenLists.of_column(frame["input_ids"]), task, len(names))


def events_by_document(
    step: Step, events: EventCounts, names: list[str]
) -> tuple[csr_array, NDArray[np.int64]]:
    """Return events (D, E) of every query document and its task (D,) by place in the sorted names."""
    import polars as pl

    from grasp_pipeline.corpus.events import events_by_group

    frame, task = _queries(step, names)
    document = (
        frame.select(pl.struct("task", "document").rank("dense")).to_series().to_numpy().astype(np.int64) - 1
    )
    first = np.unique(document, return_index=True)[1]
    queries = TokenLists.of_column(frame["input_ids"])
    return events_by_group(events.keys, queries, document, len(first)), task[first]


def _queries(step: Step, names: list[str]) -> tuple[pl.DataFrame, NDArray[np.int64]]:
    """Pin the tasks' query chunks, sorted; returns them and the place of each one's task in the sorted names."""
    import polars as pl

    asked = pl.col("task").is_in(names)
    frame = step.read(tables.TASKS, {"split": "query"}).filter(asked).collect().sort("task", "chunk_id")
    return frame, np.searchsorted(np.array(names), frame["task"].to_numpy().astype(str))


def pack_membership(membership: NDArray[np.bool_]) -> bytes:
    """Return a membership as packed bits."""
    return np.packbits(membership).tobytes()


def unpack_membership(data: bytes, n: int) -> NDArray[np.bool_]:
    """Return packed bits as a membership (n,)."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=n).astype(bool)
