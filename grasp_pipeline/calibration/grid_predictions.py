"""The surrogate's configurations over several views, and their predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.surrogate import SubsetMeans, squared_norms, subset_means
from grasp_pipeline.calibration.grid import build_grid
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.corpus.events import EventCounts
from grasp_pipeline.errors import InputError
from grasp_pipeline.memberships import Membership
from grasp_pipeline.names import EVENTS
from grasp_pipeline.sketch.views import View


@dataclass(frozen=True)
class Grid:
    """configurations: K of them. views: what each sketch kind sees. n_tokens: (n,). events: for log-coverage."""

    configurations: tuple[Configuration, ...]
    views: Mapping[str, View]
    n_tokens: NDArray[np.int64]
    events: EventCounts | None = None

    @classmethod
    def of(
        cls,
        views: Mapping[str, View],
        n_tokens: NDArray[np.int64],
        metrics: Sequence[float],
        lambdas: Sequence[float],
        events: EventCounts | None = None,
        joint: Sequence[float] = (),
        conditional: Sequence[float] = (),
    ) -> Grid:
        """Return the grid of all views with metrics of damping rho (0: M = I) and penalties lambda.

        joint, conditional: smoothings of log-coverage, where there are events.
        """
        coverage = ((), ()) if events is None else (joint, conditional)
        return cls(tuple(build_grid(list(views), metrics, lambdas, *coverage)), views, n_tokens, events)

    def predict(self, membership: Membership) -> Floats:
        """Return (K, m, T) predicted utilities, as `predict_grid` does.

        Raises:
            InputError: a configuration's sketch kind has no view.
        """
        missing = {c.sketch_kind for c in self.configurations} - {*self.views, EVENTS}
        if missing:
            raise InputError(
                f"there is no view of the sketch kind {min(missing)!r}; take it, or leave it out of the grid"
            )
        views = ((kind, view.sketches, view.targets, view.dimension) for kind, view in self.views.items())
        return predict_grid(self.configurations, views, self.n_tokens, membership, self.events)


def predict_grid(
    configurations: Sequence[Configuration],
    views: Iterable[tuple[str, SketchBlocks | NDArray[np.floating[Any]], Floats, int | None]],
    n_tokens: NDArray[np.int64],
    membership: Membership,
    events: EventCounts | None = None,
) -> Floats:
    """Return the K configurations' predictions of subsets (m, n): (K, m, T).

    Each view is read once and each metric made once.

    Args:
        configurations: each of a kind that has a view.
        views: sketch kind, sketches (n, d), targets (T, d) and d before compression, None where it is d. Taken one by
            one: one kind's sketches need be in memory at a time.
        n_tokens: (n,).
        membership: (m, n).
        events: of the same T tasks, for the configurations of log-coverage.

    Raises:
        InputError: there is log-coverage in the grid, and no events.
    """
    out: list[Floats | None] = [None] * len(configurations)
    for kind, sketches, targets, dimension in views:
        means = subset_means(sketches, n_tokens, membership)
        second = second_moment(sketches, n_tokens)
        for rho in dict.fromkeys(c.rho for c in configurations if c.sketch_kind == kind):
            linear, norms = terms(means, targets, second, rho, dimension)
            for k, c in enumerate(configurations):
                if c.sketch_kind == kind and c.rho == rho:
                    out[k] = value(linear, norms, means.tokens, c)
    for k, c in enumerate(configurations):
        if c.sketch_kind == EVENTS:
            out[k] = coverage_of(c, events).predict(membership)
    return np.stack([each for each in out if each is not None])


def coverage_of(configuration: Configuration, events: EventCounts | None) -> LogCoverage:
    """Return log-coverage as a configuration has it.

    Raises:
        InputError: there are no events.
    """
    if events is None:
        raise InputError(f"{configuration.config_id} needs the queries' events; count them, or leave it out")
    form = "conditional" if configuration.form == "conditional" else "joint"
    return LogCoverage(events, configuration.rho, form)


def terms(
    means: SubsetMeans, targets: Floats, second: Floats, rho: float, dimension: int | None
) -> tuple[Floats, Floats]:
    """Return <r_t, mu_S>_M (m, T) and ||mu_S||_M^2 (m,) for one damping (0: M = I).

    rho is in units of tr(C) / dimension, whether the view is compressed or not.
    """
    damping = rho if dimension is None else rho * len(second) / dimension
    metric = None if rho == 0 else metric_matrix(second, damping)
    directions = targets if metric is None else targets @ metric
    return means.means @ directions.T, squared_norms(means, metric)


def value(linear: Floats, norms: Floats, tokens: Floats, configuration: Configuration) -> Floats:
    """Return the (m, T) predictions of one configuration from its terms."""
    if configuration.form == "sum":
        return linear * tokens[:, None]
    return linear - configuration.lam / 2 * norms[:, None]
