"""Numbers and names as readers see them: plain text, for the page, the figures and the terminal alike."""

from __future__ import annotations

import math
import re

from grasp_pipeline.errors import visible

MISSING = "-"
"""Stands for a value that was not measured."""

_SECRETS = re.compile(r"(?<=//)[^/@]*@|[?#].*$")


def _measured(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def number(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """Format a measured value, for example ``0.942`` or, signed, ``+0.056``."""
    if value is None or not math.isfinite(value):
        return MISSING
    rounded = round(value, digits) + 0.0  # no minus before a zero
    return f"{rounded:{'+' if signed else ''}.{digits}f}"


def interval(
    value: float | None, low: float | None, high: float | None, digits: int = 3, signed: bool = False
) -> str:
    """Format a value with its interval: ``0.942 [0.910, 0.950]``."""
    text = number(value, digits, signed)
    if not _measured(value, low, high):
        return text
    return f"{text} [{number(low, digits, signed)}, {number(high, digits, signed)}]"


def passes(value: float) -> str:
    """Format how often a training saw its corpus: ``1 pass``, ``2.5 passes``."""
    rounded = f"{value:.2g}"
    return f"{rounded} {'pass' if rounded == '1' else 'passes'}"


def count(value: int | None) -> str:
    """Format a count: ``1,234,567``."""
    return MISSING if value is None else f"{value:,}"


def share(part: float, whole: float) -> str:
    """Format a part of a whole: ``28.0%``, or ``<0.1%`` for what would round to nothing."""
    if not whole:
        return MISSING
    percent = 100 * part / whole
    return "<0.1%" if 0 < percent < 0.05 else f"{percent:.1f}%"


def size(n_bytes: int) -> str:
    """Format bytes in decimal units: ``1.6 MB``."""
    value, units = float(n_bytes), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value, units = value / 1000, units[1:]
    digits = 0 if units[0] == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {units[0]}"


def brief(value: object) -> str | None:
    """Return a table's value in few characters, lists and bytes by their size; None where it is to stand as it is."""
    if value is None:
        return "–"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, list):
        return f"{len(value):,} values"
    return f"{value:.4g}" if isinstance(value, float) else None


def compact(value: float) -> str:
    """Format a large number in few characters: ``1.2M``."""
    for scale, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def plain(value: object) -> str:
    """Return a value as one line of visible text with single spaces."""
    return visible(" ".join(str(value).split()))


def shorten(value: object, length: int = 32) -> str:
    """Return a name as one line of at most `length` characters; the middle of longer ones is left out."""
    text = plain(value)
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def public_location(uri: str) -> str:
    """Return a path or URI without what may be secret: user and password, query and fragment of a URI."""
    return plain(_SECRETS.sub("", uri) if "://" in uri else uri)
