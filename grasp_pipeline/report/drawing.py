"""How the report draws: figures as inline SVG that follows the page's light or dark colours.

Text stays text, so the pictures are small, sharp at any size and the same for the same data. Colours are those of
Okabe and Ito (2008), which colour-blind readers tell apart; what matters is also told by shape or label. Text
from data is never read as mathematics, and matplotlib escapes it.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from grasp_pipeline.report.formats import compact, number, shorten, visible

INK, MUTED, GRID, SOFT = "#1b1f24", "#5c6670", "#dde1e6", "#b4bdc7"
ACCENT, SECOND, MARK, PAPER = "#0072b2", "#e69f00", "#d55e00", "#fffffe"
THEME = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    SOFT: "soft",
    ACCENT: "accent",
    SECOND: "second",
    MARK: "mark",
    PAPER: "paper",
}
"""Colour in a figure -> the page's CSS variable that replaces it."""

WIDTH = 5.6
"""Inches: narrow enough for a phone."""

LABEL = 28
"""Characters of a name beside a row."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grasp_pipeline",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": SOFT,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "figure.facecolor": "none",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "xtick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.color": SOFT,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 1.8,
}

P = ParamSpec("P")


@contextmanager
def style() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        for key, value in _STYLE.items():
            matplotlib.rcParams[key] = value
        yield


def styled(draw: Callable[P, Figure | None]) -> Callable[P, Figure | None]:
    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure | None:
        with style():
            return draw(*args, **kwargs)

    return inside


def to_svg(figure: Figure, name: str, alt: str) -> str:
    """Return a figure as an inline SVG element.

    Args:
        figure: from one of the functions below.
        name: unique on the page; prefixes the ids inside.
        alt: what a reader who does not see it should know.
    """
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = buffer.getvalue().decode("utf-8")
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(
        r"\s*<defs>\s*<style.*?</style>\s*</defs>|\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL
    )
    targets = set(re.findall(r'(?:xlink:href="|url\()#([\w.-]+)', svg))

    def rewrite(match: re.Match[str]) -> str:
        tag = match[0]
        tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in targets else "", tag)
        tag = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", tag)
        tag = tag.replace("font-family: 'DejaVu Sans', sans-serif", "font-family: var(--sans, sans-serif)")
        tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
        tag = re.sub(r"(\d+\.\d\d)\d+", r"\1", tag)
        tag = re.sub(r"\s*\n", " ", tag)
        for colour, variable in THEME.items():
            tag = tag.replace(colour, f"var(--{variable}, {colour})")
        return tag

    svg = re.sub(r"<[^>]*>", rewrite, svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    opening = svg[: svg.index(">")]
    opening = re.sub(r' (?:width|height|version|xmlns)="[^"]*"', "", opening)
    return f'{opening} role="img" aria-label="{escape(visible(alt))}"{svg[svg.index(">") :]}'


def new_rows(height: float, n: int, panels: int = 1) -> Figure:
    return Figure(figsize=(WIDTH, height * n + 0.75 * panels), layout="constrained")


def name_rows(axes: Axes, names: Sequence[str], bold: Sequence[bool] = (), width: int = LABEL) -> None:
    """Label rows 0, 1... from top to bottom; names of at most `width` characters."""
    axes.set_yticks(range(len(names)), [shorten(name, width) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    for tick, heavy in zip(axes.get_yticklabels(), bold, strict=False):
        tick.set_fontweight("bold" if heavy else "normal")


def beside(axes: Axes, texts: Sequence[str], heading: str = "") -> None:
    """Write a column of texts to the right of the rows."""
    where = axes.get_yaxis_transform()
    for row, text in enumerate(texts):
        axes.text(1.015, row, text.replace("-", "−"), transform=where, va="center", color=INK)
    if heading:
        axes.text(1.015, 1.0, heading, transform=axes.transAxes, va="bottom", color=MUTED, fontsize=8)


def legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles and isinstance(axes.figure, Figure):
        axes.figure.legend(
            handles, labels, loc="outside upper left", ncols=5, columnspacing=1.1, handletextpad=0.3
        )


def large_numbers(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def whiskers(axes: Axes, rows: Any, low: Any, high: Any, colour: str = INK) -> None:
    axes.hlines(rows, low, high, color=colour, linewidth=1.1)
    for end in (low, high):
        axes.plot(end, rows, "|", color=colour, markersize=4.5, markeredgewidth=1.1)


def ceiling(axes: Axes, value: Any) -> None:
    if value is not None and np.isfinite(value):
        axes.axvline(
            value, color=MARK, linewidth=1.3, linestyle=(0, (4, 3)), label=f"noise ceiling {number(value)}"
        )
