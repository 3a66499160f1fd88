"""Figures of the laboratory; `benchmarks.laboratory.drawing` has their style."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from benchmarks.laboratory.drawing import (
    DASHED,
    KINDS,
    LABEL,
    WHITE,
    WIDTH,
    Kind,
    check_row,
    dot,
    draw_ceiling,
    draw_zero,
    head,
    interval,
    lambda_ticks,
    minus,
    patches,
    require,
    stratum_looks,
    write,
)
from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.rank import spearman
from grasp_pipeline.errors import InputError
from grasp_pipeline.report.drawing import INK, MARK, MUTED, beside, name_rows, style
from grasp_pipeline.report.formats import number, shorten

_LINE_MARKERS = "os^DvPX"
_CORRELATION = "rank correlation with measured utilities"


@dataclass(frozen=True)
class Bar:
    """A method's value with its interval; an interval that was not measured is NaN at both ends."""

    label: str
    value: float
    low: float
    high: float
    kind: Kind

    def __post_init__(self) -> None:
        check_row(self.label, self.value, self.low, self.high, self.kind)


@dataclass(frozen=True, eq=False)
class Panel:
    """Predicted and measured utilities of m subsets of the named strata."""

    title: str
    predicted: Floats
    measured: Floats
    strata: Sequence[str]

    def __post_init__(self) -> None:
        shapes = [np.shape(values) for values in (self.predicted, self.measured, self.strata)]
        if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0][0] < 2:
            raise InputError(
                f"The panel {self.title!r} has predictions, measurements and strata of shapes {shapes}; give "
                "the same m, at least 2, of each"
            )
        if not (np.isfinite(self.predicted).all() and np.isfinite(self.measured).all()):
            raise InputError(
                f"The panel {self.title!r} has values that are not finite; leave these subsets out"
            )


@dataclass(frozen=True, eq=False)
class Line:
    """Correlations of one damping, one for each lambda."""

    label: str
    lambdas: Sequence[float]
    values: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.lambdas) != len(self.values) or not len(self.lambdas):
            raise InputError(
                f"The line {self.label!r} has {len(self.lambdas)} lambdas and {len(self.values)} values; give "
                "one value for each lambda, and at least one"
            )
        if not (np.isfinite(self.lambdas).all() and np.isfinite(self.values).all()):
            raise InputError(f"The line {self.label!r} has numbers that are not finite; leave them out")


@dataclass(frozen=True)
class StratumRow:
    """A method's value with its interval on one stratum, and the stratum's noise ceiling (NaN: not measured)."""

    stratum: str
    label: str
    value: float
    low: float
    high: float
    ceiling: float
    kind: Kind

    def __post_init__(self) -> None:
        check_row(f"{self.label}, {self.stratum}", self.value, self.low, self.high, self.kind)


def bars(rows: Sequence[Bar], path: Path, title: str, ceiling: tuple[float, float] | None) -> Figure:
    """Write a bar for every method, the best first.

    Args:
        rows: at least one.
        path: of the PNG file.
        title: may be long; it is wrapped.
        ceiling: lowest and highest noise ceiling, equal for a single one; None draws none.

    Returns:
        The figure that was written.

    Raises:
        InputError: there are no rows, or the ceiling is not an interval.
    """
    require(rows, "bars", "Bar")
    if ceiling is not None and not ceiling[0] <= ceiling[1]:
        raise InputError(f"The noise ceiling is {ceiling}; give its lowest and its highest value, or None")
    rows = sorted(rows, key=lambda row: (-row.value, row.label))
    with style():
        figure = Figure(figsize=(WIDTH, 0.225 * len(rows) + 1.25), layout="constrained")
        axes = figure.subplots()
        if ceiling is not None:
            draw_ceiling(axes, *ceiling)
        hollow = [row.kind == "ceiling" for row in rows]
        colours = [KINDS[row.kind][1] for row in rows]
        axes.barh(
            range(len(rows)),
            [row.value for row in rows],
            height=0.66,
            color=[WHITE if empty else colour for empty, colour in zip(hollow, colours, strict=True)],
            edgecolor=colours,
            linewidth=0.9,
        )
        for at, row in enumerate(rows):
            interval(axes, at, row.low, row.high, INK)
        draw_zero(axes)
        _name_rows(axes, rows)
        beside(axes, [number(row.value) for row in rows])
        axes.set_xlabel(_CORRELATION)
        head(figure, patches(row.kind for row in rows), title)
        return write(figure, path)


