"""Figures of the report, each drawn from its inputs; `grasp_pipeline.report.drawing` has their style and SVG."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS
from grasp_pipeline.report.drawing import (
    ACCENT,
    INK,
    MUTED,
    SECOND,
    SOFT,
    WIDTH,
    beside,
    ceiling,
    large_numbers,
    legend,
    name_rows,
    new_rows,
    styled,
    whiskers,
)
from grasp_pipeline.report.formats import count, number, share, shorten
from grasp_pipeline.report.inputs import ReportInputs, Row, task_label, totals

MOST_SOURCES = 16
MOST_CANDIDATES = 14


@styled
def tokens_by_source(inputs: ReportInputs) -> Figure | None:
    """Draw kept and dropped tokens of every source, largest first; small sources beyond a limit share a row."""
    frame = inputs.sources.sort("tokens", "source", descending=[True, False])
    if inputs.tokens == 0:
        return None
    shown = frame.head(MOST_SOURCES if frame.height > MOST_SOURCES + 1 else frame.height)
    names, tokens, kept = (shown[name].to_list() for name in ("source", "tokens", "kept_tokens"))
    rest = frame.tail(frame.height - shown.height)
    if rest.height:
        names.append(f"{rest.height} smaller sources")
        tokens.append(int(rest["tokens"].sum()))
        kept.append(int(rest["kept_tokens"].sum()))
    figure = new_rows(0.22, len(names))
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.barh(rows, kept, height=0.68, color=ACCENT, label="kept")
    axes.barh(rows, np.subtract(tokens, kept), left=kept, height=0.68, color=SOFT, label="dropped")
    name_rows(axes, names)
    beside(axes, [share(k, t) for k, t in zip(kept, tokens, strict=True)], "kept")
    legend(axes)
    large_numbers(axes)
    axes.set_xlabel("tokens of the clean corpus")
    return figure


@styled
def reasons(inputs: ReportInputs) -> Figure | None:
    """Draw documents rejected before tokenization and tokens dropped by the selection, by reason."""
    parts = [
        (totals(inputs.rejected, "reason", "documents"), "documents", "Rejected before tokenization", SECOND),
        (totals(inputs.drop_reasons, "reason", "tokens"), "tokens", "Dropped by the selection", ACCENT),
    ]
    parts = [part for part in parts if part[0].height]
    if not parts:
        return None
    figure = new_rows(0.22, sum(frame.height for frame, *_ in parts), len(parts))
    panels = figure.subplots(
        len(parts), squeeze=False, height_ratios=[frame.height + 0.5 for frame, *_ in parts]
    )
    for axes, (frame, column, title, colour) in zip(panels[:, 0], parts, strict=True):
        values = frame[column].to_list()
        axes.barh(range(len(values)), values, height=0.68, color=colour)
        name_rows(axes, frame["reason"].to_list())
        beside(axes, [count(value) for value in values])
        large_numbers(axes)
        axes.set_title(title)
        axes.set_xlabel(column)
    return figure


@styled
def candidates(inputs: ReportInputs) -> Figure | None:
    """Draw the first-ranked candidate configurations, the chosen one and the best additive one."""
    frame, choice = inputs.surrogates.sort("rank", "config_id"), inputs.choice or {}
    if frame.is_empty():
        return None
    always = [choice.get("config_id"), choice.get("best_additive")]
    index = pl.int_range(pl.len())
    shown = frame.filter((index < MOST_CANDIDATES) | pl.col("config_id").is_in(always))
    chosen = (shown["config_id"] == choice.get("config_id")).to_list() if choice else [False] * shown.height
    measured, low = (shown[name].to_numpy().astype(float) for name in ("rank_correlation", "lower_bound"))
    additive = (shown["lam"] == 0).to_numpy()
    figure = new_rows(0.22, shown.height)
    axes = figure.subplots()
    rows = np.arange(shown.height)
    groups = [
        ("chosen", np.array(chosen), "D", ACCENT),
        ("additive (lambda 0)", additive & ~np.array(chosen), "s", SECOND),
        ("lambda above 0", ~additive & ~np.array(chosen), "o", MUTED),
    ]
    for label, these, marker, colour in groups:
        if these.any():
            axes.hlines(rows[these], low[these], measured[these], color=colour, linewidth=2.2, alpha=0.55)
            axes.plot(low[these], rows[these], "|", color=colour, markersize=8, markeredgewidth=1.6)
            axes.plot(measured[these], rows[these], marker, color=colour, markersize=5.5, label=label)
    axes.plot([], [], "|", color=MUTED, markersize=8, markeredgewidth=1.6, label="its lower bound")
    name_rows(axes, shown["config_id"].to_list(), chosen)
    legend(axes)
    axes.set_xlabel("rank correlation on the calibration subsets")
    return figure


@styled
def fidelity(inputs: ReportInputs) -> Figure | None:
    """Draw every method's rank correlation on all sealed subsets, with intervals and the noise ceiling."""
    frame = inputs.overall_fidelity
    if frame.is_empty():
        return None
    first = inputs.reference_method
    values, low, high = (
        frame[name].to_numpy().astype(float) for name in ("rank_correlation", "ci_low", "ci_high")
    )
    mine = [key == first for key in frame.select("method", "form").iter_rows()]
    figure = new_rows(0.24, frame.height)
    axes = figure.subplots()
    rows = np.arange(frame.height)
    axes.barh(rows, values, height=0.62, color=[ACCENT if me else SOFT for me in mine])
    whiskers(axes, rows, low, high)
    ceiling(axes, frame["noise_ceiling"].max())
    name_rows(axes, [_method_label(row) for row in frame.iter_rows(named=True)], mine)
    beside(axes, [number(value) for value in values])
    legend(axes)
    axes.set_xlabel("rank correlation with measured losses, mean over tasks")
    return figure


