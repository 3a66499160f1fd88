"""Frames of the store as the arrays that the core works on, aligned by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

    from assets.common import Step
    from grasp_pipeline.attribution.protocol import Form
    from grasp_pipeline.calibration.lcb import Configuration
    from grasp_pipeline.proxy.packing import TokenPool


@dataclass(frozen=True)
class Corpus:
    """All chunks, sorted by chunk_id, at one version of `tokenized_shards`.

    frame: chunk_id, doc_id, n_tokens, source, shard, cluster, survivor (n rows).
    """

    version: int
    frame: pl.DataFrame
    pool: TokenPool

    @property
    def n_tokens(self) -> NDArray[np.int64]:
        """Tokens per chunk, (n,)."""
        return self.pool.sizes

    @property
    def total(self) -> int:
        """Tokens in all."""
        return int(self.pool.offsets[-1])

    def codes(self, column: str) -> NDArray[np.int64]:
        """Return a column as integer codes in order of the sorted values, (n,)."""
        return np.unique(self.frame[column].to_numpy(), return_inverse=True)[1].astype(np.int64)


def token_pool(frame: pl.DataFrame) -> TokenPool:
    """Return the token ids of a frame's rows as a flat pool."""
    from grasp_pipeline.proxy.packing import TokenPool

    offsets = np.concatenate([[0], np.cumsum(frame["n_tokens"].to_numpy())]).astype(np.int64)
    tokens = frame["input_ids"].explode().to_numpy().astype(np.int32)
    return TokenPool(tokens, offsets)


def load_corpus(step: Step) -> Corpus:
    """Pin and load all chunks with their documents' near-duplicate clusters."""
    import polars as pl

    read = step.pin(tables.TOKENIZED_SHARDS)
    documents = step.read(tables.DOCUMENTS).select("doc_id", "cluster", "survivor").collect()
    chunks = step.tables.read(tables.TOKENIZED_SHARDS, read.version).collect().sort("chunk_id")
    if chunks.is_empty():
        raise StoreError("tokenized_shards holds no chunks; materialize it for every shard first")
    pool = token_pool(chunks)
    frame = chunks.drop("input_ids").join(documents, on="doc_id", how="left", maintain_order="left")
    if frame["cluster"].null_count():
        missing = frame.filter(pl.col("cluster").is_null())["shard"].unique().sort().to_list()
        raise StoreError(
            f"the shards {', '.join(missing)} of tokenized_shards are older than their documents; "
            "materialize tokenized_shards for them again"
        )
    return Corpus(read.version, frame, pool)


def load_sketches(step: Step, corpus: Corpus, kind: str) -> NDArray[np.float32]:
    """Pin and load one kind's sketches in the corpus's order: (n, d) float32 at their true scale."""
    frame, rows = _sketch_rows(step, corpus, kind)
    if len(rows) < corpus.pool.n:
        have = np.zeros(corpus.pool.n, dtype=bool)
        have[rows] = True
        shards = sorted(set(corpus.frame["shard"].to_numpy()[~have]))
        raise StoreError(
            f"{corpus.pool.n - len(rows)} chunks have no {kind} sketch; materialize gradient_sketches for "
            + ", ".join(shards)
        )
    from grasp_pipeline.sketch.storage import decode

    return decode(frame["sketch"], frame["d"][0], frame["scale"][0])


def load_losses(step: Step, corpus: Corpus, kind: str) -> NDArray[np.float64]:
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
    step: Step, corpus: Corpus, kind: str
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Pin and load a kind that only a sample of the chunks has: their positions (k,) and sketches (k, d)."""
    from grasp_pipeline.sketch.storage import decode

    frame, rows = _sketch_rows(step, corpus, kind)
    return rows, decode(frame["sketch"], frame["d"][0], frame["scale"][0])


def _sketch_rows(step: Step, corpus: Corpus, kind: str) -> tuple[pl.DataFrame, NDArray[np.int64]]:
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
    return frame, frame["row"].to_numpy().astype(np.int64)


def load_task_vectors(step: Step, kind: str, split: str) -> tuple[list[str], NDArray[np.float32]]:
    """Pin and load the tasks' mean sketches of a kind and split: names (sorted, `mean` among them) and (T, d)."""
    import polars as pl

    from grasp_pipeline.sketch.storage import decode_vector

    frame = step.read(tables.TASK_SKETCHES).filter(pl.col("sketch_kind") == kind, pl.col("split") == split)
    rows = frame.sort("task").collect()
    return rows["task"].to_list(), np.stack([decode_vector(data) for data in rows["sketch"]])


@dataclass(frozen=True)
class Subsets:
    """Designed subsets of one split: ids, membership (m, n), strata, and training seeds per subset."""

    ids: list[str]
    membership: NDArray[np.bool_]
    strata: list[str]
    seeds: int


def load_subsets(step: Step, split: str, corpus: Corpus) -> Subsets:
    """Pin and load the subsets of a split against the corpus they were drawn from."""
    read = step.pin(tables.SUBSETS, {"split": split})
    frame = step.tables.read(tables.SUBSETS, read.version, {"split": split}).collect().sort("subset_id")
    if frame["pool_version"].unique().to_list() != [corpus.version]:
        raise StoreError(
            f"the {split} subsets were drawn from another version of tokenized_shards; materialize subsets again"
        )
    commit = step.tables.latest(tables.SUBSETS, {"split": split})
    assert commit is not None, "pinned above"
    membership = np.stack([unpack_membership(data, corpus.pool.n) for data in frame["membership"]])
    return Subsets(
        frame["subset_id"].to_list(), membership, frame["stratum"].to_list(), commit.statistics["seeds"]
    )


