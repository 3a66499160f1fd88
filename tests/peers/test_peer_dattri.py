"""Our task-level rank correlation of an additive attribution against dattri's linear datamodelling score."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.calibration.rank import spearman, task_level_spearman
from grasp_pipeline.seeds import generator

metric = pytest.importorskip("dattri.metric")
torch = pytest.importorskip("torch")

N, M, T, SIZE = 50, 40, 6, 20


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [None, 4], ids=["distinct", "ties"])
def test_linear_datamodelling_score(seed: int, levels: int | None) -> None:
    draw = generator("peer", "dattri", seed)
    scores, utilities = draw.standard_normal((N, T)), draw.standard_normal((M, T))
    if levels is not None:  # integer scores and few levels of utility: many equal values in both
        scores, utilities = np.round(scores), np.round(levels * utilities) / levels
    members = np.stack([draw.choice(N, SIZE, replace=False) for _ in range(M)])
    membership = np.zeros((M, N), dtype=bool)
    np.put_along_axis(membership, members, True, axis=1)
    utilities += 0.3 * (levels is None) * (membership @ scores)

    peer, _ = metric.lds(
        torch.from_numpy(scores), (torch.from_numpy(utilities), torch.from_numpy(members))
    )  # (T,)

    predicted = AdditiveScores(scores, np.ones(N), form="sum").predict(membership)
    ours = spearman(predicted.T, utilities.T)
    np.testing.assert_allclose(ours, peer.numpy(), atol=1e-12)
    assert task_level_spearman(predicted[None], utilities)[0] == pytest.approx(float(peer.mean()), abs=1e-12)


def test_the_mean_form_ranks_subsets_of_one_size_alike() -> None:
    """dattri sums scores; subsets of equal size and unit tokens are ranked the same by our mean."""
    draw = generator("peer", "dattri", "mean")
    scores, utilities = draw.standard_normal((N, T)), draw.standard_normal((M, T))
    members = np.stack([draw.choice(N, SIZE, replace=False) for _ in range(M)])
    membership = np.zeros((M, N), dtype=bool)
    np.put_along_axis(membership, members, True, axis=1)
    peer, _ = metric.lds(torch.from_numpy(scores), (torch.from_numpy(utilities), torch.from_numpy(members)))
    ours = spearman(AdditiveScores(scores, np.ones(N)).predict(membership).T, utilities.T)
    np.testing.assert_allclose(ours, peer.numpy(), atol=1e-12)
