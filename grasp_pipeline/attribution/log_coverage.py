"""Log-coverage: what a subset teaches of the queries' events, whole instead of to second order.

    joint        RJ_t(S) = sum_q w_q log( mu_S(a, b) + rho p(a) p(b) )
    conditional  RL_t(S) = sum_q w_q log( (mu_S(a, b) + rho_S p(b)) / (mu_S(a) + rho_S) ) ,
                 rho_S = rho (N_S / N)^(g - 1)

q = (a, b) runs over the query's events, w_q are their shares, mu_S are rates per token of the subset, p the pool's.
RJ is concave in mu_S, and monotone submodular in S at a fixed number of tokens. Around the pool its second-order
expansion is alignment minus a quadratic penalty in the task's own metric (`task_metric`); rho to infinity is the
additive limit, sum_q w_q mu_S(a, b) / (p(a) p(b)) up to a constant and a factor. `docs/method.md` derives both.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

import numpy as np

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.corpus.events import EventCounts, row_sums
from grasp_pipeline.errors import ConfigError

CoverageForm = Literal["joint", "conditional"]

GROWTH = 1.25
"""g: how fast the smoothing of the conditional form falls behind the subset's tokens (chosen on one cell, findings of
`docs/fidelity.md`)."""


@dataclass(frozen=True, eq=False)
class LogCoverage:
    """RJ or RL over event counts; an `Attributor`, additive where rho is infinite.

    rho: smoothing, in units of p(a) p(b) (joint) or of rates of a context (conditional); growth: g.

    Raises:
        ConfigError: rho is not above 0, or infinite in the conditional form.
    """

    counts: EventCounts
    rho: float
    form: CoverageForm = "joint"
    growth: float = GROWTH

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise ConfigError(f"log-coverage has rho {self.rho}; give a smoothing above 0")
        if self.form == "conditional" and self.rho == inf:
            raise ConfigError("the conditional form has no additive limit; give a finite rho")

    @property
    def floor(self) -> Floats:
        """Smoothing of the joint form, rho p(a) p(b): (E,)."""
        return self.rho * self.counts.independent_rate

    def predict(self, membership: Membership) -> Floats:
        """Return (m, T) predicted utilities of (m, n) subsets, nats per token up to a constant."""
        counts = self.counts
        mu, of_context, tokens = counts.rates(membership)
        if self.form == "joint":
            if self.rho == inf:
                return mu @ self._additive().T
            return np.log(mu + self.floor) @ counts.weights.T
        smoothing = (self.rho * (tokens / counts.n_tokens.sum()) ** (self.growth - 1))[:, None]
        inside = (mu + smoothing * counts.next_rate) / (of_context[:, counts.context] + smoothing)
        return np.log(inside) @ counts.weights.T

    def scores(self) -> Floats:
        """Return (n, T) the additive limit's worth of all tokens of a chunk.

        Raises:
            ConfigError: rho is finite.
        """
        if self.rho != inf:
            raise ConfigError(f"log-coverage with rho {self.rho} is not additive and has no scores")
        return row_sums(self.counts.events, self._additive().T)

    def _additive(self) -> Floats:
        return self.counts.weights / self.counts.independent_rate