def load_utilities(step: Step, subsets: Subsets, split: str) -> tuple[list[str], NDArray[np.float64]]:
    """Load the utilities of subsets, all seeds: task names (without `mean`) and (m, T, S)."""
    import polars as pl

    from grasp_pipeline.sketch.targets import MEAN

    read = step.tables.pin(tables.SUBSET_UTILITIES, {"split": split})
    frame = (
        step.tables.read(tables.SUBSET_UTILITIES, read.version, {"split": split})
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
    return names, frame["utility"].to_numpy().reshape(shape)


def predict_grid(
    step: Step,
    corpus: Corpus,
    membership: NDArray[np.bool_],
    configurations: list[Configuration],
    names: list[str],
) -> NDArray[np.float64]:
    """Return every configuration's predictions (K, m, T): one pass over the sketches per kind."""
    from grasp_pipeline.attribution.metric import metric_matrix, second_moment
    from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means

    predictions = np.empty((len(configurations), len(membership), len(names)))
    for kind in sorted({c.sketch_kind for c in configurations}):
        sketches = load_sketches(step, corpus, kind)
        means = subset_means(sketches, corpus.n_tokens, membership)
        second = second_moment(sketches, corpus.n_tokens)
        tasks, vectors = load_task_vectors(step, kind, "query")
        targets = vectors[[tasks.index(name) for name in names]]
        metrics = {c.rho: None if c.rho == 0 else metric_matrix(second, c.rho) for c in configurations}
        for k, c in enumerate(configurations):
            if c.sketch_kind == kind:
                predictions[k] = predict_from_means(
                    means, targets, metrics[c.rho], c.lam, cast("Form", c.form)
                )
    return predictions


@dataclass(frozen=True)
class HeldOut:
    """Held-out chunks of one split: rows (N, L + 1), sizes (N,), and per chunk its task, document and fold."""

    frame: pl.DataFrame
    rows: Tensor
    sizes: Tensor
    task_names: list[str]
    digest: str


def load_held_out(step: Step, split: str, bos: int, chunk_tokens: int) -> HeldOut:
    """Pin `tasks` and load one split of it."""
    import polars as pl

    from grasp_pipeline.proxy.objective import pad_chunks
    from grasp_pipeline.seeds import digest

    frame = (
        step.read(tables.TASKS)
        .filter(pl.col("split") == split)
        .collect()
        .sort("task", "document", "chunk_id")
    )
    rows, sizes = pad_chunks(frame["input_ids"].to_list(), bos, chunk_tokens)
    identity = digest(
        split, frame["task"].to_list(), frame["chunk_id"].to_list(), frame["input_ids"].to_list()
    )
    return HeldOut(frame.drop("input_ids"), rows, sizes, sorted(frame["task"].unique().to_list()), identity)


@dataclass(frozen=True)
class Arms:
    """The finalists with their memberships.

    frame: rows of `tables.FINALISTS`; settings: what the finalists asset was asked for.
    """

    frame: pl.DataFrame
    settings: dict[str, Any]
    _memberships: dict[str, NDArray[np.bool_]]

    def row(self, arm: str) -> dict[str, Any]:
        """Return one arm's row."""
        return next(row for row in self.frame.iter_rows(named=True) if row["arm"] == arm)

    def subset_id(self, arm: str) -> str:
        """Return the arm's subset id."""
        return self.row(arm)["subset_id"]

    def membership(self, arm: str) -> NDArray[np.bool_]:
        """Return the arm's membership (n,)."""
        return self._memberships[self.subset_id(arm)]

    def best_linear(self) -> dict[str, Any]:
        """Return the best-judged arm that ranks by one direction, for a filter beside an arm that does not."""
        linear = [row for row in self.frame.iter_rows(named=True) if row["role"] == "candidate"]
        return max(linear, key=lambda row: row["judge_score"])


def load_finalists(step: Step, corpus: Corpus) -> Arms:
    """Pin and load the finalists and their subsets."""
    frame = step.read(tables.FINALISTS).collect()
    subsets = step.read(tables.SUBSETS, {"split": "finalist"}).collect()
    commit = step.tables.latest(tables.FINALISTS)
    assert commit is not None, "read above"
    if subsets["pool_version"].unique().to_list() != [corpus.version]:
        raise StoreError("the finalists belong to another version of the corpus; materialize finalists again")
    memberships = {
        row["subset_id"]: unpack_membership(row["membership"], corpus.pool.n)
        for row in subsets.iter_rows(named=True)
    }
    return Arms(frame, commit.statistics, memberships)


def pack_membership(membership: NDArray[np.bool_]) -> bytes:
    """Return a membership as packed bits."""
    return np.packbits(membership).tobytes()


def unpack_membership(data: bytes, n: int) -> NDArray[np.bool_]:
    """Return packed bits as a membership (n,)."""
    return np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=n).astype(bool)
