"""The quadratic surrogate in the task's own metric: log-coverage to second order around what the task asks for.

    F_t(S) = <r_t, mu_S> - (lambda / 2) mu_S' M_t mu_S
    M_t = diag(q_t / d^2),  r_t = q_t (1 + lambda m_t / d) / d,  m_t = (1 - b) p + b q_t,  d = m_t + rho p(a) p(b)

mu_S are the subset's rates of the query's events x = (a, b), q_t the task's and p the pool's. With lambda = 1 this is
the second-order Taylor polynomial of sum_x q_t log(mu + rho p(a) p(b)) at m_t, up to a constant: alignment minus a
quadratic geometric penalty, the geometry being the task's. `metric` names other geometries for comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.corpus.events import EventCounts
from grasp_pipeline.errors import ConfigError

Geometry = Literal["own", "mean", "other", "pool", "identity"]
"""Whose metric prices the penalty: the task's, the mean over tasks, the next task's, the pool's chi-square, none's."""


@dataclass(frozen=True, eq=False)
class TaskMetricSurrogate:
    """F over event counts; an `Attributor`.

    rho: smoothing; lam: lambda; blend: b, how far the expansion's centre lies from the pool towards the task.
    geometry: whose metric the penalty has. Other geometries than the task's own are scaled so that the penalty of the
    pool's rates is what the task's own metric gives it, and lambda keeps its meaning.

    Raises:
        ConfigError: rho is not above 0, lambda is negative, b is outside [0, 1], or the geometry is unknown.
    """

    counts: EventCounts
    rho: float = 2.5
    lam: float = 1.0
    blend: float = 0.05
    geometry: Geometry = "own"

    def __post_init__(self) -> None:
        if not self.rho > 0 or not self.lam >= 0 or not 0 <= self.blend <= 1:
            raise ConfigError(
                f"rho {self.rho}, lambda {self.lam} and b {self.blend}: rho must be above 0, lambda 0 or more and b "
                "between 0 and 1"
            )
        if self.geometry not in get_args(Geometry):
            raise ConfigError(
                f"there is no geometry {self.geometry!r}; choose among {', '.join(get_args(Geometry))}"
            )

    @property
    def directions(self) -> Floats:
        """r_t, (T, E)."""
        centre, below = self._centre()
        return self.counts.weights * (1 + self.lam * centre / below) / below

    @property
    def metrics(self) -> Floats:
        """Diagonals of M_t, (T, E)."""
        _, below = self._centre()
        own = self.counts.weights / below**2
        if self.geometry == "own":
            return own
        pool = self.counts.pool_rate
        other = {
            "mean": lambda: np.broadcast_to(own.mean(axis=0), own.shape),
            "other": lambda: np.roll(own, 1, axis=0),
            "pool": lambda: np.broadcast_to(1 / (pool + self.rho * self.counts.independent_rate), own.shape),
            "identity": lambda: np.ones(own.shape),
        }[self.geometry]()
        price, asked = other @ pool**2, own @ pool**2
        return other * np.divide(asked, price, out=np.zeros_like(price), where=price > 0)[:, None]

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) predicted utilities of (m, n) subsets."""
        mu = self.counts.rates(membership)[0]
        return mu @ self.directions.T - self.lam / 2 * (mu**2 @ self.metrics.T)

    def _centre(self) -> tuple[Floats, Floats]:
        """Return m_t and d, both (T, E)."""
        centre = (1 - self.blend) * self.counts.pool_rate + self.blend * self.counts.weights
        return centre, centre + self.rho * self.counts.independent_rate
