"""Made-up cases with known losses, and a ground of toy documents that a tiny proxy trains on in milliseconds."""

from __future__ import annotations

import numpy as np
import polars as pl
from toys import WORDS, toy_texts

from benchmarks.downstream.prepared_pool import PreparedPool, prepare_pool, split_documents
from benchmarks.downstream.settings import DownstreamSettings
from benchmarks.downstream.target_study import FURTHER, PRODUCT, WITH_CONDITIONAL, TargetStudy
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.families import COMPARISON_ARMS

DOCUMENTS = pl.DataFrame(
    [(source, text) for source in WORDS for text in toy_texts(source, 120)],
    schema=["source", "text"],
    orient="row",
)
TARGETS = sorted(WORDS)[:3]

SIZE = {
    "seeds": [0],
    "chunks": 140,
    "steps": 10,
    "calibration_documents": 8,
    "sealed_documents": 6,
    "sealed_seeds": 3,
    "random_draws": 3,
    "fresh_draws": 2,
}


def toy_settings(**values: object) -> DownstreamSettings:
    context = {
        "corpora": {"toy": "toy/*.parquet"},
        "targets": {"toy": TARGETS},
        "main": SIZE | {"multiples": [2]},
        "coverage": SIZE | {"extended": False, "shortlist": 10, "sealed_seeds": 4},
        "tasks": 3,
        "chunk_tokens": 16,
        "vocab_size": 300,
        "query_documents": 6,
        "judge_documents": 5,
        "sketch_side": 6,
        "gap": 1e-2,
    }
    return DownstreamSettings.model_validate(context | values)


def toy_pool() -> PreparedPool:
    settings = toy_settings()
    return prepare_pool("toy", DOCUMENTS, settings, settings.main, 0)


def made_up_study(
    seed: int = 0,
    candidate: float = -0.2,
    simple: float = -0.1,
    noise: float = 0.02,
    documents: int = 40,
    target: str = "mean",
    name: str = "main/toy/0",
) -> TargetStudy:
    """Return a case whose arms differ from random by known amounts, nats per token, on every task alike.

    Candidate k of 4 has `candidate` + .02 k, the simple arms `simple`, the full corpus 0. Documents differ by .3,
    every arm on every document by `noise`, and every run by `noise` on all documents. The last candidate, of another
    group, has its text twice.
    """
    rng = generator("made-up case", seed)
    arms = (*COMPARISON_ARMS, *(f"surrogate-{k}" for k in range(3)), "blend-twice")
    truth = np.array(
        [0.0 if arm in ("full", "random-deduplicated") else simple for arm in COMPARISON_ARMS] + [0.0] * 4
    )
    truth[-4:] = candidate + 0.02 * np.arange(4)
    count = 2 * documents
    base = 3 + 0.3 * rng.standard_normal(count)

    def runs(level: float, *shape: int) -> np.ndarray:
        own = noise * rng.standard_normal(count)
        return base + own + level + noise * rng.standard_normal((*shape, 1))

    task = np.repeat(np.arange(2), documents)
    scores = {
        "judge": -truth,
        "own": truth,
        WITH_CONDITIONAL: -truth,
        "likelihood": -truth + 0.03 * rng.standard_normal(len(arms)),
    }
    roles = ["full" if arm == "full" else "simple" for arm in COMPARISON_ARMS] + ["candidate"] * 4
    return TargetStudy(
        f"{name}/{target}",
        target,
        arms,
        tuple(roles),  # type: ignore[arg-type]
        (PRODUCT,) * (len(arms) - 1) + (FURTHER,),
        rng.random((len(arms), 30)) < 0.4,
        scores,
        np.stack([runs(level, 6) for level in truth]),
        runs(0.0, 4, 6),
        runs(0.0, 6),
        {1: runs(0.0, 2, 2), 2: runs(-0.15, 2, 2), 4: runs(-0.3, 2, 2)},
        split_documents(task, documents // 2, "toy"),
        rng.integers(20, 65, count).astype(np.float64),
        np.array(["a", "b"])[task],
    )
