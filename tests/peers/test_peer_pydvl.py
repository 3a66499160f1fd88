"""Our damped influence against pydvl's direct influence, H^-1 by a dense solve, on a linear model.

pydvl: grad_test' (H + reg I)^-1 grad_train with H the Hessian of the mean loss; positive is helpful. Ours has the
second moment of the gradients in H's place. Where every training residual is +1 or -1 the two matrices are one:
g g' = x x'. pydvl's own Gauss-Newton mode is not used: it divides by the number of batches times parameters, not by
examples, and a single batch by zero (0.10.0).
"""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.calibration.rank import spearman
from grasp_pipeline.seeds import generator

pytest.importorskip("distributed", reason="pydvl[influence] is not installed")
peer = pytest.importorskip("pydvl.influence.torch")
torch = pytest.importorskip("torch")

N, D, T = 80, 7, 5


@pytest.mark.parametrize("rho", [0.01, 0.3, 10.0])
@pytest.mark.parametrize("most_tokens", [1, 6], ids=["one-token", "tokens"])
def test_direct_influence(rho: float, most_tokens: int) -> None:
    """A chunk of w tokens is w copies of an example in pydvl's training set."""
    draw = generator("peer", "pydvl", most_tokens)
    spectrum = np.geomspace(0.1, 3.0, D)
    inputs = (draw.standard_normal((N, D)) + 0.3) * spectrum
    queries = draw.standard_normal((T, D)) * spectrum
    weight = draw.standard_normal(D)
    residuals = draw.choice([-1.0, 1.0], N)
    query_residuals = draw.standard_normal(T)
    tokens = draw.integers(1, most_tokens + 1, N)

    second = (inputs * tokens[:, None]).T @ inputs / tokens.sum()
    model = torch.nn.Linear(D, 1, bias=False, dtype=torch.float64)
    model.weight.data[0] = torch.from_numpy(weight)
    as_tensors = [
        (torch.from_numpy(x), torch.from_numpy(x @ weight - e).unsqueeze(1))
        for x, e in ((inputs, residuals), (queries, query_residuals))
    ]
    (train_x, train_y), (test_x, test_y) = as_tensors
    copies = torch.from_numpy(np.repeat(np.arange(N), tokens))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(train_x[copies], train_y[copies]), batch_size=int(tokens.sum())
    )
    influence = peer.DirectInfluence(
        model,
        lambda output, target: 0.5 * ((output - target) ** 2).mean(),
        regularization=rho * float(np.trace(second)) / D,
    ).fit(loader)
    theirs = influence.influences(test_x, test_y, train_x, train_y).detach().numpy().T  # (n, T), per copy

    sketches = (-inputs * residuals[:, None]).astype(np.float32)
    targets = -queries * query_residuals[:, None]
    ours = DampedInfluence(sketches, tokens, targets, rho).scores()
    expected = theirs * tokens[:, None]
    np.testing.assert_array_less(1 - 1e-6, [np.corrcoef(ours[:, t], expected[:, t])[0, 1] for t in range(T)])
    factor = float((ours * expected).sum() / np.square(expected).sum())
    assert factor > 0
    np.testing.assert_allclose(ours, factor * expected, rtol=1e-4, atol=1e-5 * np.abs(ours).max())
    np.testing.assert_array_equal(spearman(ours.T, expected.T), 1.0)
