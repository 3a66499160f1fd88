"""Pictures for asset metadata: SVG inside Markdown, small enough that the web interface shows it without a click."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from assets.samples import SHOWN, bars

if TYPE_CHECKING:
    import polars as pl

Interval = tuple[str, float, float, float]
"""Name, lower end, value, upper end."""

WIDTH, NAMES, LINE = 460, 170, 15
"""Pixels: of a picture, of the names left of intervals, of one line."""


NOTHING = "There is nothing to draw."


def inline_svg(inside: str, height: int, alt: str) -> str:
    """Return a picture as Markdown; black on white in the dark theme too, since it takes no colours of the page."""
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' "
        f"style='background:#fff;font:10px sans-serif'>{inside}</svg>"
    )
    data = quote(svg, safe=" =':/;,.()")
    return f"![{alt}](<data:image/svg+xml,{data}>)"


def _fitting(draw: Callable[[int], str], most: int) -> str:
    """Return the picture of as many things as the page shows without a click."""
    return next((told for n in range(most, 0, -1) if len(told := draw(n)) < SHOWN), draw(1))


def _scale(low: float, high: float, start: int, end: int) -> Callable[[float], int]:
    span = high - low or 1.0
    return lambda value: round(start + (end - start) * (value - low) / span)


def _text(x: int, y: int, told: str, more: str = "") -> str:
    return f"<text x='{x}' y='{y}'{more}>{escape(told)}</text>"


def line(points: Sequence[tuple[float, float]], across: str, alt: str) -> str:
    """Return a line through points, with the ends of both axes.

    Args:
        points: in the order of the first number.
        across: what the first number counts.
        alt: says what the picture shows.
    """
    points = [point for point in points if math.isfinite(point[1])]
    if not points:
        return NOTHING
    xs, ys = zip(*points, strict=True)
    left, bottom = 44, 120
    x, y = _scale(xs[0], xs[-1], left, WIDTH - 10), _scale(min(ys), max(ys), bottom, 8)

    def draw(most: int) -> str:
        every = -(-len(points) // most)
        shown = points[::-every][::-1]
        path = "L".join(f"{x(one)} {y(other)}" for one, other in shown)
        inside = (
            f"<path d='M{left} 4V{bottom + 4}H{WIDTH}' fill='none' stroke='gray'/>"
            f"<path d='M{path}' fill='none' stroke='teal' stroke-width='2'/>"
            + _text(2, 12, f"{max(ys):.3g}")
            + _text(2, bottom, f"{min(ys):.3g}")
            + _text(left, bottom + 18, f"{xs[0]:,}")
            + _text(WIDTH - 10, bottom + 18, f"{xs[-1]:,} {across}", " text-anchor='end'")
        )
        return inline_svg(inside, bottom + 24, alt)

    return _fitting(draw, min(len(points), 80))


def intervals(rows: Sequence[Interval], alt: str, ceiling: float | None = None, most: int = 12) -> str:
    """Return named values with their intervals, one below the other.

    Args:
        rows: in the order to show; as many as fit are drawn.
        alt: says what the picture shows.
        ceiling: where a line is drawn from top to bottom.
        most: rows.
    """
    rows = [row for row in rows if all(math.isfinite(end) for end in row[1:])]
    if not rows:
        return NOTHING

    def draw(n: int) -> str:
        shown = rows[:n]
        ends = [end for _, low, value, high in shown for end in (low, value, high)]
        ends += [] if ceiling is None else [ceiling]
        x = _scale(min(ends), max(ends), NAMES, WIDTH - 10)
        middles = [LINE * i + 10 for i in range(n)]
        bottom = LINE * n + 12
        ranges = "".join(
            f"M{x(low)} {y}H{x(high)}" for y, (_, low, _, high) in zip(middles, shown, strict=True)
        )
        values = "".join(f"M{x(value)} {y}h0" for y, (_, _, value, _) in zip(middles, shown, strict=True))
        inside = (
            f"<path d='{ranges}' stroke='silver' stroke-width='4'/>"
            f"<path d='{values}' stroke='teal' stroke-width='8' stroke-linecap='round'/>"
            + ("" if ceiling is None else f"<path d='M{x(ceiling)} 0V{bottom - 8}' stroke='red'/>")
            + "".join(
                _text(2, y + 4, f"{name[:24]} {value:.2f}")
                for y, (name, _, value, _) in zip(middles, shown, strict=True)
            )
            + _text(NAMES, bottom, f"{min(ends):.2f}")
            + _text(WIDTH - 30, bottom, f"{max(ends):.2f}")
        )
        return inline_svg(inside, bottom + 4, alt)

    return _fitting(draw, min(len(rows), most))


def loss_curve(points: Sequence[tuple[int, float]]) -> str:
    """Return the training curve: tokens seen against train loss in nats per token."""
    return line(points, "tokens seen", "train loss in nats per token over the tokens seen")


def bounds_chart(surrogates: pl.DataFrame) -> str:
    """Return the best candidates' rank correlations with their simultaneous lower bounds."""
    best = surrogates.sort("rank").select("config_id", "lower_bound", "rank_correlation")
    rows = [(name, low, seen, seen) for name, low, seen in best.drop_nulls().iter_rows()]
    return intervals(rows, "rank correlations of the best candidates, down to their lower bounds")


def fidelity_chart(fidelity: pl.DataFrame, corpus: str = "text") -> str:
    """Return every method's rank correlation over all strata and tasks, with intervals and the noise ceiling."""
    import polars as pl

    from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS, stratum_name

    rows = fidelity.filter(
        pl.col("stratum") == stratum_name(ALL, corpus), pl.col("task") == MEAN_OVER_TASKS
    ).sort("rank_correlation", descending=True)
    named = [
        (f"{method}, {form}", low, seen, high)
        for method, form, low, seen, high in rows.select(
            "method", "form", "ci_low", "rank_correlation", "ci_high"
        )
        .drop_nulls()
        .iter_rows()
    ]
    told = "rank correlations of the methods with their intervals; the line is the noise ceiling"
    return intervals(named, told, rows["noise_ceiling"][0])


def reasons_chart(counts: pl.DataFrame) -> str:
    """Return documents rejected by reason, the most first; columns reason, documents."""
    rows: Iterable[tuple[str, float]] = (
        counts.sort("documents", descending=True).select("reason", "documents").iter_rows()
    )
    return bars(rows, "documents rejected")
