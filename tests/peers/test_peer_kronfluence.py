"""EK-FAC by kronfluence: with a huge damping it is GradDot over the linear modules, written as a loop."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ekfac import _draw, ekfac_scores, linear_copy, tracked_modules
from numpy.typing import NDArray
from toys import random_pool, tiny_model

from grasp_pipeline.calibration.rank import spearman
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proxy.objective import CausalLM

TRAIN, QUERY = random_pool(14, "ekfac"), random_pool(5, "ekfac-query")
CHUNKS = [TRAIN.chunk(i) for i in range(TRAIN.n)]
QUERIES = [QUERY.chunk(i) for i in range(QUERY.n)]
TASKS = np.array([1, 0, 1, 1, 0])


@pytest.fixture(autouse=True)
def quick_collections() -> Iterator[None]:
    """kronfluence collects garbage in every step: with what is already here set aside, a few objects, not 10^6."""
    gc.freeze()
    yield
    gc.unfreeze()


def test_without_the_peer_it_says_what_to_install(
    llama: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "kronfluence.analyzer", None)
    with pytest.raises(ConfigError, match=r"pip install 'grasp-pipeline\[bench\]'"):
        ekfac_scores(llama, CHUNKS, 0, QUERIES, TASKS, 1.0, tmp_path, 4)


def test_the_linear_copy_is_the_same_function() -> None:
    model = tiny_model("gpt2").model
    before = torch.get_rng_state()
    copied = linear_copy(model)
    assert torch.equal(before, torch.get_rng_state())
    tokens = torch.tensor([[0, *CHUNKS[0]]])
    torch.testing.assert_close(copied(input_ids=tokens).logits, model(input_ids=tokens).logits)
    names = tracked_modules(copied)
    assert "lm_head" not in names
    assert sum(name.endswith(("c_attn", "c_proj", "c_fc")) for name in names) == len(names) == 8
    assert not tracked_modules(model)


def test_labels_are_drawn_from_the_model() -> None:
    logits = torch.randn(1, 9, generator=torch.Generator().manual_seed(0)) * 2
    k = 4000
    labels = _draw(logits.expand(k, 9), (torch.arange(k, dtype=torch.float64) + 0.5) / k)
    shares = torch.bincount(labels, minlength=9) / k
    torch.testing.assert_close(shares, torch.softmax(logits[0], 0), rtol=0, atol=1 / k)


def linear_gradient(objective: CausalLM, chunk: list[int]) -> torch.Tensor:
    """Gradient of the summed token loss over the weights and biases of the body's linear modules, flat.

    By backward() on the model as it is, without its copy: names tell the linear modules apart.
    """
    model = objective.model
    model.zero_grad()
    tokens = torch.tensor([[0, *chunk]])
    logits = model(input_ids=tokens[:, :-1]).logits[0]
    torch.nn.functional.cross_entropy(logits, tokens[0, 1:], reduction="sum").backward()
    others = ("wte", "wpe", "embed", "norm", "ln_", "lm_head")
    chosen = [p.grad for name, p in model.named_parameters() if not any(other in name for other in others)]
    return torch.cat([gradient.flatten() for gradient in chosen if gradient is not None]).double()


def grad_dot(objective: CausalLM) -> NDArray[np.float64]:
    """(n, T): all tokens of a chunk with the mean token of a task."""
    train = [linear_gradient(objective, chunk) for chunk in CHUNKS]
    columns = []
    for t in range(2):
        queries = [query for query, task in zip(QUERIES, TASKS, strict=True) if task == t]
        # the mean over chunks, weighted by tokens, of gradients of mean token losses
        mean = sum(len(q) * linear_gradient(objective, q) / len(q) for q in queries) / sum(map(len, queries))
        columns.append([float(gradient @ mean) for gradient in train])
    return np.array(columns).T


def test_huge_damping_is_grad_dot(objective: CausalLM, tmp_path: Path) -> None:
    pytest.importorskip("kronfluence")
    expected = grad_dot(objective)
    before = {name: p.clone() for name, p in objective.parameters().items()}
    scores = ekfac_scores(objective, CHUNKS, 0, QUERIES, TASKS, 1e8, tmp_path / "work", 4)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores * 1e8, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(spearman(scores.T, expected.T), 1.0)
    assert all(torch.equal(p, before[name]) for name, p in objective.parameters().items())
    assert list((tmp_path / "work").iterdir()) == []


def test_a_batch_split_or_an_earlier_run_changes_nothing(
    llama: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kronfluence")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    scores = [
        ekfac_scores(model, CHUNKS, 0, QUERIES, TASKS, None, tmp_path / "work", batch)
        for model, batch in ((llama, 4), (tiny_model("neox"), 4), (llama, 5))
    ]
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-3, atol=1e-4 * np.abs(scores[0]).max())
    assert spearman(scores[0].T, scores[1].T).max() < 0.99
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


@pytest.mark.parametrize("tasks", [[0, 0, 2, 2, 0], [0, 1, 0], [0, -1, 0, 0, 0]])
def test_tasks_without_queries_are_refused(llama: CausalLM, tmp_path: Path, tasks: list[int]) -> None:
    pytest.importorskip("kronfluence")
    with pytest.raises(InputError, match="at least one query"):
        ekfac_scores(llama, CHUNKS, 0, QUERIES, np.array(tasks), 1.0, tmp_path, 4)


def test_a_negative_damping_is_refused(llama: CausalLM, tmp_path: Path) -> None:
    pytest.importorskip("kronfluence")
    with pytest.raises(ConfigError, match="damping is -1"):
        ekfac_scores(llama, CHUNKS, 0, QUERIES, TASKS, -1.0, tmp_path, 4)