@styled
def fidelity_by_stratum(inputs: ReportInputs) -> Figure | None:
    """Draw the same correlations in one panel per stratum, methods in the order of the whole."""
    order = inputs.overall_fidelity.select("method", "form")
    means = inputs.fidelity.filter(pl.col("task") == MEAN_OVER_TASKS, pl.col("stratum") != ALL)
    strata = means["stratum"].unique(maintain_order=True).to_list()
    if not strata or order.is_empty():
        return None
    first = inputs.reference_method
    across = min(3, len(strata))
    down = -(-len(strata) // across)
    figure = Figure(figsize=(WIDTH, down * (0.17 * order.height + 0.75)), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    mine = [key == first for key in order.iter_rows()]
    rows = np.arange(order.height)
    for i, axes in enumerate(panels.flat):
        if i >= len(strata):
            axes.set_visible(False)
            continue
        frame = order.join(
            means.filter(pl.col("stratum") == strata[i]),
            on=["method", "form"],
            how="left",
            maintain_order="left",
        )
        values, low, high = (
            frame[n].cast(pl.Float64).fill_null(np.nan).to_numpy()
            for n in ("rank_correlation", "ci_low", "ci_high")
        )
        for me, colour, marker in ((False, MUTED, "o"), (True, ACCENT, "D")):
            these = np.array(mine) == me
            axes.hlines(rows[these], low[these], high[these], color=colour, linewidth=1.4, alpha=0.6)
            axes.plot(values[these], rows[these], marker, color=colour, markersize=4)
        ceiling(axes, frame["noise_ceiling"].max())
        n = frame["n_subsets"].max()
        axes.set_title(f"{shorten(strata[i], 18)}\nn = {n}", fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="x", labelbottom=i + across >= len(strata))
    name_rows(panels[0, 0], [_method_label(row) for row in order.iter_rows(named=True)], mine)
    figure.supxlabel("rank correlation, mean over tasks; dashed: noise ceiling", fontsize=8.5)
    return figure


@styled
def finalists(inputs: ReportInputs) -> Figure | None:
    """Draw the calibration loss of every retrained arm for the target; random draws share a row and a band."""
    task, frame = inputs.on_target(inputs.arm_losses)
    draws = frame.filter(pl.col("arm").is_in(inputs.random_arms))["loss"].drop_nulls().to_numpy()
    others = frame.filter(~pl.col("arm").is_in(inputs.random_arms))
    if frame.is_empty():
        return None
    roles = dict(inputs.finalists.select("arm", "role").iter_rows())
    entries = [(loss, arm) for arm, loss in others.select("arm", "loss").drop_nulls().iter_rows()]
    name = f"random ({len(draws)} draws)" if len(draws) > 1 else "random"
    if len(draws):
        entries.append((float(draws.mean()), name))
    entries.sort()
    figure = new_rows(0.24, len(entries))
    axes = figure.subplots()
    if len(draws) > 1:
        axes.axvspan(float(draws.min()), float(draws.max()), color=SECOND, alpha=0.16, linewidth=0)
    kinds = {"candidate": ("optimised", "o", MUTED), "full": ("full corpus", "^", INK)}
    labelled: set[str] = set()
    for row, (loss, arm) in enumerate(entries):
        label, marker, colour = kinds.get(roles.get(arm, ""), ("simple", "s", SOFT))
        at: Any = [loss]
        if arm == inputs.picked:
            label, marker, colour = "picked", "D", ACCENT
        elif arm == name and len(draws):
            label, marker, colour, at = "random draws", "x", SECOND, draws
        axes.plot(
            at, [row] * len(at), marker, color=colour, markersize=6, label="" if label in labelled else label
        )
        labelled.add(label)
    name_rows(axes, [arm for _, arm in entries], [arm == inputs.picked for _, arm in entries])
    beside(axes, [number(loss) for loss, _ in entries])
    legend(axes)
    axes.set_xlabel(f"calibration loss, {shorten(task_label(task))} (nats per token)")
    return figure


@styled
def evaluation(inputs: ReportInputs) -> Figure | None:
    """Draw the sealed evaluation loss of every arm for the target, with the spread over training seeds."""
    task, frame = inputs.on_target(inputs.evaluation_losses)
    frame = frame.drop_nulls("loss").sort("loss", "arm")
    if frame.is_empty():
        return None
    loss, spread = (frame[name].fill_null(0.0).to_numpy() for name in ("loss", "seed_sd"))
    mine = [arm == inputs.evaluated_pick for arm in frame["arm"]]
    figure = new_rows(0.26, frame.height)
    axes = figure.subplots()
    rows = np.arange(frame.height)
    for me, colour, marker in ((False, MUTED, "o"), (True, ACCENT, "D")):
        these = np.array(mine) == me
        whiskers(axes, rows[these], (loss - spread)[these], (loss + spread)[these], colour)
        axes.plot(loss[these], rows[these], marker, color=colour, markersize=6)
    for arm, value in frame.select("arm", "loss").iter_rows():
        if arm in inputs.random_arms:
            axes.axvline(value, color=SECOND, linewidth=1.2, linestyle=(0, (4, 3)), label="random")
    name_rows(axes, frame["arm"].to_list(), mine)
    gains = frame.select("arm", "gain").iter_rows()
    beside(
        axes, ["" if arm in inputs.random_arms else number(gain, signed=True) for arm, gain in gains], "gain"
    )
    legend(axes)
    axes.set_xlabel(f"evaluation loss ± sd, {shorten(task_label(task))} (nats per token)")
    return figure


def _method_label(row: Row) -> str:
    """Return a method with its form."""
    return f"{row['method']}, {row['form']}" if row["form"] else row["method"]
