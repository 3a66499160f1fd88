"""One ascent step against the same step taken with transformers and autograd by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from grasp_pipeline.attribution.unlearning import RISE, Unlearning
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.seeds import generator


def model_and_chunks() -> tuple[CausalLM, list[list[int]]]:
    model = build_model(ProxyConfig.model_validate({"preset": "tiny", "seed": 0}), 60, 12)
    draw = generator("unlearning test")
    return CausalLM(model), [draw.integers(1, 60, int(draw.integers(2, 13))).tolist() for _ in range(9)]


def mean_loss(model: torch.nn.Module, chunk: list[int]) -> torch.Tensor:
    ids = torch.tensor([[0, *chunk]])
    return model(ids, labels=ids).loss


def test_effects_are_those_of_a_step_taken_by_hand() -> None:
    objective, chunks = model_and_chunks()
    teacher = Unlearning(objective, objective.parameters(), *pad_chunks(chunks, 0, 12))
    query = [7, 8, 9, 10]
    rows, _ = pad_chunks([query], 0, 12)
    found = teacher.effects(rows[0], len(query))
    other = copy.deepcopy(objective.model)
    mean_loss(other, query).backward()
    squared = sum(float((p.grad**2).sum()) for p in other.parameters())
    with torch.no_grad():
        for p in other.parameters():
            p += RISE / squared * p.grad
        slow = [float(mean_loss(other, each) - mean_loss(objective.model, each)) for each in chunks]
    np.testing.assert_allclose(found, slow, atol=2e-5)
    some = np.array([4, 1])
    np.testing.assert_allclose(teacher.effects(rows[0], len(query), some), found[some], atol=1e-6)


def test_the_text_itself_is_forgotten_by_about_the_step_and_most_of_all() -> None:
    objective, chunks = model_and_chunks()
    rows, sizes = pad_chunks(chunks, 0, 12)
    effects = Unlearning(objective, objective.parameters(), rows, sizes).effects(rows[3], int(sizes[3]))
    assert int(effects.argmax()) == 3
    assert effects[3] == pytest.approx(RISE, rel=0.3)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    objective, chunks = model_and_chunks()
    rows, sizes = pad_chunks(chunks, 0, 12)
    weights = {name: torch.full_like(p, torch.nan) for name, p in objective.parameters().items()}
    with pytest.raises(TrainingError, match="squared gradient norm"):
        Unlearning(objective, weights, rows, sizes).effects(rows[0], int(sizes[0]))
