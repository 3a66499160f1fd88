"""What a whole sketching run reads: a model and chunks for every contestant, and a store for this project's asset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from assets.sections import SketchRun
from assets.sketches import gradient_sketches, sketchers
from grasp_pipeline import tables
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.corpus.chunking import chunk_id
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.reference import file_digest, save, shape_json
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import digest, generator
from resources.compute import Compute
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables
from resources.models import Models
from resources.store import DeltaStore

SHARD = "shard-0000"
PARTITION = {"shard": SHARD}
MADE = Provenance("benchmark", "benchmark", "1", "")
QUIET = {"console": {"config": {"log_level": "CRITICAL"}}}
BYTES = 257
"""Vocabulary of the stored tokenizer: all bytes and the separator. The chunks are token ids already."""


def draw_chunks(count: int, chunk_tokens: int, vocabulary: int) -> NDArray[np.int32]:
    """Return (count, L) random token ids above 0: no token changes what a sketch costs."""
    source = generator("sketch benchmark", "chunks", count, chunk_tokens)
    return source.integers(1, vocabulary, (count, chunk_tokens), dtype=np.int32)


def write_inputs(folder: Path, preset: str, vocabulary: int, chunks: NDArray[np.int32]) -> None:
    """Write `model/` at its initial weights, `tokenizer/` and `chunks.npy`, (n, L + 1) with BOS, below a folder."""
    config = ProxyConfig.model_validate({"preset": preset})
    model = build_model(config, vocabulary, chunks.shape[1])
    save(model, {}, folder / "model")
    train_bpe(["text"], BYTES).save(folder / "tokenizer")
    begins = np.zeros((len(chunks), 1), dtype=np.int32)
    np.save(folder / "chunks.npy", np.concatenate([begins, chunks], axis=1))


def resources(store: Path, threads: int) -> dict[str, dg.ConfigurableResource]:
    """Return the resources of the assets: one store, the CPU, float32."""
    at = DeltaStore(root=str(store))
    return {"store": at, "compute": Compute(device="cpu", threads=threads), "models": Models(store=at)}


def make_store(inputs: Path, store: Path, kind: str, settings: SketchRun) -> None:
    """Write the tables and files that the asset `gradient_sketches` reads, for one kind and one shard.

    The assets upstream are skipped, except `sketchers`, which fixes the kind's scale.
    """
    chunks = np.load(inputs / "chunks.npy")[:, 1:]
    for name in ("model", "tokenizer"):
        shutil.copytree(inputs / name, store / "files" / name)
    delta = DeltaTables(str(store))
    tokenizer = {
        "tokenizer_id": digest("benchmark"),
        "path": "files/tokenizer",
        "vocab_size": BYTES,
        "bos": 0,
        "chunk_tokens": chunks.shape[1],
        "bytes_per_token": 1.0,
    }
    delta.write(tables.TOKENIZER, pl.DataFrame([tokenizer]), MADE)
    delta.write(tables.PROXY_CHECKPOINTS, _checkpoints(store / "files" / "model", chunks.shape[1]), MADE)
    delta.write(tables.TOKENIZED_SHARDS, _shard(chunks), MADE, PARTITION)
    dg.materialize(
        [sketchers],
        resources=resources(store, 1),
        run_config=dg.RunConfig(ops={"sketchers": settings}, loggers=QUIET),
    )
    chosen = delta.read(tables.SKETCHERS, delta.pin(tables.SKETCHERS).version).collect()
    delta.write(tables.SKETCHERS, chosen.filter(pl.col("sketch_kind") == kind), MADE)


def materialize_sketches(store: Path, threads: int) -> float:
    """Run the asset `gradient_sketches` over the one shard; returns the seconds of its step."""
    done = dg.materialize(
        [gradient_sketches],
        partition_key=SHARD,
        resources=resources(store, threads),
        run_config={"loggers": QUIET},
    )
    (event,) = done.get_asset_materialization_events()
    seconds = event.materialization.metadata["seconds"].value
    assert isinstance(seconds, float)
    return seconds


def _checkpoints(model: Path, chunk_tokens: int) -> pl.DataFrame:
    recipe = Recipe.from_config(ProxyConfig(), chunk_tokens, 10_000)
    rows = [
        {
            "checkpoint_id": digest("benchmark", role),
            "role": role,
            "path": "files/model",
            "sha256": file_digest(model / "model.safetensors"),
            "tokens_seen": 0,
            "train_loss": 0.0,
            "validation_loss": 0.0,
            "model_config": shape_json(model),
            "recipe": json.dumps(recipe.__dict__, sort_keys=True),
            "seconds": 0.0,
        }
        for role in ("initial", "early", "reference")
    ]
    return pl.DataFrame(rows, schema=tables.PROXY_CHECKPOINTS.schema)


def _shard(chunks: NDArray[np.int32]) -> pl.DataFrame:
    count, length = chunks.shape
    documents = [digest("document", number) for number in range(count)]
    frame = pl.DataFrame(
        {
            "chunk_id": [chunk_id(document, 0) for document in documents],
            "doc_id": documents,
            "position": np.zeros(count, dtype=np.int64),
            "input_ids": pl.Series(chunks, dtype=pl.Array(pl.Int32, length)).cast(tables.TOKENS),
            "n_tokens": np.full(count, length, dtype=np.int64),
            "start": np.zeros(count, dtype=np.int64),
            "end": np.full(count, length, dtype=np.int64),
        }
    )
    named = frame.with_columns(source=pl.lit("benchmark"), shard=pl.lit(SHARD))
    return tables.TOKENIZED_SHARDS.conform(named.sort("chunk_id"))
