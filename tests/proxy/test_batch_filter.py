"""The per-batch influence filter against loops over records."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import LENGTH, VOCAB, tiny_model

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.batch_filter import (
    BatchFilter,
    alignments,
    dropped,
    record_losses,
    target_gradient,
)
from grasp_pipeline.proxy.head import token_losses
from grasp_pipeline.proxy.images import ImageClassifier, ImageStream, image_rows
from grasp_pipeline.proxy.objective import CausalLM, Objective, Parameters
from grasp_pipeline.proxy.training import Recipe, stack_models, train_stacked, unstack
from grasp_pipeline.seeds import generator


def gradient(
    objective: Objective, parameters: Parameters, rows: torch.Tensor, sizes: list[int]
) -> np.ndarray:
    """The gradient of the mean target loss of rows (n, L + 1), row by row."""
    weights = {name: p.detach().requires_grad_() for name, p in parameters.items()}
    losses = []
    for row, size in zip(rows, sizes, strict=True):
        hidden = objective.hidden(weights, row[None, :-1])[0, :size]
        losses.append(token_losses(hidden, objective.output_weight(weights), row[1 : 1 + size]))
    found = torch.autograd.grad(torch.cat(losses).mean(), list(weights.values()))
    return torch.cat([each.flatten() for each in found]).double().numpy()


def language_model(kind: str) -> tuple[CausalLM, torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = generator("batch filter", kind)
    rows = torch.from_numpy(draw.integers(0, VOCAB, (12, LENGTH + 1)))
    return tiny_model(kind), rows[:5], rows[5:], torch.from_numpy(draw.integers(1, LENGTH + 1, 7))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_alignments_are_dot_products_of_each_records_gradient(kind: str) -> None:
    objective, batch, target, sizes = language_model(kind)
    first = objective.parameters()
    draw = torch.Generator().manual_seed(0)
    second = {name: p + 0.05 * torch.randn(p.shape, generator=draw) for name, p in first.items()}
    stacked = {name: p.requires_grad_() for name, p in stack_models([first, second]).items()}
    direction = target_gradient(objective, stacked, target, sizes)
    found = alignments(record_losses(objective, batch.expand(2, -1, -1)), stacked, direction)
    for k, parameters in enumerate((first, second)):
        wanted = gradient(objective, parameters, target, sizes.tolist())
        expected = [gradient(objective, parameters, row[None], [LENGTH]) @ wanted for row in batch]
        np.testing.assert_allclose(found[k].numpy(), expected, rtol=1e-3, atol=1e-6)
    assert all(p.grad is None for p in stacked.values())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=9), st.floats(0.01, 1))
def test_the_lowest_share_of_the_negatives_goes_and_one_record_stays(values: list[int], share: float) -> None:
    out = dropped(torch.tensor([values], dtype=torch.float32), share)[0].tolist()
    negative = sum(v < 0 for v in values)
    wanted = min(len(values) - 1, int(np.ceil(share * negative - 1e-9)))
    assert sum(out) == wanted
    gone = [v for v, o in zip(values, out, strict=True) if o]
    kept = [v for v, o in zip(values, out, strict=True) if not o]
    assert all(v < 0 for v in gone)
    assert not gone or max(gone) <= min(kept)


def digits() -> tuple[ImageClassifier, np.ndarray, np.ndarray]:
    draw = generator("filtered images")
    images = draw.random((40, 1, 6, 6)).astype(np.float32)
    labels = draw.integers(0, 3, 40)
    return ImageClassifier(images, 3, 0, 2), images, labels


def test_training_with_a_filter_is_training_without_the_records_it_left_out() -> None:
    objective, _, labels = digits()
    recipe = Recipe(3, 8, 1, 1e-2, 0.1, 0.0, 1.0)
    rows = torch.from_numpy(ImageStream(labels).rows(np.arange(30), recipe.rows, 1, "filtered"))
    target = image_rows(np.arange(30, 40), labels)
    batch_filter = BatchFilter(*target, 0.5, 4)
    found = train_stacked(objective, objective.parameters(), [rows], recipe, ["x"], batch_filter=batch_filter)
    weights = {name: p.clone().requires_grad_() for name, p in objective.parameters().items()}
    matrices = [p for p in weights.values() if p.dim() >= 2]
    vectors = [p for p in weights.values() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.0}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    assert len(batch_filter.log) == 3
    assert any(out.any() for out in batch_filter.log)
    for step, out in enumerate(batch_filter.log):
        batch = rows[step * 8 : step * 8 + 8][~out[0]]
        hidden = objective.hidden(weights, batch[:, :-1])[:, 0]
        loss = token_losses(hidden, objective.output_weight(weights), batch[:, 1]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
    for name, p in unstack(found, 0).items():
        torch.testing.assert_close(p, weights[name].detach(), rtol=1e-4, atol=1e-5)


def test_refusals() -> None:
    _, _, labels = digits()
    rows, sizes = image_rows(np.arange(4), labels)
    for share, count in ((0.0, 4), (1.5, 4), (0.5, 0)):
        with pytest.raises(ConfigError, match="share above 0"):
            BatchFilter(rows, sizes, share, count)
    with pytest.raises(ConfigError, match="of 0 target rows"):
        BatchFilter(rows[:0], sizes[:0], 0.5)
