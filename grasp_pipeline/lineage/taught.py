"""Which kept chunks taught this? A distilled attribution index over the corpus of a curation.

The reference proxy of the curation is the frozen encoder and the teacher: see `attribution.distilled` and
`attribution.unlearning`. A text is looked up in the index; what is found is put in order by the teacher itself, which
is asked about these few chunks alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline import tables
from grasp_pipeline.attribution.distilled import Distillation, Embedding, distil, nearest_features
from grasp_pipeline.attribution.unlearning import Unlearning
from grasp_pipeline.errors import InputError, StoreError, boundary
from grasp_pipeline.evaluation.archive import load_archive, save_archive
from grasp_pipeline.lineage.curation import Curation
from grasp_pipeline.lineage.explain import texts_of
from grasp_pipeline.progress import Listener, Progress, silent
from grasp_pipeline.proxy.objective import Objective, pad_chunks
from grasp_pipeline.proxy.reference import file_digest
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.seeds import digest, generator
from grasp_pipeline.selection.explanation.nearest import neighbour_graph

if TYPE_CHECKING:
    from usearch.index import Index

    from grasp_pipeline.corpus.tokenizer import TextEncoder

VERSION = "1"
"""Raised when what is built from the same tables changes."""

MANIFEST, EMBEDDING, GRAPH, CHUNKS = "manifest.json", "embedding.npz", "graph.usearch", "chunks.parquet"

READ = (
    tables.PRUNED_CORPUS,
    tables.TOKENIZED_SHARDS,
    tables.TASKS,
    tables.TOKENIZER,
    tables.PROXY_CHECKPOINTS,
)
"""Tables that the index is built from; another version of one of them makes another index."""

SHORTEST_SPAN = 4
"""Fewest tokens of a text that the embedding is trained on."""


@dataclass(frozen=True)
class IndexSettings:
    """How an index is built.

    Attributes:
        texts: that the teacher is asked about: query chunks of the tasks, half at most, and spans of kept chunks.
        candidates: chunks that it ranks for each text, its nearest in the frozen features.
        looked_up: chunks taken from the index for each one that is shown; the teacher puts them in order.
    """

    texts: int = 128
    candidates: int = 128
    looked_up: int = 5


@dataclass(frozen=True)
class Proxy:
    """What a curation measured with: the reference proxy and its tokenizer. chunk_tokens: L."""

    objective: Objective
    encoder: TextEncoder
    chunk_tokens: int

    def rows(self, chunks: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Return chunks of at most L tokens as rows (n, L + 1) and sizes (n,)."""
        return pad_chunks(chunks, self.encoder.bos, self.chunk_tokens)

    def features(self, rows: Tensor, sizes: Tensor) -> NDArray[np.float32]:
        """Return mean hidden states (n, H)."""
        return representations(self.objective, self.objective.parameters(), rows, sizes)


def index_key(curation: Curation, settings: IndexSettings) -> str:
    """Return a digest of what an index depends on: versions of tables, settings and this code's version.

    Raises:
        InputError: the curation published nothing.
    """
    versions = {table.name: curation.versions.get(table.name) for table in READ}
    if versions[tables.PRUNED_CORPUS.name] is None or not curation.row["published"]:
        raise InputError(
            f"curation {curation.number} published nothing, so nothing was kept; name one that did with --curation"
        )
    return digest(VERSION, versions, asdict(settings), asdict(Distillation()))


