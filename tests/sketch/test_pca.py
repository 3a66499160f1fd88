"""Projected sketches: against a dense eigendecomposition, what they keep, and through engine, file and sketcher."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import random_pool

from grasp_pipeline.config import SketchConfig
from grasp_pipeline.errors import InputError, StoreError
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.sketch.build import StoredSettings, build_sketcher
from grasp_pipeline.sketch.pca import (
    FILE,
    PcaSketcher,
    Projection,
    fit_projection,
    kept_share,
    principal_directions,
    sample_chunks,
    sample_size,
)
from grasp_pipeline.sketch.run import SketchEngine, sketch_chunks, sketch_in_memory

POOL = random_pool(60, "pca")
CHUNKS = [POOL.chunk(i) for i in range(POOL.n)]
IDS = [f"c{i}" for i in range(POOL.n)]


def sketches_of(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sketches with a common mean and a falling spectrum, and tokens."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) / np.arange(1, d + 1) + 0.7 * rng.standard_normal(d)
    return rows.astype(np.float32), rng.integers(1, 40, n)


def spectrum(sketches: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The slow twin: all eigenvalues, falling, and eigenvectors of the moment, added up chunk by chunk."""
    moment = np.zeros((sketches.shape[1],) * 2)
    for row, weight in zip(sketches.astype(np.float64), tokens, strict=True):
        moment += weight * np.outer(row, row)
    values, vectors = np.linalg.eigh(moment / tokens.sum())
    return values[::-1], vectors[:, ::-1]


@pytest.mark.parametrize(("n", "d"), [(80, 20), (20, 80), (30, 30)])
def test_directions_are_the_first_eigenvectors(n: int, d: int) -> None:
    sketches, tokens = sketches_of(n, d)
    _, vectors = spectrum(sketches, tokens)
    basis = principal_directions(sketches, tokens, 6)
    assert basis.shape == (d, 6)
    assert basis.dtype == np.float32
    np.testing.assert_allclose(basis.T @ basis, np.eye(6), atol=1e-5)
    np.testing.assert_allclose(np.abs(basis.T @ vectors[:, :6]), np.eye(6), atol=1e-4)


