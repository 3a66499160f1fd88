"""Fidelity of inner products, against loops over pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from benchmarks import sketch_inner_products as quality
from benchmarks.sketch_inner_products import inner_product_distortion, seed_agreement
from grasp_pipeline.errors import InputError


def projected(gradients: np.ndarray, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (gradients @ rng.standard_normal((gradients.shape[1], d)) / d**0.5).astype(np.float32)


@pytest.fixture
def gradients() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((20, 500)) + rng.standard_normal(500)).astype(np.float32)


def test_distortion_is_that_of_all_pairs(gradients: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality, "_COLUMNS", 64)
    sketches = projected(gradients, 40, 1)
    seen, exact, errors = [], [], []
    g, s = gradients.astype(np.float64), sketches.astype(np.float64)
    for i, j in combinations(range(20), 2):
        seen.append(s[i] @ s[j])
        exact.append(g[i] @ g[j])
        errors.append(abs(seen[-1] - exact[-1]) / np.linalg.norm(g[i]) / np.linalg.norm(g[j]))
    found = inner_product_distortion(sketches, gradients)
    assert found.pairs == 190
    assert found.correlation == pytest.approx(pearsonr(seen, exact).statistic)
    assert found.median_error == pytest.approx(np.median(errors))
    assert found.error_95 == pytest.approx(np.quantile(errors, 0.95))


def test_an_isometry_has_no_distortion_and_its_sign_does_not_matter(gradients: np.ndarray) -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((500, 500)))
    found = inner_product_distortion(-(gradients @ basis), gradients)
    assert found.correlation == pytest.approx(1)
    assert found.error_95 < 1e-6


def test_more_dimensions_distort_less(gradients: np.ndarray) -> None:
    few, many = (inner_product_distortion(projected(gradients, d, 2), gradients) for d in (16, 1024))
    assert many.error_95 < few.error_95 / 3


def test_agreement_is_that_of_all_pairs(gradients: np.ndarray) -> None:
    one, other = projected(gradients, 30, 1), projected(gradients, 50, 2)
    pairs = list(combinations(range(20), 2))
    first = [float(one[i].astype(np.float64) @ one[j]) for i, j in pairs]
    second = [float(other[i].astype(np.float64) @ other[j]) for i, j in pairs]
    found = seed_agreement(one, other)
    assert found.pearson == pytest.approx(pearsonr(first, second).statistic)
    assert found.spearman == pytest.approx(spearmanr(first, second).statistic, abs=1e-4)
    assert seed_agreement(one, one).spearman == pytest.approx(1)


def test_samples_that_cannot_be_compared_are_refused(gradients: np.ndarray) -> None:
    with pytest.raises(InputError, match="20 and 19 rows"):
        seed_agreement(gradients, gradients[1:])
    with pytest.raises(InputError, match="3 or more"):
        seed_agreement(gradients[:2], gradients[:2])
    gradients[4] = 0
    with pytest.raises(InputError, match="row 4 is zero"):
        inner_product_distortion(gradients, gradients)
