"""The grid and the budget."""

from __future__ import annotations

import pytest

from grasp_pipeline.calibration.budget import resolve_budget
from grasp_pipeline.calibration.grid import build_grid
from grasp_pipeline.errors import ConfigError


def test_the_grid_holds_every_combination_once_and_additive_sums() -> None:
    grid = build_grid(["output", "full", "output"], [0.0, 1.0, 1.0], [0.0, 0.5])
    assert len({c.config_id for c in grid}) == len(grid) == 2 * 2 * (2 + 1)
    assert {c.form for c in grid if c.lam > 0} == {"mean"}
    assert {c.form for c in grid if c.lam == 0} == {"mean", "sum"}


def test_budgets() -> None:
    assert resolve_budget(0, 0.25, 1000) == 250
    assert resolve_budget(300, 0.25, 1000) == 300
    with pytest.raises(ConfigError, match="budget of 1,001 tokens is above the corpus's 1,000"):
        resolve_budget(1001, 0.0, 1000)
    with pytest.raises(ConfigError, match="budget is 0 tokens"):
        resolve_budget(0, 0.0001, 1000)
