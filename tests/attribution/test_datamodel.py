"""Ridge datamodels against refitting without each subset, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge, RidgeCV

from grasp_pipeline.attribution.datamodel import RidgeDatamodel
from grasp_pipeline.attribution.methods.mask_datamodel import MaskDatamodel
from grasp_pipeline.attribution.methods.source_datamodel import SourceDatamodel
from grasp_pipeline.attribution.protocol import Attributor
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator

N, M, T = 40, 18, 3
FORMS: list[Form] = ["mean", "sum"]
GRID = (1e-2, 1e-1, 1.0, 10.0, 100.0)


class Retrains:
    def __init__(self, seed: int = 0) -> None:
        draw = generator("retrains", seed)
        self.membership = draw.random((M, N)) < draw.uniform(0.2, 0.8, (M, 1))
        self.membership[:, 0] = True
        self.tokens = draw.integers(1, 129, N)
        self.sources = draw.choice(np.array(["web", "code", "books"]), N)
        worth = draw.standard_normal((N, T))
        self.utilities = self.membership @ worth + draw.uniform(0.1, 5, T) * draw.standard_normal((M, T))
        self.fresh = draw.random((6, N)) < 0.5
        self.fresh[:, 0] = True


def unit(x: np.ndarray) -> float:
    return float(((x - x.mean(axis=0)) ** 2).sum() / len(x))


def ridge(x: np.ndarray, u: np.ndarray, penalty: float) -> np.ndarray:
    """Return (1 + p, T) intercept and coefficients from the normal equations; the intercept is free."""
    rows = np.column_stack([np.ones(len(x)), x])
    prior = penalty * np.eye(rows.shape[1])
    prior[0, 0] = 0
    return np.linalg.solve(rows.T @ rows + prior, rows.T @ u)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
def test_mask_datamodel_is_ridge_with_the_penalty_of_least_leave_one_out_error(seed: int) -> None:
    r = Retrains(seed)
    x = r.membership.astype(float)
    errors = np.zeros((len(GRID), T))
    for k, penalty in enumerate(GRID):
        for left in range(M):
            rest = np.arange(M) != left
            fit = ridge(x[rest], r.utilities[rest], penalty * unit(x))
            errors[k] += (fit[0] + x[left] @ fit[1:] - r.utilities[left]) ** 2
    method = MaskDatamodel(r.membership, r.utilities, GRID)
    assert isinstance(method, Attributor)
    for t in range(T):
        best = GRID[int(np.argmin(errors[:, t]))]
        assert method.penalty[t] == best
        fit = ridge(x, r.utilities, best * unit(x))[:, t]
        np.testing.assert_allclose(method.predict(r.fresh)[:, t], fit[0] + r.fresh @ fit[1:], rtol=1e-6)
        np.testing.assert_allclose(method.scores()[:, t], fit[1:], rtol=1e-6, atol=1e-9)


def test_penalties_agree_with_scikit_learn() -> None:
    r = Retrains()
    x = r.membership.astype(float)
    alphas = np.array(GRID) * unit(x)
    fit = RidgeCV(alphas, alpha_per_target=True).fit(x, r.utilities)
    method = MaskDatamodel(r.membership, r.utilities, GRID)
    np.testing.assert_allclose(method.penalty * unit(x), np.asarray(fit.alpha_))
    np.testing.assert_allclose(method.predict(r.fresh), fit.predict(r.fresh), rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_source_datamodel_counts_tokens_of_sources(form: Form) -> None:
    r = Retrains()

    def slow(membership: np.ndarray) -> np.ndarray:
        rows = []
        for members in membership:
            counts = [
                sum(float(r.tokens[i]) for i in range(N) if members[i] and r.sources[i] == name)
                for name in ("books", "code", "web")
            ]
            rows.append(counts if form == "sum" else [count / sum(counts) for count in counts])
        return np.array(rows)

    method = SourceDatamodel(r.sources, r.tokens, r.membership, r.utilities, form, GRID)
    x = slow(r.membership)
    for t in range(T):
        fit = Ridge(float(method.penalty[t]) * unit(x), solver="svd").fit(x, r.utilities[:, t])
        np.testing.assert_allclose(method.predict(r.fresh)[:, t], fit.predict(slow(r.fresh)), rtol=1e-6)
    again = RidgeDatamodel(slow, r.membership, r.utilities, GRID)
    np.testing.assert_allclose(method.predict(r.fresh), again.predict(r.fresh), rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1))
def test_the_unit_of_utilities_and_a_mixture_of_subsets(seed: int, share: float) -> None:
    r = Retrains(seed)
    method = MaskDatamodel(r.membership, r.utilities)
    scaled = MaskDatamodel(r.membership, 3 - 7 * r.utilities)
    np.testing.assert_allclose(scaled.predict(r.fresh), 3 - 7 * method.predict(r.fresh), rtol=1e-6, atol=1e-6)
    a, b = r.fresh[:1].astype(float), r.fresh[1:2].astype(float)
    np.testing.assert_allclose(
        method.predict(share * a + (1 - share) * b),
        share * method.predict(a) + (1 - share) * method.predict(b),
        rtol=1e-9,
        atol=1e-9,
    )


def test_pure_noise_is_given_a_large_penalty() -> None:
    r = Retrains()
    noise = generator("noise").standard_normal((M, 200))
    assert np.median(MaskDatamodel(r.membership, noise).penalty) >= 1


def test_refusals() -> None:
    r = Retrains()
    for penalties in ((), (0.0, 1.0)):
        with pytest.raises(ConfigError, match="all above 0"):
            MaskDatamodel(r.membership, r.utilities, penalties)
    with pytest.raises(InputError, match="at least 3 subsets"):
        MaskDatamodel(r.membership[:2], r.utilities[:2])
    with pytest.raises(InputError, match="at least 3 subsets"):
        MaskDatamodel(r.membership, r.utilities[1:])
    with pytest.raises(InputError, match="give subsets that differ"):
        MaskDatamodel(np.ones((M, N), dtype=bool), r.utilities)
    with pytest.raises(InputError, match="not finite"):
        MaskDatamodel(r.membership, np.where(r.utilities > 0, np.nan, r.utilities))
    with pytest.raises(InputError, match="one of each per chunk"):
        SourceDatamodel(r.sources[1:], r.tokens, r.membership, r.utilities)
    with pytest.raises(ConfigError, match="form is"):
        SourceDatamodel(r.sources, r.tokens, r.membership, r.utilities, "max")  # pyright: ignore[reportArgumentType]
    r.fresh[2] = False
    with pytest.raises(InputError, match="subset 2 holds no tokens"):
        SourceDatamodel(r.sources, r.tokens, r.membership, r.utilities).predict(r.fresh)
