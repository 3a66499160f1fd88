"""Stacked training, packing and evaluation against one model at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LENGTH, VOCAB, random_pool

from grasp_pipeline.errors import ConfigError, TrainingError
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.head import StackedCrossEntropy
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.proxy.packing import TextStream, packed_rows
from grasp_pipeline.proxy.retrain import Job, retrain
from grasp_pipeline.proxy.training import Recipe, stack, train_stacked, unstack

RECIPE = Recipe(
    steps=6,
    batch_sequences=3,
    chunk_tokens=LENGTH,
    learning_rate=1e-2,
    warmup_fraction=0.2,
    weight_decay=0.1,
    clip_norm=0.5,
)


def rows_for(seed: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (RECIPE.rows, LENGTH + 1), generator=source)


def train_alone(objective: CausalLM, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The slow twin: transformers' own forward pass and loss, torch's clipping, one model."""
    model = objective.model
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": RECIPE.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=RECIPE.learning_rate,
        betas=(0.9, 0.95),
    )
    for step in range(RECIPE.steps):
        batch = rows[step * RECIPE.batch_sequences : (step + 1) * RECIPE.batch_sequences]
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1)
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.rate(step)
        optimizer.step()
    trained = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(start[name])
    return trained


def test_stacked_training_equals_one_model_at_a_time(objective: CausalLM) -> None:
    # In float64, and compared as functions: the true gradient of a key bias is 0, Adam blows its rounding up, and
    # the model's output does not depend on it.
    objective.model.double()
    probe = rows_for(9)[:4, :-1]

    def outputs(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            return objective.hidden(parameters, probe) @ objective.output_weight(parameters).t()

    rows = [rows_for(seed) for seed in range(3)]
    initial = {name: p.clone() for name, p in objective.parameters().items()}
    stacked = train_stacked(objective, initial, rows, RECIPE, ["a", "b", "c"])
    for index, row in enumerate(rows):
        alone = train_alone(objective, row)
        fast, slow, before = outputs(unstack(stacked, index)), outputs(alone), outputs(initial)
        assert (slow - before).abs().max() > 0.1
        assert (fast - slow).abs().max() < 1e-4 * (slow - before).abs().max()


def test_models_that_see_the_same_data_end_the_same(llama: CausalLM) -> None:
    initial = llama.parameters()
    stacked = train_stacked(llama, initial, [rows_for(0), rows_for(1), rows_for(0)], RECIPE, ["a", "b", "c"])
    for value in stacked.values():
        torch.testing.assert_close(value[0], value[2], rtol=0, atol=1e-6)
    assert any(not torch.allclose(value[0], value[1]) for value in stacked.values())


def test_a_diverging_model_is_named(llama: CausalLM) -> None:
    poisoned = {name: p.clone() for name, p in llama.parameters().items()}
    poisoned[llama.output_name][0, 0] = float("nan")
    with pytest.raises(TrainingError, match=r"the training loss of the model.*not finite.*learning_rate"):
        train_stacked(llama, poisoned, [rows_for(0)], RECIPE, ["the model"])


def test_cross_entropy_and_its_gradients_match_autograd() -> None:
    torch.manual_seed(1)
    hidden = torch.randn(2, 7, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 11, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(0, 11, (2, 7))
    weights = torch.rand(2, 7, dtype=torch.float64)
    cross_entropy = StackedCrossEntropy(weight, 7)
    cross_entropy(-hidden, -2 * weight, targets, weights)  # its scratch memory is used again
    losses, d_hidden = cross_entropy(hidden, weight, targets, weights)
    logits = hidden @ weight.transpose(1, 2)
    slow = torch.stack(
        [
            (torch.nn.functional.cross_entropy(z, y, reduction="none") * w).sum()
            for z, y, w in zip(logits, targets, weights, strict=True)
        ]
    )
    torch.testing.assert_close(losses, slow)
    slow_grads = torch.autograd.grad(slow.sum(), (hidden, weight))
    for a, b in zip((d_hidden, cross_entropy.d_weight), slow_grads, strict=True):
        torch.testing.assert_close(a, b)


def test_held_out_losses_match_transformers(objective: CausalLM) -> None:
    pool = random_pool(23)
    rows, sizes = pad_chunks([pool.chunk(i) for i in range(pool.n)], 0, LENGTH)
    stacked = stack(objective.parameters(), 2)
    fast = stacked_chunk_losses(objective, stacked, rows, sizes, batch_rows=5)
    for index in range(pool.n):
        n = int(sizes[index])
        with torch.no_grad():
            logits = objective.model(input_ids=rows[index : index + 1, :n]).logits[0]
        slow = torch.nn.functional.cross_entropy(logits, rows[index, 1 : n + 1], reduction="sum")
        assert fast[0, index] == pytest.approx(float(slow), rel=1e-4)
    torch.testing.assert_close(fast[0], fast[1])


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**20))
@settings(max_examples=40, deadline=None)
def test_packing_repeats_whole_chunks_in_any_order(rows: int, members: int, seed: int) -> None:
    pool = random_pool(30)
    chosen = np.random.default_rng(seed).choice(30, members, replace=False)
    packed = packed_rows(pool, chosen, rows, 8, 0, "x", seed)
    again = packed_rows(pool, chosen[::-1].copy(), rows, 8, 0, "x", seed)
    np.testing.assert_array_equal(packed, again)
    assert packed.shape == (rows, 9)
    np.testing.assert_array_equal(packed[1:, 0], packed[:-1, -1])
    stream = [int(packed[0, 0]), *packed[:, 1:].ravel().tolist()]
    starts = [place for place, token in enumerate(stream) if token == 0]
    allowed = {tuple(pool.chunk(i)) for i in chosen}
    for start, end in itertools.pairwise(starts):
        assert tuple(stream[start + 1 : end]) in allowed


def test_every_member_is_seen_once_per_epoch() -> None:
    pool = random_pool(10)
    members = np.array([1, 4, 7])
    length = int(pool.lengths[members].sum()) + 3
    packed = packed_rows(pool, members, 1, length - 1, 0, "epoch")
    expected = sorted([0, 0, 0, *(t for i in members for t in pool.chunk(i))])
    assert sorted(packed.ravel().tolist()) == expected


def test_an_empty_subset_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty subset"):
        packed_rows(random_pool(3), np.array([], dtype=np.int64), 2, 8, 0, "none")


def test_retraining_does_not_depend_on_group_size(llama: CausalLM) -> None:
    pool = random_pool(40)
    held = pad_chunks([pool.chunk(i) for i in range(5)], 0, LENGTH)
    jobs = [Job(f"s{i}", np.arange(i, 20 + i, dtype=np.int64), i) for i in range(5)]
    results = {}
    for size in (1, 2, 5):
        outcomes = retrain(llama, llama.parameters(), TextStream(pool, 0), jobs, RECIPE, held, size)
        results[size] = np.stack([outcome.chunk_losses for outcome in outcomes])
    np.testing.assert_allclose(results[1], results[5], rtol=2e-4)
    np.testing.assert_allclose(results[2], results[5], rtol=2e-4)
    assert len({tuple(row) for row in results[5]}) == 5


def test_the_schedule_rises_then_falls() -> None:
    rates = [Recipe(100, 1, 8, 1.0, 0.1, 0.0, 1.0).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] < 0.11
    assert all(not math.isnan(rate) for rate in rates)
