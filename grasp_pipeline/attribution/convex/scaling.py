"""How the errors of Newton step and influence grow with n, d and k (Rubinstein & Hopkins 2025, arXiv 2512.12572).

For well-behaved logistic regression and random sets T of k rows, up to logarithms,

    E ||theta_T - NS|| ~ k d / n^2 ,    E ||NS - IF|| ~ (k + d) sqrt(k d) / n^2 .

The study draws Gaussian features and labels from a random head, varies one of n, d, k at a time, and fits exponents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.convex.advisor import draw_sets
from grasp_pipeline.attribution.convex.head import ConvexHead, fit_head
from grasp_pipeline.attribution.convex.influence import HeadInfluence
from grasp_pipeline.seeds import generator

BASE = {"n": 4000, "d": 20, "k": 20}
VARIED: Mapping[str, tuple[int, ...]] = {
    "n": (1000, 2000, 4000, 8000),
    "d": (10, 20, 40, 80),
    "k": (5, 10, 20, 40, 80),
}
DAMPING = 1e-6
"""So small that it does not count: the theory has none."""


@dataclass(frozen=True, eq=False)
class Exponent:
    """Of one quantity in one variable: the slope over the means, and over each of the problems (p,) alone."""

    value: float
    each: Floats

    @property
    def interval(self) -> tuple[float, float]:
        """95%, by the spread over problems."""
        half = 1.96 * self.each.std(ddof=1) / np.sqrt(len(self.each))
        return self.value - float(half), self.value + float(half)


def gaussian_problem(n: int, d: int, seed: int) -> ConvexHead:
    """Return a head fitted to Gaussian features (n, d) and labels drawn from a head of norm about 1."""
    draw = generator("gaussian problem", n, d, seed)
    truth = draw.normal(size=d) / np.sqrt(d)
    features = draw.normal(size=(n, d))
    return fit_head(features, draw.random(n) < expit(features @ truth), DAMPING)


def step_errors(n: int, d: int, k: int, seed: int, sets: int) -> tuple[float, float]:
    """Return mean ||theta_T - NS|| and mean ||NS - IF|| over random sets of k rows."""
    head = gaussian_problem(n, d, seed)
    made, exact, between = HeadInfluence(head), [], []
    for rows in draw_sets(n, k, sets, "scaling", d, seed):
        newton = made.step("Newton step", rows)
        exact.append(np.linalg.norm(head.without(rows) - head.theta - newton))
        between.append(np.linalg.norm(newton - made.step("influence", rows)))
    return float(np.mean(exact)), float(np.mean(between))


def exponents(
    variable: str, problems: int = 6, sets: int = 6, varied: Sequence[int] | None = None
) -> tuple[Exponent, Exponent]:
    """Return the exponents of ||theta_T - NS|| and of ||NS - IF|| in n, d or k."""
    values = VARIED[variable] if varied is None else varied
    found = np.array(
        [
            [step_errors(**(BASE | {variable: value}), seed=seed, sets=sets) for value in values]
            for seed in range(problems)
        ]
    )
    log = np.log(values)

    def slopes(errors: Floats) -> Floats:
        return np.polyfit(log, np.log(errors).T, 1)[0]

    of_newton, of_influence = (
        Exponent(float(slopes(part.mean(axis=0)[None])[0]), slopes(part))
        for part in np.moveaxis(found, -1, 0)
    )
    return of_newton, of_influence