def predicted_measured(panels: Sequence[Panel], path: Path, ranks: bool = False) -> Figure:
    """Write a scatter plot for every panel: predicted against measured utilities, coloured by stratum.

    The title of a panel gives Spearman's rho over its subsets.

    Args:
        panels: at least one; up to three stand in a row, four in a square.
        path: of the PNG file.
        ranks: draw ranks (1: the lowest) instead of values.

    Returns:
        The figure that was written.

    Raises:
        InputError: there are no panels.
    """
    require(panels, "predicted_measured", "Panel")
    across = 2 if len(panels) == 4 else min(3, len(panels))
    down = -(-len(panels) // across)
    looks = stratum_looks(name for panel in panels for name in panel.strata)
    what = "rank of the {} utility" if ranks else "{} utility"
    with style():
        # Square panels: the height follows the width that a panel gets.
        figure = Figure(figsize=(WIDTH, down * (min(WIDTH / across, 3.6) + 0.25) + 0.5), layout="constrained")
        grid = figure.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            strata = np.array(panel.strata)
            x, y = (rankdata(v) if ranks else np.asarray(v, float) for v in (panel.predicted, panel.measured))
            for name, (colour, marker) in looks.items():
                these = strata == name
                axes.scatter(
                    x[these], y[these], s=18, c=colour, marker=marker, edgecolors=WHITE, linewidths=0.4
                )
            rho = number(float(spearman(panel.predicted, panel.measured)), 2)
            name = textwrap.fill(shorten(panel.title, 60), 78 // across)
            axes.set_title(
                f"{name}\nSpearman {minus(rho)}, m = {len(strata)}", fontsize=8.5 if across < 3 else 7.5
            )
            axes.grid(True, axis="both")
            axes.spines["left"].set_visible(True)
            axes.xaxis.set_major_locator(MaxNLocator(4))
            axes.yaxis.set_major_locator(MaxNLocator(5))
            axes.ticklabel_format(scilimits=(-2, 4), useOffset=False)
        figure.supxlabel(what.format("predicted"), fontsize=8.5)
        figure.supylabel(what.format("measured"), fontsize=8.5)
        head(figure, [dot(name, colour, marker) for name, (colour, marker) in looks.items()])
        return write(figure, path)


def lambda_profile(lines: Sequence[Line], path: Path) -> Figure:
    """Write the rank correlation against lambda, one line per damping.

    The best point has a ring; additive ones (lambda 0) are hollow, and a dashed line carries on the best of them.

    Args:
        lines: at least one, in the order of their dampings.
        path: of the PNG file.

    Returns:
        The figure that was written.

    Raises:
        InputError: there are no lines.
    """
    require(lines, "lambda_profile", "Line")
    with style():
        figure = Figure(figsize=(WIDTH, 3.3), layout="constrained")
        axes = figure.subplots()
        shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(lines)))
        points: list[tuple[float, float, str]] = []
        for i, (line, shade) in enumerate(zip(lines, shades, strict=True)):
            order = np.argsort(line.lambdas, kind="stable")
            x, y = (np.asarray(values, dtype=float)[order] for values in (line.lambdas, line.values))
            marker = _LINE_MARKERS[i % len(_LINE_MARKERS)]
            axes.plot(
                x, y, marker=marker, color=shade, linewidth=1.6, markersize=5, label=shorten(line.label, 24)
            )
            additive = x == 0
            axes.plot(
                x[additive],
                y[additive],
                marker,
                color=shade,
                markersize=5,
                markerfacecolor=WHITE,
                zorder=3,
                clip_on=False,
            )
            points += [(lam, value, line.label) for lam, value in zip(x.tolist(), y.tolist(), strict=True)]
        additive_values = [value for lam, value, _ in points if lam == 0]
        if additive_values:
            height = max(additive_values)
            name = f"best additive: {minus(number(height))}\n(λ = 0)"
            axes.axhline(height, color=MUTED, linewidth=1.1, linestyle=DASHED, zorder=1, label=name)
        lam, value, best = max(points, key=lambda point: (point[1], -point[0]))
        name = f"best: {minus(number(value))}\n({shorten(best, 24)}, λ = {lam:g})"
        axes.plot(
            lam,
            value,
            "o",
            markersize=12,
            markerfacecolor="none",
            color=MARK,
            markeredgewidth=1.8,
            label=name,
        )
        lambda_ticks(axes, sorted({point[0] for point in points}))
        axes.grid(True, axis="both")
        axes.spines["left"].set_visible(True)
        axes.margins(y=0.1)
        axes.set_xlabel("λ, weight of the quadratic penalty (0: additive)")
        axes.set_ylabel("rank correlation")
        figure.legend(loc="outside right center", fontsize=8, labelspacing=0.7)
        return write(figure, path)


