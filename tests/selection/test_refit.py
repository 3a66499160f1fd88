"""The on-policy refit: finds a planted error of the surrogate, and leaves it alone where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.refit import PENALTIES, refit_direction

S, D, LAM = 18, 30, 0.7


def world(
    seed: int, error: float, noise: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return r, means, utilities 3 + 2 F + <delta, mu> + noise, and 2 r + delta."""
    draw = generator("refit", seed)
    r, means = draw.standard_normal(D), draw.standard_normal((S, D)) / 3
    delta = error * draw.standard_normal(D)
    values = means @ r - LAM / 2 * np.einsum("sd,sd->s", means, means)
    return r, means, 3 + 2 * values + means @ delta + noise * draw.standard_normal(S), r + delta / 2


def test_a_planted_error_is_mostly_found() -> None:
    """A correction in the few directions that corpora differ in most, as real finalists do."""
    closer = []
    for seed in range(40):
        draw = generator("planted", seed)
        r, delta = draw.standard_normal(D), np.zeros(D)
        delta[:3] = 2 * draw.standard_normal(3)
        means = draw.standard_normal((S, D)) / 10
        means[:, :3] *= 10
        values = means @ r - LAM / 2 * np.einsum("sd,sd->s", means, means)
        found = refit_direction(r, means, LAM, 3 + 2 * values + means @ delta)
        truth = r + delta / 2
        closer.append(found is not None and np.linalg.norm(found - truth) < np.linalg.norm(r - truth))
    assert np.mean(closer) > 0.8


def test_where_the_surrogate_is_right_nothing_is_corrected() -> None:
    r, means, utilities, _ = world(1, 0.0)
    found = refit_direction(r, means, LAM, utilities)
    assert found is None or np.linalg.norm(found - r) < 1e-9 * np.linalg.norm(r)


def test_noise_alone_is_mostly_left_alone() -> None:
    refused = []
    for seed in range(60):
        r, means, utilities, _ = world(seed, 0.0, noise=0.5)
        refused.append(refit_direction(r, means, LAM, utilities) is None)
    # Of three penalties each passes a standard error by chance one time in six.
    assert np.mean(refused) > 0.6


def test_a_surrogate_that_ranks_the_wrong_way_is_not_refitted() -> None:
    r, means, utilities, _ = world(2, 0.0)
    assert refit_direction(r, means, LAM, -utilities) is None
    assert refit_direction(r, np.tile(means[0], (S, 1)), LAM, utilities) is None


def test_the_penalty_is_chosen_by_leaving_out_each_finalist() -> None:
    """Against a loop that fits a, b and delta without each row, by the normal equations."""
    r, means, utilities, _ = world(5, 1.0, noise=0.1)
    values = means @ r - LAM / 2 * np.einsum("sd,sd->s", means, means)
    moved = means - means.mean(axis=0)
    unit = np.trace(moved @ moved.T) / S
    design = np.column_stack([np.ones(S), values, moved])

    def fit(rows: np.ndarray, penalty: float) -> np.ndarray:
        ridge = np.diag([0.0, 0.0, *[penalty * unit] * D])
        return np.linalg.solve(design[rows].T @ design[rows] + ridge, design[rows].T @ utilities[rows])

    def error(penalty: float) -> float:
        rows = np.arange(S)
        return sum(float(utilities[i] - design[i] @ fit(rows[rows != i], penalty)) ** 2 for i in rows)

    best = min(PENALTIES, key=error)
    assert error(best) < error(1e9)
    _, slope, *delta = fit(np.arange(S), best)
    found = refit_direction(r, means, LAM, utilities)
    assert found == pytest.approx(r + np.array(delta) / slope, rel=1e-6, abs=1e-6)
