"""The optimisers on problems of 16 chunks against a general-purpose solver, for every kind of constraint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import LinearConstraint, minimize

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.solver.optimiser import optimise
from grasp_pipeline.selection.solver.stream import optimise_stream

N, D, LAM = 16, 4, 0.7
Array = NDArray[Any]


class SmallProblem:
    """Chunks in two sources, four clusters and eight documents; copies among them."""

    def __init__(self, seed: int) -> None:
        draw = generator("small selection", seed)
        self.sketches = draw.standard_normal((N, D)).astype(np.float32)
        self.sketches[1::4] = self.sketches[::4]
        self.tokens = draw.integers(4, 17, N).astype(np.float64)
        self.target = 1.5 * draw.standard_normal(D)
        self.budget = int(0.5 * self.tokens.sum())
        self.source, self.cluster, self.document = np.arange(N) % 2, np.arange(N) // 4, np.arange(N) // 2

    def exact(
        self, weigh: Array | None = None, rows: Array | None = None, limits: Array | None = None
    ) -> float:
        """Return the highest F over weights v in [0, 1] with chunk weights weigh v, rows v <= limits.

        weigh: (n, k), the identity by default; rows: (m, k); limits: (m,).
        """
        spread = np.eye(N) if weigh is None else weigh
        phi = spread.T @ (self.sketches.astype(np.float64) * self.tokens[:, None] / self.budget)
        share = spread.T @ self.tokens / self.budget
        constraints = [LinearConstraint(share[None], 1.0, 1.0)]
        if rows is not None and limits is not None:
            constraints.append(LinearConstraint(rows, np.full(len(limits), -np.inf), limits))  # type: ignore[arg-type]
        found = minimize(
            lambda v: -(self.target - LAM / 2 * (v @ phi)) @ (v @ phi),
            np.full(len(phi), 0.5),
            jac=lambda v: -phi @ (self.target - LAM * (v @ phi)),
            method="SLSQP",
            bounds=[(0, 1)] * len(phi),
            constraints=constraints,
            options={"maxiter": 1000, "ftol": 1e-12},
        )
        if not found.success:
            raise RuntimeError(f"SLSQP did not solve a small problem: {found.message}")
        return -float(found.fun)

    def under(self, **constraints: Any) -> float:
        """Return F at the optimiser's fractional optimum under constraints."""
        feasible = ConstraintSet(self.tokens, self.budget, **constraints)
        found = optimise(
            self.sketches, self.tokens, self.target, self.budget, lam=LAM, feasible=feasible, gap=1e-7
        )
        return found.fractional_objective


def _budget(p: SmallProblem) -> tuple[float, float]:
    found = optimise(p.sketches, p.tokens, p.target, p.budget, lam=LAM, gap=1e-7)
    return found.fractional_objective, p.exact()


def _streamed(p: SmallProblem) -> tuple[float, float]:
    found = optimise_stream(
        p.sketches, p.tokens, p.target, p.budget, lam=LAM, gap=1e-6, held_rows=8, max_passes=200
    )
    return found.fractional_objective, p.exact()


def _floor(p: SmallProblem) -> tuple[float, float]:
    row = (p.source == 0) * p.tokens / p.budget
    found = p.under(sources=p.source, source_names=("a", "b"), floors={"a": 0.6})
    return found, p.exact(rows=-row[None], limits=np.array([-0.6]))


def _cap(p: SmallProblem) -> tuple[float, float]:
    row = (p.source == 0) * p.tokens / p.budget
    found = p.under(sources=p.source, source_names=("a", "b"), caps={"a": 0.45})
    return found, p.exact(rows=row[None], limits=np.array([0.45]))


def _cluster_tokens(p: SmallProblem) -> tuple[float, float]:
    limit = int(0.3 * p.budget)
    rows = (p.cluster == np.arange(4)[:, None]) * p.tokens / p.budget
    return p.under(clusters=p.cluster, cluster_tokens=limit), p.exact(
        rows=rows, limits=np.full(4, limit / p.budget)
    )


def _cluster_units(p: SmallProblem) -> tuple[float, float]:
    rows = (p.cluster == np.arange(4)[:, None]) / 4
    return p.under(clusters=p.cluster, cluster_units=3), p.exact(rows=rows, limits=np.full(4, 3 / 4))


def _lists(p: SmallProblem) -> tuple[float, float]:
    keep, drop = np.arange(N) == 3, np.arange(N) == 10
    rows = np.array([-1.0 * keep, 1.0 * drop])
    return p.under(keep=keep, drop=drop), p.exact(rows=rows, limits=np.array([-1.0, 0.0]))


def _documents(p: SmallProblem) -> tuple[float, float]:
    weigh = (p.document[:, None] == np.arange(N // 2)).astype(np.float64)
    return p.under(documents=p.document), p.exact(weigh)


def _together(p: SmallProblem) -> tuple[float, float]:
    source, cluster = (p.source == 0) * p.tokens / p.budget, (p.cluster == np.arange(4)[:, None]) / 4
    drop = np.arange(N) == 10
    found = p.under(
        sources=p.source,
        source_names=("a", "b"),
        floors={"a": 0.4},
        caps={"a": 0.6},
        clusters=p.cluster,
        cluster_units=3,
        drop=drop,
    )
    rows = np.vstack([-source, source, cluster, drop])
    return found, p.exact(rows=rows, limits=np.array([-0.4, 0.6, *[3 / 4] * 4, 0.0]))


CONSTRAINTS: dict[str, Callable[[SmallProblem], tuple[float, float]]] = {
    "budget": _budget,
    "streamed": _streamed,
    "floor": _floor,
    "cap": _cap,
    "cluster tokens": _cluster_tokens,
    "cluster units": _cluster_units,
    "must-keep and must-drop": _lists,
    "whole documents": _documents,
    "together": _together,
}
"""Kind of constraint -> F found and F at the exact optimum of a problem."""


def worst_errors(trials: int) -> dict[str, float]:
    """Return the largest relative error of F over some problems, by kind of constraint.

    Problems that a constraint makes infeasible are passed over, at most half of them.

    Raises:
        RuntimeError: too many problems were infeasible.
    """
    worst = {}
    for name, solve in CONSTRAINTS.items():
        errors = []
        for seed in range(trials):
            try:
                found, exact = solve(SmallProblem(seed))
            except ConfigError:
                continue
            errors.append(abs(found - exact) / abs(exact))
        if 2 * len(errors) < trials:
            raise RuntimeError(f"only {len(errors)} of {trials} problems with {name} could be met")
        worst[name] = max(errors)
    return worst
