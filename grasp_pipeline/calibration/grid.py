"""The finite grid of surrogate configurations."""

from __future__ import annotations

from collections.abc import Sequence

from grasp_pipeline.calibration.lcb import Configuration


def build_grid(
    kinds: Sequence[str], metrics: Sequence[float], lambdas: Sequence[float]
) -> list[Configuration]:
    """Return every configuration in the mean form, and the additive ones (lambda 0) in the sum form too.

    Args:
        kinds: sketch kinds.
        metrics: damping values rho; 0 is M = I.
        lambdas: weights of the quadratic penalty.
    """
    grid = []
    for kind in dict.fromkeys(kinds):
        for rho in dict.fromkeys(metrics):
            for lam in dict.fromkeys(lambdas):
                for form in ("mean", "sum") if lam == 0 else ("mean",):
                    name = f"{kind}-rho{rho:g}-lambda{lam:g}-{form}"
                    grid.append(Configuration(name, kind, rho, lam, form))
    return grid
