"""How much a small run did, and how much the whole corpus has to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_pipeline import tables

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.planning.costs import Amounts


def amounts_of_run(
    ops: Mapping[str, Any],
    changed: Mapping[str, Mapping[str, Any]],
    sample: pl.DataFrame,
    tasks: pl.DataFrame,
    store: Path,
    runs: Mapping[str, int],
) -> Amounts:
    """Return what a run did, by its store, its sections as asked and changed, and the models that it retrained."""
    import polars as pl

    from grasp_pipeline.planning.costs import Amounts
    from resources.delta.tables import DeltaTables
    from resources.notes import FinalistsNote

    delta = DeltaTables(str(store))

    def read(table: tables.Table) -> pl.LazyFrame:
        return delta.read(table, delta.pin(table).version)

    chunks, tokens = read(tables.TOKENIZED_SHARDS).select(pl.len(), pl.col("n_tokens").sum()).collect().row(0)
    by_split = read(tables.TASKS).group_by("split").agg(pl.col("n_tokens").sum()).collect()
    proxy = ops["proxy_checkpoints"].model_copy(update=changed["proxy_checkpoints"])
    note = delta.latest(tables.FINALISTS)
    assert note is not None, "the run has ended"
    trained = FinalistsNote.of(note).training_tokens
    text_bytes = float(sample["text"].str.len_bytes().sum())
    return Amounts(
        text_bytes=text_bytes,
        documents=sample.height,
        tokens=tokens,
        chunks=chunks,
        task_bytes=float(tasks["text"].str.len_bytes().sum()),
        held_out=dict(by_split.iter_rows()),
        kinds=len(ops["sketchers"].kinds),
        reference_tokens=proxy.reference_tokens,
        retrain_tokens=proxy.retrain_tokens,
        finalist_tokens=trained or proxy.retrain_tokens,
        calibration_runs=runs["subset_utilities"],
        evaluation_runs=runs["fidelity"],
        finalist_runs=runs["document_losses"],
        arm_runs=runs["evaluation_losses"],
        subsets=16,
        tokenizer_bytes=0.0 if ops["tokenizer"].name else min(ops["tokenizer"].train_bytes, text_bytes),
        conditional=ops["conditional_losses"].enabled,
    )


def amounts_of_whole(
    ops: Mapping[str, Any], pilot: Amounts, text_bytes: float, documents: float, tasks: pl.DataFrame
) -> Amounts:
    """Return what the whole run has to do, by the ratios of the larger small run and the real settings."""
    from dataclasses import replace

    from assets.selection import planned_training
    from grasp_pipeline.calibration.budget import Budget

    proxy, protocol, finalists, subsets = (
        ops[name] for name in ("proxy_checkpoints", "candidates", "finalists", "subsets")
    )
    times = text_bytes / pilot.text_bytes
    tokens = pilot.tokens * times
    budget = Budget(protocol.budget_tokens, protocol.budget_documents, protocol.budget_fraction).resolve(
        int(tokens), math.ceil(documents)
    )
    trained, _ = planned_training(finalists, budget)
    task_bytes = float(tasks["text"].str.len_bytes().sum())
    return replace(
        pilot,
        text_bytes=text_bytes,
        documents=documents,
        tokens=tokens,
        chunks=pilot.chunks * times,
        task_bytes=task_bytes,
        held_out={split: count * task_bytes / pilot.task_bytes for split, count in pilot.held_out.items()},
        reference_tokens=proxy.reference_tokens,
        retrain_tokens=proxy.retrain_tokens,
        finalist_tokens=trained or proxy.retrain_tokens,
        calibration_runs=subsets.calibration_subsets * subsets.seeds,
        evaluation_runs=subsets.evaluation_subsets * subsets.seeds,
        subsets=subsets.calibration_subsets + subsets.evaluation_subsets,
        tokenizer_bytes=0.0 if ops["tokenizer"].name else min(ops["tokenizer"].train_bytes, text_bytes),
    )
