"""The grid and the budget."""

from __future__ import annotations

import pytest

from grasp_pipeline.calibration.budget import Budget
from grasp_pipeline.calibration.grid import build_grid
from grasp_pipeline.errors import ConfigError


def test_the_grid_holds_every_combination_once_and_additive_sums() -> None:
    grid = build_grid(["output", "full", "output"], [0.0, 1.0, 1.0], [0.0, 0.5])
    assert len({c.config_id for c in grid}) == len(grid) == 2 * 2 * (2 + 1)
    assert {c.form for c in grid if c.lam > 0} == {"mean"}
    assert {c.form for c in grid if c.lam == 0} == {"mean", "sum"}


def test_budgets() -> None:
    assert Budget(fraction=0.25).resolve(1000, 10) == 250
    assert Budget(tokens=300, fraction=0.25).resolve(1000, 10) == 300
    assert Budget(documents=3, fraction=0.25).resolve(1000, 7) == 428
    with pytest.raises(ConfigError, match="budget of 1,001 tokens is above the corpus's 1,000"):
        Budget(tokens=1001).resolve(1000, 10)
    with pytest.raises(ConfigError, match="budget of 8 documents is above the corpus's 7"):
        Budget(documents=8).resolve(1000, 7)
    with pytest.raises(ConfigError, match="budget is 0 tokens"):
        Budget(fraction=0.0001).resolve(1000, 10)
    row = {"budget_tokens": 1, "budget_documents": 2, "budget_fraction": 0.5}
    assert Budget.of(row) == Budget(1, 2, 0.5)
