"""Sketches against the explicitly materialised, projected per-example gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LENGTH, random_pool

from grasp_pipeline.config import SketchConfig
from grasp_pipeline.errors import InputError, TrainingError
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.sketch.build import build_sketcher, storage_scale
from grasp_pipeline.sketch.full import FullSketcher, hashes
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.run import sketch_chunks
from grasp_pipeline.sketch.storage import decode, decode_half, encode, power_of_two_scale
from grasp_pipeline.sketch.targets import task_means, weighted_mean

POOL = random_pool(17, "sketch")
CHUNKS = [POOL.chunk(i) for i in range(POOL.n)]
IDS = [f"c{i}" for i in range(POOL.n)]


def gradients(objective: CausalLM, chunk: list[int]) -> dict[str, torch.Tensor]:
    """The slow twin: backward() of transformers' own logits for one chunk."""
    model = objective.model
    model.zero_grad()
    rows, _ = pad_chunks([chunk], 0, LENGTH)
    n = len(chunk)
    logits = model(input_ids=rows[:, :n]).logits[0]
    torch.nn.functional.cross_entropy(logits, rows[0, 1 : n + 1]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_full_is_the_projected_gradient(objective: CausalLM) -> None:
    sketcher = FullSketcher(objective, objective.parameters(), d=40, sparsity=3, seed=5)
    fast, losses = sketch_chunks(sketcher, CHUNKS, IDS, 0, 30)
    for index, chunk in enumerate(CHUNKS):
        slow = torch.zeros(40)
        for name, gradient in gradients(objective, chunk).items():
            coordinates, signs = hashes(name, gradient.numel(), 40, 3, 5)
            dense = torch.zeros(40, gradient.numel())
            for where, sign in zip(coordinates, signs, strict=True):
                dense[where, torch.arange(gradient.numel())] += sign
            slow -= dense @ gradient.flatten()
        scale = float(slow.norm())
        np.testing.assert_allclose(fast[index], slow.numpy(), atol=1e-5 * scale + 1e-7, rtol=1e-4)
    assert np.isfinite(losses).all()


def untied_output_gradient(objective: CausalLM, chunk: list[int]) -> torch.Tensor:
    """Gradient of the loss through the output layer alone, (V, H)."""
    rows, _ = pad_chunks([chunk], 0, LENGTH)
    n = len(chunk)
    with torch.no_grad():
        hidden = objective.hidden(objective.parameters(), rows[:, :n])[0]
    weight = objective.output_weight(objective.parameters()).clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(hidden @ weight.t(), rows[0, 1 : n + 1]).backward()
    assert weight.grad is not None
    return weight.grad


def test_output_is_the_projected_output_layer_gradient(objective: CausalLM) -> None:
    sketcher = OutputSketcher(objective, objective.parameters(), hidden_dim=6, vocab_dim=9, seed=2)
    fast, losses = sketch_chunks(sketcher, CHUNKS, IDS, 0, 40)
    for index, chunk in enumerate(CHUNKS):
        gradient = untied_output_gradient(objective, chunk)
        slow = -(sketcher.vocabulary.matrix().t() @ gradient @ sketcher.hidden_side).flatten()
        np.testing.assert_allclose(fast[index], slow.numpy(), atol=1e-5 * float(slow.norm()), rtol=1e-4)
        rows, _ = pad_chunks([chunk], 0, LENGTH)
        logits = objective.model(input_ids=rows[:, : len(chunk)]).logits[0]
        expected = torch.nn.functional.cross_entropy(logits, rows[0, 1 : len(chunk) + 1])
        assert losses[index] == pytest.approx(expected.item(), rel=1e-4)


def test_output_of_an_untied_model_equals_backward() -> None:
    from toys import tiny_model

    objective = tiny_model("neox")
    sketcher = OutputSketcher(objective, objective.parameters(), hidden_dim=99, vocab_dim=99, seed=0)
    fast, _ = sketch_chunks(sketcher, CHUNKS[:4], IDS[:4], 0, 1000)
    for index in range(4):
        gradient = gradients(objective, CHUNKS[index])[objective.output_name]
        np.testing.assert_allclose(fast[index], -gradient.flatten().numpy(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["output", "full"])
def test_sketches_do_not_depend_on_batch_or_order(llama: CausalLM, kind: str) -> None:
    config = SketchConfig.model_validate({"output_hidden_dim": 5, "output_vocab_dim": 7, "full_dim": 32})
    sketcher = build_sketcher(kind, llama, config)
    whole, whole_losses = sketch_chunks(sketcher, CHUNKS, IDS, 0, 10_000)
    order = np.random.default_rng(3).permutation(len(CHUNKS))
    for batch in (1, 13, 60):
        parts, losses = sketch_chunks(sketcher, [CHUNKS[i] for i in order], [IDS[i] for i in order], 0, batch)
        np.testing.assert_allclose(parts, whole[order], rtol=1e-4, atol=1e-6 * np.abs(whole).max())
        np.testing.assert_allclose(losses, whole_losses[order], rtol=1e-5)


def test_projected_inner_products_estimate_true_ones(llama: CausalLM) -> None:
    exact = torch.stack(
        [torch.cat([g.flatten() for g in gradients(llama, c).values()]) for c in CHUNKS]
    ).numpy()
    sketcher = FullSketcher(llama, llama.parameters(), d=2048, sparsity=2, seed=0)
    sketches, _ = sketch_chunks(sketcher, CHUNKS, IDS, 0, 100)
    true, seen = exact @ exact.T, sketches @ sketches.T
    scale = np.sqrt(np.outer(np.diag(true), np.diag(true)))
    assert np.abs((seen - true) / scale).max() < 0.12


def test_a_nan_names_the_chunk(llama: CausalLM) -> None:
    broken = {name: p.clone() for name, p in llama.parameters().items()}
    broken[llama.output_name][CHUNKS[3][0]] = float("nan")
    sketcher = OutputSketcher(llama, broken, 4, 4, 0)
    with pytest.raises(TrainingError, match=r"the output sketch of chunk c\d+ is not finite"):
        sketch_chunks(sketcher, CHUNKS, IDS, 0, 1000)


@given(st.integers(1, 30), st.integers(1, 9), st.floats(1e-6, 1e4))
@settings(max_examples=60, deadline=None)
def test_float16_round_trip(n: int, d: int, size: float) -> None:
    import polars as pl

    values = (np.random.default_rng(n * 31 + d).standard_normal((n, d)) * size).astype(np.float32)
    scale = power_of_two_scale(values)
    column = pl.Series(encode(values, scale, [str(i) for i in range(n)]), dtype=pl.Binary)
    back = decode(column, d, scale)
    np.testing.assert_allclose(back, values, rtol=1e-3, atol=1e-4 * size)
    assert decode_half(column, d).dtype == np.dtype("<f2")


def test_overflow_and_wrong_sizes_are_refused() -> None:
    import polars as pl

    with pytest.raises(InputError, match="chunk b is not finite"):
        encode(np.array([[1.0], [1e9]], dtype=np.float32), 1.0, ["a", "b"])
    with pytest.raises(InputError, match="does not hold 3"):
        decode(pl.Series([b"1234"], dtype=pl.Binary), 3)


def test_the_scale_depends_on_names_alone(llama: CausalLM) -> None:
    sketcher = build_sketcher(
        "output", llama, SketchConfig.model_validate({"output_hidden_dim": 4, "output_vocab_dim": 4})
    )
    assert storage_scale(sketcher, 61, LENGTH, 0) == storage_scale(sketcher, 61, LENGTH, 0)


def test_task_means_are_token_weighted() -> None:
    rng = np.random.default_rng(0)
    sketches, tokens = rng.standard_normal((6, 3)).astype(np.float32), np.array([1, 5, 2, 7, 3, 4])
    tasks, splits = ["a", "a", "b", "b", "a", "b"], ["query"] * 4 + ["judge"] * 2
    means = {(m.task, m.split): m for m in task_means(sketches, tokens, tasks, splits)}
    expected = (sketches[0] * 1 + sketches[1] * 5) / 6
    np.testing.assert_allclose(means["a", "query"].vector, expected, rtol=1e-5)
    both = (means["a", "query"].vector + means["b", "query"].vector) / 2
    np.testing.assert_allclose(means["mean", "query"].vector, both, rtol=1e-5)
    assert means["mean", "judge"].n_chunks == 2


def test_signal_to_noise_separates_signal_from_noise() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(10, 30, 400)
    noise = rng.standard_normal((400, 8)).astype(np.float32)
    assert 0.3 < weighted_mean(noise, tokens)[1] < 3
    assert weighted_mean(noise + 1, tokens)[1] > 100
