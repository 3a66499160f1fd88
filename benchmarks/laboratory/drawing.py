"""How figures of the laboratory are drawn: small PNG files for pages that are about 900 pixels wide.

The style and the colours, those of Okabe and Ito (2008), are the report's; what a colour tells, a shape, an outline
or a label tells too. Equal data give equal bytes.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image

from grasp_pipeline.calibration.strata import OPTIMISED, RANDOM_STRATA
from grasp_pipeline.errors import InputError
from grasp_pipeline.report.drawing import ACCENT, INK, MARK, MUTED, SECOND, whiskers
from grasp_pipeline.report.formats import number, shorten

Kind = Literal["ours", "additive", "interaction", "control", "ceiling"]

WIDTH, DPI = 6.4, 140
"""Inches and dots per inch: 896 pixels."""

LABEL = 40
"""Characters of a name beside a row."""

THIRD, SKY, GREY = "#009e73", "#56b4e9", "#8d97a1"
WHITE = "#ffffff"

KINDS: dict[str, tuple[str, str, str]] = {
    "ours": ("our surrogate", ACCENT, "D"),
    "additive": ("additive", SECOND, "s"),
    "interaction": ("interaction-aware", THIRD, "o"),
    "control": ("control", GREY, "v"),
    "ceiling": ("upper reference", INK, "P"),
}
"""Kind -> (name in the legend, colour, marker)."""

_STRATA: dict[str, tuple[str, str]] = dict(
    zip((*RANDOM_STRATA, OPTIMISED), ((SKY, "o"), (SECOND, "s"), (THIRD, "^"), (MARK, "D")), strict=True)
)
_OTHER_STRATA = (("#cc79a7", "v"), (INK, "P"), (ACCENT, "X"))

DASHED: Any = (0, (4, 3))


def require(given: Sequence[object], function: str, what: str) -> None:
    if not len(given):
        raise InputError(f"{function} has nothing to draw; give it at least one {what}")


def check_row(label: str, value: float, low: float, high: float, kind: str) -> None:
    if kind not in get_args(Kind):
        raise InputError(f"The row {label!r} is of the kind {kind!r}; give one of {', '.join(KINDS)}")
    if not math.isfinite(value):
        raise InputError(f"The value of {label!r} is {value}; leave the row out")
    if not low <= high and not (math.isnan(low) and math.isnan(high)):
        raise InputError(
            f"The interval of {label!r} is [{low}, {high}]; give its lower end first, or NaN twice"
        )


def minus(text: str) -> str:
    return text.replace("-", "−")


def interval(axes: Axes, at: int, low: float, high: float, colour: str, width: float = 1.1) -> None:
    if math.isfinite(low) and math.isfinite(high):
        whiskers(axes, at, low, high, colour)
        axes.hlines(at, low, high, color=colour, linewidth=width)


def draw_zero(axes: Axes, only_if_seen: bool = False) -> None:
    left, right = axes.get_xlim()
    if not only_if_seen or left < 0 < right:
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=1)


def draw_ceiling(axes: Axes, low: float, high: float) -> None:
    """Draw the noise ceiling over the bars, with its label above it."""
    for end in dict.fromkeys((low, high)):
        axes.axvline(end, color=MARK, linewidth=1.1, linestyle=DASHED, zorder=3)
    axes.axvspan(low, high, color=MARK, alpha=0.2, linewidth=0, zorder=3)
    label = number(low) if low == high else f"{number(low)} to {number(high)}"
    axes.set_title(f"noise ceiling {minus(label)}", loc="right", fontsize=8, fontweight="normal", color=MARK)


def patches(kinds: Iterable[str]) -> list[Any]:
    present = set(kinds)
    return [
        Patch(facecolor=WHITE if kind == "ceiling" else colour, edgecolor=colour, linewidth=0.9, label=name)
        for kind, (name, colour, _) in KINDS.items()
        if kind in present
    ]


def dot(name: str, colour: str, marker: str, hollow: bool = False) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker=marker,
        color=colour,
        markerfacecolor=WHITE if hollow else colour,
        markersize=6,
        label=shorten(name, 24),
    )


def stratum_looks(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and marker of the strata that occur; the laboratory's own come first, in their order."""
    present = set(names)
    looks = {name: look for name, look in _STRATA.items() if name in present}
    others = sorted(present - set(_STRATA))
    return looks | {name: _OTHER_STRATA[i % len(_OTHER_STRATA)] for i, name in enumerate(others)}


def lambda_ticks(axes: Axes, lambdas: Sequence[float]) -> None:
    """Mark the lambdas that were tried, without labels that would touch."""
    ticks: list[float] = []
    for lam in lambdas:
        if not ticks or lam - ticks[-1] >= 0.06 * (lambdas[-1] - lambdas[0]):
            ticks.append(lam)
    axes.set_xticks(ticks, [f"{lam:g}" for lam in ticks])


def head(figure: Figure, handles: Sequence[Any], title: str = "") -> None:
    """Put the legend, under the title if there is one, above everything else."""
    legend = figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=6,
        columnspacing=1.2,
        handletextpad=0.5,
        fontsize=8,
        title=textwrap.fill(shorten(title, 240), 80),
        alignment="left",
    )
    legend.get_title().set(fontsize=10, fontweight="bold")


def write(figure: Figure, path: Path) -> Figure:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI, facecolor=WHITE)
    image = Image.open(drawn).convert("RGB")
    # Lines, letters and a few colours: a palette shows them as well, in a third of the bytes.
    unfinished = path.with_suffix(".part.png")
    image.quantize(256, dither=Image.Dither.NONE).save(unfinished, format="png", optimize=True)
    unfinished.replace(path)
    return figure