def is_current(folder: Path, key: str) -> bool:
    """Whether a folder holds the index of a key, its files as they were written."""
    try:
        said = json.loads((folder / MANIFEST).read_text())
        return said["key"] == key and all(
            file_digest(folder / name) == sha for name, sha in said["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def build_index(
    curation: Curation, proxy: Proxy, settings: IndexSettings, folder: Path, listener: Listener = silent
) -> None:
    """Build the index of a curation's kept chunks into an empty folder.

    The token ids of all kept chunks are held at once.

    Raises:
        InputError: fewer than two chunks were kept.
        TrainingError: the teacher's step leads to a loss that is not finite.
    """
    kept = curation.read(tables.PRUNED_CORPUS).select("chunk_id")
    columns = ["chunk_id", "doc_id", "start", "end", "source", "input_ids"]
    frame = (
        curation.read(tables.TOKENIZED_SHARDS)
        .select(columns)
        .join(kept, on="chunk_id", how="semi")
        .collect(engine="streaming")
        .sort("chunk_id")
    )
    if frame.height < 2:
        raise InputError(f"curation {curation.number} kept {frame.height} chunks; an index needs two or more")
    chunks = frame["input_ids"].to_list()
    rows, sizes = proxy.rows(chunks)
    features = proxy.features(rows, sizes)
    listener(f"{len(chunks):,} kept chunks were embedded by the proxy")
    texts, lengths = proxy.rows(_training_texts(curation, chunks, settings.texts, proxy.chunk_tokens))
    queries = proxy.features(texts, lengths)
    candidates = nearest_features(features, queries, min(settings.candidates, len(chunks)))
    teacher = Unlearning(proxy.objective, proxy.objective.parameters(), rows, sizes)
    effects, progress = [], Progress("asking the teacher", len(texts), "texts", listener)
    for row, size, mine in zip(texts, lengths.tolist(), candidates, strict=True):
        effects.append(teacher.effects(row, size, mine))
        progress.advance(1)
    embedding = distil(features, queries, candidates, np.stack(effects), seed_name=f"taught/{VERSION}")
    graph = neighbour_graph(features.shape[1])
    graph.add(np.arange(len(features)), embedding(features), threads=1)
    save_archive(folder / EMBEDDING, {"version": VERSION}, embedding.arrays())
    graph.save(str(folder / GRAPH))
    frame.drop("input_ids").write_parquet(folder / CHUNKS)
    files = {name: file_digest(folder / name) for name in (EMBEDDING, GRAPH, CHUNKS)}
    told = {"key": index_key(curation, settings), "curation": curation.number, "files": files}
    (folder / MANIFEST).write_text(json.dumps(told))
    listener(f"the index of curation {curation.number} holds {len(features):,} chunks")


def _training_texts(
    curation: Curation, chunks: list[list[int]], count: int, chunk_tokens: int
) -> list[list[int]]:
    """Return token ids of `count` texts: query chunks of the tasks, half at most, and spans of kept chunks."""
    draw = generator("taught", "texts", VERSION)
    tasks = curation.read(tables.TASKS).filter(pl.col("split") == "query").select("chunk_id", "input_ids")
    asked = tasks.collect().sort("chunk_id")["input_ids"].to_list()
    texts = [asked[i][:chunk_tokens] for i in draw.permutation(len(asked))[: count // 2]]
    while len(texts) < count:
        chunk = chunks[int(draw.integers(len(chunks)))]
        length = int(draw.integers(min(SHORTEST_SPAN, len(chunk)), len(chunk) + 1))
        start = int(draw.integers(len(chunk) - length + 1))
        texts.append(chunk[start : start + length])
    return texts


@dataclass(frozen=True)
class TaughtIndex:
    """An index in memory; chunks: chunk_id, doc_id, start, end and source by row."""

    embedding: Embedding
    graph: Index
    chunks: pl.DataFrame

    @classmethod
    def load(cls, folder: Path) -> TaughtIndex:
        """Read what `build_index` wrote and `is_current` has checked.

        Raises:
            StoreError: a file cannot be read.
        """
        from usearch.index import Index

        with boundary(
            StoreError, f"the index {folder} cannot be read", "remove the folder; it is built again"
        ):
            _, arrays = load_archive(folder / EMBEDDING, "embedding")
            graph = Index.restore(str(folder / GRAPH))
            if graph is None:
                raise StoreError(f"the index {folder / GRAPH} is empty; remove the folder; it is built again")
            return cls(Embedding.of(arrays), graph, pl.read_parquet(folder / CHUNKS))

    def nearest(self, features: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rows (Q, k) of the nearest chunks of features (Q, H) and their cosines, nearest first.

        They may be fewer than k where the graph does not lead to more.
        """
        count = min(k, self.chunks.height)
        found = self.graph.search(self.embedding(features), count, threads=1)
        keys = np.asarray(found.keys, dtype=np.int64).reshape(len(features), -1)
        return keys, 1.0 - np.asarray(found.distances, dtype=np.float64).reshape(len(features), -1)


def taught(
    curation: Curation, proxy: Proxy, index: TaughtIndex, text: str, k: int, settings: IndexSettings
) -> dict[str, Any]:
    """Return the kept chunks that taught a text most.

    Returns:
        JSON-serialisable: curation, text, tokens (how many of the text were used: the first L) and chunks, best first.
        Each has chunk_id, doc_id, origin, source, text (its beginning), effect (nats per token by which its loss rises
        when the proxy unlearns the text) and similarity (cosine in the index).

    Raises:
        InputError: the text has no token, or k is below 1.
    """
    if k < 1:
        raise InputError(f"{k} chunks are asked for; ask for 1 or more")
    ids = next(proxy.encoder.encode([text]))[0][: proxy.chunk_tokens]
    if not ids:
        raise InputError("the text holds nothing that the tokenizer knows; give a sentence")
    row, size = proxy.rows([ids])
    found, cosines = index.nearest(proxy.features(row, size), settings.looked_up * k)
    chunks = index.chunks[found[0].tolist()].with_columns(similarity=pl.Series(cosines[0]))
    tokens = (
        curation.read(tables.TOKENIZED_SHARDS)
        .filter(pl.col("chunk_id").is_in(chunks["chunk_id"].to_list()))
        .select("chunk_id", "input_ids")
        .collect(engine="streaming")
    )
    chunks = chunks.join(tokens, on="chunk_id", how="left", maintain_order="left")
    teacher = Unlearning(
        proxy.objective, proxy.objective.parameters(), *proxy.rows(chunks["input_ids"].to_list())
    )
    effects = teacher.effects(row[0], len(ids))
    best = np.argsort(-effects, kind="stable")[:k]
    chunks = chunks.with_columns(effect=pl.Series(effects))[best.tolist()]
    origins = (
        curation.read(tables.DOCUMENTS)
        .filter(pl.col("doc_id").is_in(chunks["doc_id"].unique().to_list()))
        .select("doc_id", "origin")
        .collect(engine="streaming")
    )
    chunks = chunks.join(origins, on="doc_id", how="left", maintain_order="left")
    shown = texts_of(curation, chunks["chunk_id"].to_list())
    names = ("chunk_id", "doc_id", "origin", "source", "effect", "similarity")
    return {
        "curation": curation.number,
        "text": text,
        "tokens": len(ids),
        "chunks": [
            {name: row[name] for name in names} | {"text": shown.get(row["chunk_id"], "")}
            for row in chunks.iter_rows(named=True)
        ],
    }


def taught_text(told: dict[str, Any]) -> str:
    """Return what `taught` found as lines for the terminal."""
    from grasp_pipeline.report.formats import visible

    lines = [
        f"Kept chunks of curation {told['curation']} that taught this most ({told['tokens']} tokens were looked up). "
        "Effect: nats per token by which a chunk's loss rises when the proxy unlearns the text."
    ]
    for place, chunk in enumerate(told["chunks"], 1):
        text = visible(" ".join(chunk["text"].split()))
        lines.append(
            f"{place}. effect {chunk['effect']:+.4f}, cosine {chunk['similarity']:.3f}: chunk {chunk['chunk_id'][:16]} "
            f"of {chunk['origin']}, source {chunk['source']}: {text}"
        )
    return "\n".join(lines)
