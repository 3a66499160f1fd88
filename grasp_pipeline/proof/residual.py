"""How much of an error no linear attribution could avoid, from pairs of correlated subsets.

A function f of a uniformly drawn subset x of N rows has a Fourier expansion over sets of rows. For a second subset
x' that keeps every row's state with probability (1 + r) / 2,

    h(r) = E f(x) f(x') = B0 + B1 r + B2 r^2 + ... ,   B_j >= 0 the weight of sets of j rows,

so B0 + B1 is what a constant and one number per row explain, and h(1) - B0 - B1 is the mean squared error of the
best linear attribution: nobody can be asked for less. B0, B1, B2 are fitted by non-negative least squares to h at r
= 0, rho, 2 rho.

What was chosen. f is centred first: a claim is about differences, and its intercept is not judged. h is estimated
of the claim's errors g(x) = f(x) - sum_i a_i x_i instead of f: weights of two rows and more are the same, so the
residual is the same number, but of an honest claim g varies little, and the estimate's standard error falls with it
(`family.proof_*` has both). The excess B0 + B1 of g is then, in expectation, the squared distance of the claim from
the best one. rho is .35, neither the tolerance nor its root: noise grows as 1 / rho, and what rows do together in
threes, which the parabola leaves out, as rho^2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.errors import ConfigError

RHO = 0.35


@dataclass(frozen=True)
class Residual:
    """error: h(1) of a centred function; unavoidable: what the best linear function leaves of it."""

    error: float
    unavoidable: float

    @property
    def excess(self) -> float:
        """What a better linear attribution would take away."""
        return self.error - self.unavoidable


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of subsets. first, second: (m, N) bool; correlation: (m,), one of 0, rho and 2 rho."""

    first: Bools
    second: Bools
    correlation: Floats

    @property
    def both(self) -> Bools:
        """(2 m, N): all subsets."""
        return np.concatenate([self.first, self.second])


def draw_pairs(n: int, pairs: int, rho: float, draw: np.random.Generator) -> Pairs:
    """Draw pairs of subsets of n rows, a third at each correlation.

    Raises:
        ConfigError: fewer than 30 pairs, or rho not within (0, .5].
    """
    if pairs < 30 or not 0 < rho <= 0.5:
        raise ConfigError(f"{pairs} pairs at rho {rho}: give 30 or more, and rho above 0 and at most .5")
    correlation = np.array([0.0, rho, 2 * rho])[np.arange(pairs) % 3]
    first = draw.random((pairs, n)) < 0.5
    stays = draw.random((pairs, n)) < (1 + correlation[:, None]) / 2
    return Pairs(first, np.where(stays, first, ~first), correlation)


def residual_of(first: Floats, second: Floats, correlation: Floats) -> Residual:
    """Return what is linear in a function and what is not, from its values (m,), (m,) on pairs of subsets."""
    values = np.concatenate([first, second])
    products, rates = (first - values.mean()) * (second - values.mean()), np.unique(correlation)
    measured = np.array([products[correlation == rate].mean() for rate in rates])
    (constant, linear, _), _ = nnls(np.stack([rates**0, rates, rates**2], axis=1), measured)
    error = float(values.var())
    return Residual(error, error - float(constant + linear))
