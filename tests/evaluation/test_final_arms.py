"""Sealed losses of the final arms against an independent computation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from grasp_pipeline.evaluation.arms import arm_rows
from grasp_pipeline.selection.certification.evidence import Evidence


def test_losses_and_paired_gains() -> None:
    rng = np.random.default_rng(0)
    task = np.array(["a"] * 6 + ["b"] * 4)
    tokens = rng.integers(5, 20, 10).astype(float)
    losses = {"picked": rng.random((3, 10)), "random": rng.random((3, 10)) + 0.3}
    fold = np.arange(10) % 2
    rows = {(r["arm"], r["task"]): r for r in arm_rows(Evidence(losses, tokens, fold, task), "random", 77)}
    assert set(rows) == {(arm, t) for arm in losses for t in ("a", "b", "mean")}

    def loss(arm: str, t: str) -> np.ndarray:
        if t == "mean":
            return (loss(arm, "a") + loss(arm, "b")) / 2
        chosen = task == t
        return np.array([np.average(run[chosen], weights=tokens[chosen]) for run in losses[arm]])

    for (arm, t), row in rows.items():
        assert row["loss"] == pytest.approx(loss(arm, t).mean())
        gain = loss("random", t) - loss(arm, t)
        assert row["gain"] == pytest.approx(gain.mean())
        if arm == "picked":
            low, high = stats.t.interval(0.95, 2, gain.mean(), stats.sem(gain))
            assert (row["gain_low"], row["gain_high"]) == pytest.approx((low, high))
        assert row["seeds"] == 3
        assert row["tokens"] == 77