@given(st.integers(8, 40), st.integers(3, 30), st.integers(1, 8), st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_the_stated_bounds_hold(n: int, d: int, k: int, seed: int) -> None:
    k = min(k, d - 1)
    sketches, tokens = sketches_of(n, d, seed)
    values, _ = spectrum(sketches, tokens)
    basis = principal_directions(sketches, tokens, k).astype(np.float64)
    share = tokens / tokens.sum()
    target = np.random.default_rng(seed + 1).standard_normal(d)
    error = sketches @ target - (sketches @ basis) @ (basis.T @ target)
    assert share @ np.square(error) <= values[k] * (target @ target) * (1 + 1e-4) + 1e-6 * values[0]
    lost = share @ (np.square(sketches).sum(1) - np.square(sketches @ basis).sum(1))
    assert lost == pytest.approx(values[k:].sum(), rel=1e-3, abs=1e-5 * values.sum())
    assert kept_share(sketches, tokens, basis.astype(np.float32)) == pytest.approx(
        1 - values[k:].sum() / values.sum(), abs=1e-4
    )


def test_the_common_mean_is_kept_which_a_centred_fit_may_drop() -> None:
    rng = np.random.default_rng(3)
    sketches = rng.standard_normal((200, 12)) * np.linspace(1, 0.1, 12)
    sketches[:, 11] = 5.0
    tokens = np.ones(200, dtype=np.int64)
    mean = sketches.mean(axis=0)
    basis = principal_directions(sketches.astype(np.float32), tokens, 3)
    assert np.linalg.norm(basis.T @ mean) == pytest.approx(np.linalg.norm(mean), rel=1e-2)
    centred = principal_directions((sketches - mean).astype(np.float32), tokens, 3)
    assert np.linalg.norm(centred.T @ mean) < 0.1 * np.linalg.norm(mean)


def test_what_is_kept_is_told_of_chunks_outside_of_the_fit() -> None:
    noise = np.random.default_rng(4).standard_normal((100, 400)).astype(np.float32)
    tokens = np.ones(100, dtype=np.int64)
    assert fit_projection(noise, tokens, 80).kept < 0.4
    assert (
        kept_share(noise[np.arange(100) % 5 != 4], tokens[:80], fit_projection(noise, tokens, 80).basis)
        > 0.99
    )
    with pytest.raises(InputError, match=r"80 chunks of the sample are too few.*lower sketchers.pca_dim"):
        fit_projection(noise, tokens, 81)


@given(st.lists(st.integers(0, 200), unique=True, min_size=1, max_size=60), st.integers(1, 20), st.randoms())
@settings(max_examples=50, deadline=None)
def test_a_sample_is_the_same_in_any_order(numbers: list[int], count: int, random: object) -> None:
    frame = pl.DataFrame({"chunk_id": [f"c{n}" for n in numbers], "n": numbers})
    first = sample_chunks(frame.iter_slices(7), count, 1)
    assert first.height == min(count, len(numbers))
    random.shuffle(numbers)  # type: ignore[attr-defined]
    other = pl.DataFrame({"chunk_id": [f"c{n}" for n in numbers], "n": numbers})
    assert sample_chunks(other.iter_slices(11), count, 1).equals(first)
    assert (first["chunk_id"] == pl.Series([f"c{n}" for n in first["n"]])).all()


def test_samples_of_two_seeds_differ_and_grow_with_the_dimension() -> None:
    frame = pl.DataFrame({"chunk_id": [f"c{n}" for n in range(500)]})
    one, other = (set(sample_chunks([frame], 50, seed)["chunk_id"]) for seed in (0, 1))
    assert len(one & other) < 25
    assert sample_size(16) == 4096
    assert sample_size(2048) == 8192
    with pytest.raises(InputError, match="no chunks"):
        sample_chunks([], 3, 0)


@pytest.mark.parametrize("kind", ["output", "layers", "full"])
def test_every_kind_is_projected_in_the_engine(llama: CausalLM, kind: str, tmp_path: Path) -> None:
    config = SketchConfig.model_validate(
        {"output_hidden_dim": 6, "output_vocab_dim": 6, "full_dim": 48, "full_sparsity": 1}
    )
    plain = build_sketcher(kind, llama, config)
    whole, losses = sketch_chunks(plain, CHUNKS, IDS, 0, 100)
    projection = fit_projection(whole, np.diff(POOL.offsets), 9)
    projection.save(tmp_path)
    found = Projection.load(tmp_path)
    np.testing.assert_array_equal(found.basis, projection.basis)
    assert found.kept == projection.kept

    sketcher = PcaSketcher(plain, found)
    assert (sketcher.kind, sketcher.d) == (plain.kind, 9)
    engine = SketchEngine(sketcher, 100)
    small, same = sketch_in_memory(engine, CHUNKS, IDS, 0)
    expected = whole.astype(np.float64) @ projection.basis.astype(np.float64)
    np.testing.assert_allclose(small, expected, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(same, losses)
    assert sketcher.describe()["pca"] == {"from": plain.d, "to": 9, "kept": projection.kept}


def test_a_projection_of_another_sketch_or_a_broken_file_is_refused(llama: CausalLM, tmp_path: Path) -> None:
    sketcher = build_sketcher(
        "output", llama, SketchConfig.model_validate({"output_hidden_dim": 2, "output_vocab_dim": 3})
    )
    with pytest.raises(StoreError, match=r"of 7 dimensions and the output sketch has 6"):
        PcaSketcher(sketcher, Projection(np.eye(7, 2, dtype=np.float32), 1.0))
    (tmp_path / FILE).write_bytes(b"something else")
    with pytest.raises(StoreError, match="is no projection of sketches"):
        Projection.load(tmp_path)


def test_a_kind_depends_on_its_own_settings() -> None:
    stored = StoredSettings.model_validate({"full_dim": 32, "pca_dim": 4})
    wider = stored.model_copy(update={"full_dim": 64})
    assert stored.of_kind("output") == wider.of_kind("output")
    assert stored.of_kind("full") != wider.of_kind("full")
    for change in ({"seed": 1}, {"pca_dim": 5}, {"projection_sha256": "another"}):
        changed = stored.model_copy(update=change)
        assert all(changed.of_kind(kind) != stored.of_kind(kind) for kind in ("output", "layers", "full"))
    assert stored.of_kind("output") == stored.model_copy(update={"projection": "elsewhere"}).of_kind("output")


def test_projected_sketches_do_not_depend_on_the_batch(llama: CausalLM) -> None:
    plain = build_sketcher(
        "output", llama, SketchConfig.model_validate({"output_hidden_dim": 6, "output_vocab_dim": 6})
    )
    whole, _ = sketch_chunks(plain, CHUNKS, IDS, 0, 10_000)
    sketcher = PcaSketcher(plain, fit_projection(whole, np.diff(POOL.offsets), 5))
    expected, _ = sketch_chunks(sketcher, CHUNKS, IDS, 0, 10_000)
    assert torch.equal(sketcher.sketch(*_first())[0], sketcher.sketch(*_first())[0])
    for batch in (1, 13, 60):
        found, _ = sketch_chunks(sketcher, CHUNKS, IDS, 0, batch)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def _first() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([[0, *CHUNKS[0]]]), torch.tensor([len(CHUNKS[0])])
