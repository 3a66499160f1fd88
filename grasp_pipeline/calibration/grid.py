"""The finite grid of surrogate configurations."""

from __future__ import annotations

from collections.abc import Sequence

from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.names import EVENTS, Form


def build_grid(
    kinds: Sequence[str],
    metrics: Sequence[float],
    lambdas: Sequence[float],
    joint: Sequence[float] = (),
    conditional: Sequence[float] = (),
) -> list[Configuration]:
    """Return every configuration in the mean form, the additive ones (lambda 0) in the sum form too, and log-coverage.

    Args:
        kinds: sketch kinds.
        metrics: damping values rho; 0 is M = I.
        lambdas: weights of the quadratic penalty.
        joint, conditional: smoothings rho of log-coverage in these forms.
    """
    grid: list[Configuration] = []
    for kind in dict.fromkeys(kinds):
        for rho in dict.fromkeys(metrics):
            for lam in dict.fromkeys(lambdas):
                for form in ("mean", "sum") if lam == 0 else ("mean",):
                    name = f"{kind}-rho{rho:g}-lambda{lam:g}-{form}"
                    grid.append(Configuration(name, kind, rho, lam, form))
    forms: dict[Form, Sequence[float]] = {"joint": joint, "conditional": conditional}
    for form, smoothings in forms.items():
        for rho in dict.fromkeys(smoothings):
            grid.append(Configuration(f"{EVENTS}-rho{rho:g}-{form}", EVENTS, rho, 1.0, form))
    return grid
