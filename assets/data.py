"""Frames of the store as the arrays that the core works on, aligned by chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assets.chunk_index import StoredPool as StoredPool
from assets.chunk_index import load_corpus as load_corpus
from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.corpus.pool import HeldOut
from grasp_pipeline.errors import StoreError
from grasp_pipeline.memberships import Memberships
from grasp_pipeline.names import Split, SubsetSplit
from grasp_pipeline.seeds import digest
from resources.notes import SubsetsNote

if TYPE_CHECKING:
    import polars as pl
    import torch
    from scipy.sparse import csr_array

    from assets.step import Step
    from grasp_pipeline.attribution.blocks import SketchBlocks
    from grasp_pipeline.corpus.events import EventCounts
    from grasp_pipeline.proxy.objective import CausalLM
    from grasp_pipeline.proxy.retrain import Job
    from resources.delta.commits import Read

_STATE_ROWS = 1024
"""Chunks whose hidden states are taken at once."""


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
    sketches = scratch_array(step.store, (corpus.n, stored.d), np.dtype(np.float16))
    have = np.zeros(corpus.n, dtype=bool)
    for block in stored.blocks():
        rows, known = corpus.keys.find(block.ids)
        sketches[rows] = block.sketches[known]
        have[rows] = True
    if not have.all():
        shards = [corpus.shards[code] for code in np.unique(corpus.shard[~have])]
        raise StoreError(
            f"{int((~have).sum())} chunks have no {kind} sketch; materialize gradient_sketches for "
            + ", ".join(shards)
        )
    return ArrayBlocks(sketches, stored.scale, TILE_ROWS)


def load_losses(step: Step, corpus: StoredPool, kind: str) -> NDArray[np.float64]:
    """Pin and load every chunk's mean token loss at a kind's checkpoint in the corpus's order: (n,) in nats.

    Raises:
        StoreError: a chunk has no sketch of the kind.
    """
    read = step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    found, have = per_chunk(step, corpus, read, "loss")
    if not have.all():
        raise StoreError(
            f"{int((~have).sum())} chunks have no {kind} sketch; materialize gradient_sketches for every shard"
        )
    return found


def per_chunk(
    step: Step, corpus: StoredPool, read: Read, column: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column of numbers of a pinned table in the corpus's order (n,), NaN where null or without a row, and
    which chunks have one."""
    import polars as pl

    found = np.full(corpus.n, np.nan)
    partition = dict(read.partition)
    for batch in step.tables.batches(
        tables.ALL[read.table], read.version, partition, ["chunk_id", column], 1 << 16
    ):
        rows, known = corpus.keys.find(batch["chunk_id"])
        found[rows] = batch[column].cast(pl.Float64).fill_null(np.nan).to_numpy()[known]
    return found, ~np.isnan(found)


def load_task_vectors(step: Step, kind: str, split: Split) -> tuple[list[str], NDArray[np.float32]]:
    """Pin and load the tasks' mean sketches of a kind and split: names (sorted, `mean` among them) and (T, d)."""
    import polars as pl

    from grasp_pipeline.sketch.storage import decode_vector

    frame = step.read(tables.TASK_SKETCHES).filter(pl.col("sketch_kind") == kind, pl.col("split") == split)
    rows = frame.sort("task").collect()
    return rows["task"].to_list(), np.stack([decode_vector(data) for data in rows["sketch"]])


@dataclass(frozen=True)
class StoredSubsets:
    """Designed subsets of one split: strata, membership (m, n), ids, and the number of training seeds of each.

    calibration_pool: version of that table when they were drawn, None where there was none yet.
    """

    strata: tuple[str, ...]
    membership: Memberships
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
    return StoredSubsets(
        tuple(frame["stratum"]),
        Memberships.of_bytes(frame["membership"], corpus.n),
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


def hidden_states(
    step: Step, tokens: TokenLists, objective: CausalLM, bos: int, chunk_tokens: int, device: torch.device
) -> NDArray[np.float32]:
    """Return the mean final hidden state of every chunk under a proxy: (n, H), see `assets.scratch` for where."""
    from assets.scratch import scratch_array
    from grasp_pipeline.proxy.objective import pad_chunks
    from grasp_pipeline.proxy.representations import representations

    parameters = {name: p.to(device) for name, p in objective.parameters().items()}
    found = scratch_array(step.store, (tokens.n, objective.hidden_size), np.dtype(np.float32))
    for start in range(0, tokens.n, _STATE_ROWS):
        part = range(start, min(start + _STATE_ROWS, tokens.n))
        rows, sizes = pad_chunks([tokens.chunk(i) for i in part], bos, chunk_tokens)
        found[part.start : part.stop] = representations(objective, parameters, rows, sizes)
    return found


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
