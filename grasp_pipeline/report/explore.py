"""What the page's interactive views are made from: small aggregates, streamed from tables of any size."""

from __future__ import annotations

from typing import Any

import polars as pl

from grasp_pipeline.report.accounts import KEPT
from grasp_pipeline.report.inputs import ReportInputs, task_label
from grasp_pipeline.report.why import TWO_SIDED_95
from grasp_pipeline.selection.explanation.reasons import MARGINAL_VALUE, RANDOM_DRAW

BINS = 40
"""Of the distribution of a score; what lies beyond the 0.5% at either end is counted in the outermost bins."""

STAGES = ("read", "noise", "exact_duplicate", "contamination", "perplexity", "near_duplicate")
"""Order of what cleaning does; a stage that is named otherwise comes after these."""

MOST_SOURCES = 30
"""Sources that have a line of their own in the views; the others share one."""

OTHERS = "all other sources"


def funnel(documents: pl.LazyFrame, rejected: pl.LazyFrame, pruned: pl.LazyFrame) -> pl.DataFrame:
    """Count the documents of every source that are left after each stage.

    Args:
        documents: source (of `tables.DOCUMENTS`).
        rejected: stage, source (of `tables.REJECTED_DOCUMENTS`).
        pruned: doc_id, source (of `tables.PRUNED_CORPUS`).

    Returns:
        place (from 0), stage, source, documents: those that came in, then what is left after each stage of cleaning,
        then the documents of which something is kept.
    """
    clean = _per_source(documents.group_by("source").agg(n=pl.len()))
    lost = rejected.group_by("stage", "source").agg(n=pl.len()).collect(engine="streaming")
    kept = _per_source(pruned.group_by("source").agg(n=pl.col("doc_id").n_unique()))
    known = {name: number for number, name in enumerate(STAGES)}
    stages = sorted(lost["stage"].unique(), key=lambda name: (known.get(name, len(known)), name))
    sources = sorted(set(clean) | set(lost["source"]) | set(kept))
    losses = {(stage, source): n for stage, source, n in lost.iter_rows()}
    rows: list[tuple[int, str, str, int]] = []
    for source in sources:
        left = clean.get(source, 0) + sum(losses.get((stage, source), 0) for stage in stages)
        rows.append((0, "came in", source, left))
        for place, stage in enumerate(stages, 1):
            left -= losses.get((stage, source), 0)
            rows.append((place, f"after {stage.replace('_', ' ')}", source, left))
        rows.append((len(stages) + 1, "kept, whole or in part", source, kept.get(source, 0)))
    schema = {"place": pl.Int64, "stage": pl.String, "source": pl.String, "documents": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("place", "source")


def _per_source(frame: pl.LazyFrame) -> dict[str, int]:
    return dict(frame.collect(engine="streaming").iter_rows())


def value_bins(pruned: pl.LazyFrame, dropped: pl.LazyFrame, bins: int = BINS) -> pl.DataFrame:
    """Count the chunks of every score by value, kept and dropped apart, beside the threshold.

    Kept chunks have one value, what a token of them is worth beside the rest; it is drawn with the dropped chunks that
    were judged by the same score, and left out where it cannot be told which that is.

    Args:
        pruned: marginal_value (of `tables.PRUNED_CORPUS`).
        dropped: score, value, threshold, reason (of `tables.DROP_REASONS`).

    Returns:
        score, outcome (`kept` or a reason), low, high (of the bin), chunks, threshold.
    """
    schema = {
        "score": pl.String,
        "outcome": pl.String,
        "low": pl.Float64,
        "high": pl.Float64,
        "chunks": pl.Int64,
        "threshold": pl.Float64,
    }
    judged = dropped.filter(
        pl.col("score").is_not_null(), pl.col("score") != RANDOM_DRAW, pl.col("value").is_finite()
    ).select("score", "value", "threshold", outcome="reason")
    scores = judged.group_by("score").agg(pl.col("threshold").median()).sort("score")
    frames = []
    known = scores.collect(engine="streaming")
    for score, threshold in known.iter_rows():
        mine = judged.filter(pl.col("score") == score).select("outcome", "value")
        worth = pruned.select(outcome=pl.lit(KEPT), value=pl.col("marginal_value")).filter(
            pl.col("value").is_finite()
        )
        if score == MARGINAL_VALUE or (known.height == 1 and _above(worth, threshold)):
            mine = pl.concat([worth, mine])
        ends = mine.select(low=pl.col("value").quantile(0.005), high=pl.col("value").quantile(0.995))
        low, high = ends.collect(engine="streaming").row(0)
        if low is None:
            continue
        if threshold is not None:
            low, high = min(low, threshold), max(high, threshold)
        if not high > low:
            continue
        width = (high - low) / bins
        place = ((pl.col("value") - low) / width).floor().clip(0, bins - 1)
        frames.append(
            mine.group_by("outcome", bin=place)
            .agg(chunks=pl.len().cast(pl.Int64))
            .select(
                "outcome",
                "chunks",
                score=pl.lit(score),
                low=low + pl.col("bin") * width,
                high=low + (pl.col("bin") + 1) * width,
                threshold=pl.lit(threshold, pl.Float64),
            )
            .collect(engine="streaming")
        )
    if not frames:
        return pl.DataFrame(schema=schema)
    return pl.concat(frame.select(list(schema)) for frame in frames).sort("score", "outcome", "low")


def _above(worth: pl.LazyFrame, threshold: float) -> bool:
    """Return whether nearly all kept chunks are at the threshold or above it, as those of the same score are."""
    share = worth.select((pl.col("value") >= threshold).mean()).collect(engine="streaming").item()
    return share is not None and share > 0.99


def chart_data(inputs: ReportInputs) -> dict[str, Any]:
    """Return what the page's views draw, JSON-serialisable; lists of views that have nothing to show are empty."""
    sources = inputs.sources.sort("tokens", "source", descending=[True, False])
    named = set(sources["source"].head(MOST_SOURCES))
    grouped = pl.when(pl.col("source").is_in(list(named))).then("source").otherwise(pl.lit(OTHERS))
    funnelled = (
        inputs.funnel.with_columns(source=grouped)
        .group_by("place", "stage", "source")
        .agg(pl.col("documents").sum())
        .sort("place", "source")
    )
    mixed = (
        sources.with_columns(source=grouped)
        .group_by("source", maintain_order=True)
        .agg(pl.col("tokens", "kept_tokens").sum())
    )
    choice = inputs.choice or {}
    return {
        "funnel": funnelled.select("stage", "source", "documents").rows(),
        "mixture": mixed.rows(),
        "grid": inputs.surrogates.sort("rank", "config_id")
        .select("sketch_kind", "form", "rho", "lam", "rank_correlation", "lower_bound", "config_id")
        .rows(),
        "chosen": choice.get("config_id"),
        "forest": _forest(inputs),
        "predicted": inputs.predictions.select("split", "task", "stratum", "predicted", "measured").rows(),
        "values": inputs.values.select("score", "outcome", "low", "high", "chunks", "threshold").rows(),
        "cost": inputs.timings.drop_nulls().rows(),
    }


def _forest(inputs: ReportInputs) -> list[tuple[Any, ...]]:
    """Return task, arm, loss above the picked one's and its 95% interval over documents; the picked one at 0."""
    spread = TWO_SIDED_95 * pl.col("standard_error")
    rows = inputs.margins.select(
        pl.col("task").map_elements(task_label, pl.String),
        "arm",
        "margin",
        low=pl.col("margin") - spread,
        high=pl.col("margin") + spread,
    ).sort("task", "margin", "arm")
    tasks = rows["task"].unique(maintain_order=True).to_list()
    return [(task, inputs.picked, 0.0, None, None) for task in tasks] + rows.rows()
