"""How well sketches keep the inner products of gradients, measured on a sample.

Everything that is computed from sketches is a function of their inner products. A Johnson-Lindenstrauss projection to
d dimensions keeps <g_i, g_j> up to an error of about ||g_i|| ||g_j|| / sqrt(d) (Johnson and Lindenstrauss 1984;
Kane and Nelson, arXiv 1012.1577), so errors are given in units of ||g_i|| ||g_j||: they are errors of cosines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError

_COLUMNS = 65_536


@dataclass(frozen=True)
class Distortion:
    """Inner products of sketches against exact ones, over all pairs of different chunks.

    pairs: number of pairs; correlation: Pearson's, of the two sets of inner products; median_error and
    error_95: median and 95% quantile of |<phi_i, phi_j> - <g_i, g_j>| / (||g_i|| ||g_j||).
    """

    pairs: int
    correlation: float
    median_error: float
    error_95: float


@dataclass(frozen=True)
class Agreement:
    """Inner products of two sketches of the same chunks, over all pairs of different chunks."""

    pairs: int
    pearson: float
    spearman: float


def inner_product_distortion(
    sketches: NDArray[np.floating[Any]], gradients: NDArray[np.floating[Any]]
) -> Distortion:
    """Compare inner products of sketches with those of the gradients that they project.

    Args:
        sketches: (n, d), at their true scale, n at least 3.
        gradients: (n, P) of the same chunks, of either sign, as `FullSketcher.gradients` gives them.

    Raises:
        InputError: the numbers of rows differ, there are fewer than 3, or a gradient is zero or not finite.
    """
    seen, exact = _grams(sketches, gradients)
    norms = np.sqrt(np.diag(exact))
    if not (np.isfinite(norms).all() and (norms > 0).all()):
        bad = int(np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))[0])
        raise InputError(
            f"the gradient in row {bad} is zero or not finite; leave that chunk out of the sample"
        )
    above = np.triu_indices(len(exact), 1)
    errors = (np.abs(seen - exact) / np.outer(norms, norms))[above]
    return Distortion(
        pairs=len(errors),
        correlation=_pearson(seen[above], exact[above]),
        median_error=float(np.median(errors)),
        error_95=float(np.quantile(errors, 0.95)),
    )


def seed_agreement(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> Agreement:
    """Compare the inner products of two sketches of the same chunks, for example of two seeds.

    Independent projections agree only in what they both keep: where d is too small for the question, they differ.

    Args:
        one: (n, d), n at least 3.
        other: (n, e) of the same chunks.

    Raises:
        InputError: the numbers of rows differ, or there are fewer than 3.
    """
    from scipy.stats import rankdata

    above = np.triu_indices(len(one), 1)
    first, second = (gram[above] for gram in _grams(one, other))
    return Agreement(
        pairs=len(first),
        pearson=_pearson(first, second),
        spearman=_pearson(rankdata(first), rankdata(second)),
    )


def _grams(
    one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(one) != len(other) or len(one) < 3:
        raise InputError(
            f"{len(one)} and {len(other)} rows cannot be compared; give the same 3 or more chunks in both"
        )
    return _gram(one), _gram(other)


def _gram(rows: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return all inner products (n, n), summed in float64 over some columns at a time."""
    total = np.zeros((len(rows), len(rows)))
    for start in range(0, rows.shape[1], _COLUMNS):
        part = rows[:, start : start + _COLUMNS].astype(np.float64)
        total += part @ part.T
    return total


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the correlation of two sets of numbers; 0 where one of them is constant."""
    x, y = one - one.mean(), other - other.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else 0.0
