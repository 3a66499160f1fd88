"""Pictures for asset metadata: inline PNGs, which open by a click, and bars, which the page shows without one."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from assets.samples import bars

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure


def inline_png(figure: Figure, alt: str) -> str:
    """Return a figure as Markdown with the PNG inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, bbox_inches="tight")
    return f"![{alt}](data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()})"


def loss_bars(points: Sequence[tuple[int, float]], most: int = 10) -> str:
    """Return the training curve as bars, at steps of equal distance."""
    every = max(1, -(-len(points) // most))
    return bars([(f"{tokens:,} tokens", loss) for tokens, loss in points[::-every][::-1]], "train loss")


def loss_curve(points: Sequence[tuple[int, float]]) -> str:
    """Return the training curve: tokens seen against train loss in nats per token."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 2.6))
    axes = figure.subplots()
    axes.plot([tokens for tokens, _ in points], [loss for _, loss in points], color="#1f6f8b")
    axes.set_xlabel("tokens seen")
    axes.set_ylabel("train loss (nats per token)")
    axes.grid(alpha=0.3)
    return inline_png(figure, "training curve")


def bounds_chart(surrogates: pl.DataFrame, most: int = 15) -> str:
    """Return the best candidates' rank correlations with their simultaneous lower bounds."""
    from matplotlib.figure import Figure

    best = surrogates.sort("rank").head(most).reverse()
    figure = Figure(figsize=(6, 0.5 + 0.28 * best.height))
    axes = figure.subplots()
    low, seen = best["lower_bound"].to_numpy(), best["rank_correlation"].to_numpy()
    rows = range(best.height)
    axes.hlines(rows, low, seen, color="#9bb8c4", linewidth=3)
    axes.plot(seen, rows, "o", color="#1f6f8b", label="measured")
    axes.plot(low, rows, "|", color="#c44e52", markersize=10, label="lower bound")
    axes.set_yticks(list(rows), best["config_id"].to_list(), fontsize=7)
    axes.set_xlabel("task-level rank correlation on the calibration subsets")
    axes.legend(fontsize=7)
    axes.grid(axis="x", alpha=0.3)
    return inline_png(figure, "lower bounds of the candidates")


def bounds_bars(surrogates: pl.DataFrame) -> str:
    """Return the best candidates' lower bounds as bars."""
    best = surrogates.sort("rank").select("config_id", "lower_bound").head(8)
    return bars(best.iter_rows(), "lower bound")


def _all_strata(fidelity: pl.DataFrame, corpus: str) -> pl.DataFrame:
    """Return every method's row over all strata and tasks, the weakest first."""
    import polars as pl

    from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS, stratum_name

    return fidelity.filter(
        pl.col("stratum") == stratum_name(ALL, corpus), pl.col("task") == MEAN_OVER_TASKS
    ).sort("rank_correlation")


def fidelity_bars(fidelity: pl.DataFrame, corpus: str = "text") -> str:
    """Return every method's rank correlation over all strata and tasks as bars, the strongest first."""
    rows = _all_strata(fidelity, corpus).reverse()
    named = rows.select("method", "form", "rank_correlation").iter_rows()
    return bars([(f"{method}, {form}", seen) for method, form, seen in named], "rank correlation")


def fidelity_chart(fidelity: pl.DataFrame, corpus: str = "text") -> str:
    """Return every method's rank correlation over all strata and tasks, with intervals and the noise ceiling."""
    from matplotlib.figure import Figure

    rows = _all_strata(fidelity, corpus)
    seen = rows["rank_correlation"].to_numpy()
    errors = [seen - rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy() - seen]
    figure = Figure(figsize=(6, 0.8 + 0.3 * rows.height))
    axes = figure.subplots()
    names = [f"{method}, {form}" for method, form in rows.select("method", "form").iter_rows()]
    colours = ["#1f6f8b" if method == "surrogate" else "#9bb8c4" for method in rows["method"]]
    axes.barh(names, seen, xerr=errors, color=colours, ecolor="#444444", height=0.6)
    axes.axvline(rows["noise_ceiling"][0], color="#c44e52", linestyle="--", label="noise ceiling")
    axes.set_xlabel("task-level rank correlation on the sealed subsets")
    axes.legend(fontsize=7)
    return inline_png(figure, "fidelity")


def reasons_bars(counts: pl.DataFrame) -> str:
    """Return documents rejected by reason as bars, the most first."""
    ordered = counts.sort("documents", descending=True).select("reason", "documents")
    return bars(ordered.iter_rows(), "documents rejected")


def reasons_chart(counts: pl.DataFrame) -> str:
    """Return documents rejected by reason; columns reason, documents."""
    from matplotlib.figure import Figure

    ordered = counts.sort("documents")
    figure = Figure(figsize=(5, 0.6 + 0.3 * max(1, ordered.height)))
    axes = figure.subplots()
    axes.barh(ordered["reason"].to_list(), ordered["documents"].to_list(), color="#1f6f8b", height=0.6)
    axes.set_xlabel("documents rejected")
    return inline_png(figure, "rejected documents by reason")