def stratum_grid(rows: Sequence[StratumRow], path: Path) -> Figure:
    """Write a small panel per stratum, one below the other on the same axis: values with intervals, and the ceiling.

    Args:
        rows: at least one; strata and rows are drawn in the order given.
        path: of the PNG file.

    Returns:
        The figure that was written.

    Raises:
        InputError: there are no rows, or rows of a stratum have different ceilings.
    """
    require(rows, "stratum_grid", "StratumRow")
    strata = {
        name: [row for row in rows if row.stratum == name] for name in dict.fromkeys(r.stratum for r in rows)
    }
    for name, those in strata.items():
        ceilings = [row.ceiling for row in those]
        if not np.allclose(ceilings, ceilings[0], equal_nan=True):
            raise InputError(
                f"Rows of the stratum {name!r} have ceilings {ceilings}; give all of them the same"
            )
    with style():
        height = sum(0.24 * len(those) + 0.36 for those in strata.values())
        figure = Figure(figsize=(WIDTH, height + 0.7), layout="constrained")
        grid = figure.subplots(
            len(strata),
            squeeze=False,
            sharex=True,
            height_ratios=[len(those) + 0.2 for those in strata.values()],
        )[:, 0]
        for axes, (name, those) in zip(grid, strata.items(), strict=True):
            for at, row in enumerate(those):
                _, colour, marker = KINDS[row.kind]
                interval(axes, at, row.low, row.high, colour, 1.6)
                axes.plot(
                    row.value,
                    at,
                    marker,
                    color=colour,
                    markersize=6.5,
                    markerfacecolor=WHITE if row.kind == "ceiling" else colour,
                )
            ceiling = those[0].ceiling
            if math.isfinite(ceiling):
                axes.axvline(ceiling, color=MARK, linewidth=1.3, linestyle=DASHED, zorder=1)
                axes.set_title(
                    f"noise ceiling {number(ceiling)}",
                    loc="right",
                    fontsize=8,
                    fontweight="normal",
                    color=MUTED,
                )
            _name_rows(axes, those)
            beside(axes, [number(row.value) for row in those])
            axes.set_title(shorten(name, LABEL))
            axes.tick_params(axis="x", labelbottom=axes is grid[-1])
        for axes in grid:
            draw_zero(axes, only_if_seen=True)
        grid[-1].set_xlabel(_CORRELATION)
        legend = [
            dot(name, colour, marker, hollow=kind == "ceiling")
            for kind, (name, colour, marker) in KINDS.items()
            if any(row.kind == kind for row in rows)
        ]
        if any(math.isfinite(row.ceiling) for row in rows):
            legend.append(Line2D([], [], color=MARK, linewidth=1.3, linestyle=DASHED, label="noise ceiling"))
        head(figure, legend)
        return write(figure, path)


def _name_rows(axes: Axes, rows: Sequence[Bar] | Sequence[StratumRow]) -> None:
    name_rows(axes, [row.label for row in rows], [row.kind == "ours" for row in rows], LABEL)
