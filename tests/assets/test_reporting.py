"""The mean over tasks that the summary tells is the one that was certified: tasks count by their weights."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from assets.reporting import _arm_losses, _margins, _shares

TASKS = ["a", "b"]


def measured() -> tuple[pl.DataFrame, pl.DataFrame]:
    draw = np.random.default_rng(0)
    rows = [
        {
            "subset_id": subset,
            "task": task,
            "document": f"{task}{document}",
            "seed": seed,
            "loss_sum": 100 * (level + draw.normal(0, 0.1)),
            "n_tokens": 100,
        }
        for subset, levels in (("picked", (1.0, 3.0)), ("other", (2.0, 3.5)))
        for task, level in zip(TASKS, levels, strict=True)
        for document in range(30)
        for seed in range(2)
    ]
    return pl.DataFrame(rows), pl.DataFrame({"arm": ["mine", "theirs"], "subset_id": ["picked", "other"]})


@pytest.mark.parametrize("weights", [{}, {"a": 3.0, "b": 1.0}, {"a": 1.0}])
def test_the_mean_over_tasks_counts_them_by_their_weights(weights: dict[str, float]) -> None:
    losses, finalists = measured()
    shares = _shares(weights, TASKS)
    assert shares["share"].sum() == pytest.approx(1)
    share = np.array([weights.get(task, 0.0) if weights else 1.0 for task in TASKS])
    share = share / share.sum()

    found = _arm_losses(losses, finalists, shares)
    for arm in ("mine", "theirs"):
        own = [found.filter(arm=arm, task=task)["loss"].item() for task in TASKS]
        assert found.filter(arm=arm, task="mean")["loss"].item() == pytest.approx(share @ own)

    margins = _margins(losses, finalists, "picked", shares)
    per_task = [margins.filter(arm="theirs", task=task).row(0, named=True) for task in TASKS]
    mean = margins.filter(arm="theirs", task="mean").row(0, named=True)
    assert mean["margin"] == pytest.approx(share @ [row["margin"] for row in per_task])
    assert mean["standard_error"] ** 2 == pytest.approx(
        share**2 @ [row["standard_error"] ** 2 for row in per_task]
    )
    assert mean["margin"] == pytest.approx(share @ [1.0, 0.5], abs=0.1)
