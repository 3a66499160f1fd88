"""Kind `full`: gradients by hooks against vmap and against a float64 loop of backward(), and their projection."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import LENGTH, VOCAB, random_pool, tiny_model

from grasp_pipeline.proxy.objective import CausalLM, Parameters, pad_chunks
from grasp_pipeline.sketch import full, gradients
from grasp_pipeline.sketch.full import FullSketcher, hashes
from grasp_pipeline.sketch.run import sketch_chunks

POOL = random_pool(17, "full")
CHUNKS = [POOL.chunk(i) for i in range(POOL.n)]
IDS = [f"c{i}" for i in range(POOL.n)]
FAMILIES = ["llama", "gpt2", "neox", "qwen2"]
D = 40


def sketcher_of(objective: CausalLM, sparsity: int = 3, seed: int = 5) -> FullSketcher:
    return FullSketcher(objective, objective.parameters(), D, sparsity, seed)


def by_vmap(objective: CausalLM, monkeypatch: pytest.MonkeyPatch) -> FullSketcher:
    """The same sketcher as if the model's modules were not known."""
    with monkeypatch.context() as patch:
        patch.setattr(full, "known_modules", lambda objective, parameters: None)
        return sketcher_of(objective)


def slow_gradients(objective: CausalLM) -> tuple[list[Parameters], list[float]]:
    """Float64 gradients by name of every chunk, by backward() of transformers' own logits; and losses."""
    model = copy.deepcopy(objective.model).double()
    found, losses = [], []
    for chunk in CHUNKS:
        model.zero_grad()
        tokens = torch.tensor([[0, *chunk]])
        loss = nn.functional.cross_entropy(model(input_ids=tokens[:, :-1]).logits[0], tokens[0, 1:])
        loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        losses.append(loss.item())
    return found, losses


def dense_projection(name: str, size: int, sparsity: int, seed: int) -> torch.Tensor:
    """The transform of one tensor as a matrix (D, size) float64."""
    coordinates, signs = hashes(name, size, D, sparsity, seed)
    matrix = torch.zeros(D, size, dtype=torch.float64)
    for where, sign in zip(coordinates, signs, strict=True):
        matrix[where, torch.arange(size)] += sign
    return matrix


def assert_rows_close(seen: np.ndarray, expected: np.ndarray, most: float = 1e-5) -> None:
    error = np.linalg.norm(seen - expected, axis=1)
    assert (error <= most * np.linalg.norm(expected, axis=1)).all()


@pytest.mark.parametrize("sparsity", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_sketches_are_the_projected_gradients(
    family: str, sparsity: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gradients, "BLOCK", 100)  # several blocks per weight
    objective = tiny_model(family)
    sketcher = sketcher_of(objective, sparsity)
    assert sketcher.describe() == {"covered": 1.0, "sparsity": sparsity, "path": "hooks"}
    fast, losses = sketch_chunks(sketcher, CHUNKS, IDS, 0, 40)
    found, expected = slow_gradients(objective)
    matrices = {name: dense_projection(name, p.numel(), sparsity, 5) for name, p in found[0].items()}
    slow = [-sum(matrices[name] @ g.flatten() for name, g in one.items()) for one in found]
    assert_rows_close(fast, torch.stack(slow).numpy())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_hooks_equal_vmap(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective = tiny_model(family)
    other = by_vmap(objective, monkeypatch)
    assert other.describe()["path"] == "vmap"
    seen, losses = sketch_chunks(sketcher_of(objective), CHUNKS, IDS, 0, 60)
    expected, slow_losses = sketch_chunks(other, CHUNKS, IDS, 0, 60)
    assert_rows_close(seen, expected)
    np.testing.assert_allclose(losses, slow_losses, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_follow_the_parameters(family: str) -> None:
    objective = tiny_model(family)
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    seen, losses = sketcher_of(objective).gradients(rows, sizes)
    found, expected = slow_gradients(objective)
    assert list(found[0]) == list(objective.parameters())
    slow = torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in found])
    assert_rows_close(seen.numpy(), slow.numpy())
    start = 0
    for name, p in objective.parameters().items():
        block = slice(start, start + p.numel())
        start = block.stop
        error = (seen[:, block] - slow[:, block]).norm(dim=1).max()
        # The scale is that of the parameter over all chunks: a chunk's gradient may vanish.
        assert error <= 2e-5 * slow[:, block].norm(dim=1).max(), name
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@given(st.permutations(range(len(CHUNKS))), st.integers(1, 80), st.integers(0, VOCAB - 1))
@settings(max_examples=6, deadline=None)
def test_batch_padding_and_order_change_nothing(
    family: str, order: list[int], batch_tokens: int, junk: int
) -> None:
    sketcher = sketcher_of(tiny_model(family))
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    beyond = torch.arange(LENGTH + 1).unsqueeze(0) > sizes.unsqueeze(1)
    whole, losses = sketcher.sketch(rows.masked_fill(beyond, junk), sizes)
    chunks, ids = [CHUNKS[i] for i in order], [IDS[i] for i in order]
    parts, part_losses = sketch_chunks(sketcher, chunks, ids, 0, batch_tokens)
    assert_rows_close(parts, whole.numpy()[order])
    np.testing.assert_allclose(part_losses, losses.numpy()[order], rtol=1e-5)


def test_the_embedding_row_of_padding_has_no_gradient(
    llama: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.model.get_input_embeddings().padding_idx = 0  # the BOS of every chunk
    seen, _ = sketch_chunks(sketcher_of(llama), CHUNKS, IDS, 0, 60)
    expected, _ = sketch_chunks(by_vmap(llama, monkeypatch), CHUNKS, IDS, 0, 60)
    assert_rows_close(seen, expected)


def test_a_batch_repeated_gives_the_same_bits(llama: CausalLM) -> None:
    """Sums have a fixed order."""
    sketcher = sketcher_of(llama)
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    first, _ = sketcher.sketch(rows, sizes)
    again, _ = sketcher.sketch(rows, sizes)
    assert torch.equal(first, again)


class Gated(nn.Module):
    """A module with a parameter of its own, used in a way that hooks know nothing about."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.gate = nn.Parameter(torch.tensor([0.3]))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layer(states) * self.gate


class Routed(nn.Module):
    """A linear layer that is given tokens without their chunks."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layer(states.flatten(0, -2)).view(*states.shape[:-1], -1)


class ShiftedNorm(nn.Module):
    """An RMSNorm whose weight is kept less one, as Gemma's."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.get_parameter("weight").detach() - 1)
        self.variance_epsilon = norm.variance_epsilon

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return (
            states
            * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.variance_epsilon)
            * (1 + self.weight)
        )


def test_unknown_modules_take_vmap(llama: CausalLM) -> None:
    block = llama.model.get_submodule("model.layers.1")
    for where, wrapper in ((block.mlp, Gated), (block.mlp, Routed)):
        plain = where.up_proj
        where.up_proj = wrapper(plain)
        check_vmap(CausalLM(llama.model))
        where.up_proj = plain
    block.input_layernorm = ShiftedNorm(block.input_layernorm)
    check_vmap(CausalLM(llama.model))


def check_vmap(objective: CausalLM) -> None:
    sketcher = sketcher_of(objective)
    assert sketcher.describe()["path"] == "vmap"
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    seen, _ = sketcher.gradients(rows, sizes)
    found, _ = slow_gradients(objective)
    assert_rows_close(
        seen.numpy(), torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in found]).numpy()
    )


def test_norms_of_heads_are_known() -> None:
    """Qwen3 normalises queries and keys head by head: its weights meet activations of four dimensions."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    shape = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=24,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    for p in model.parameters():
        p.data.add_(torch.randn_like(p) * 0.05)
    model.set_attn_implementation("eager")
    objective = CausalLM(model.eval())
    sketcher = sketcher_of(objective)
    assert sketcher.describe()["path"] == "hooks"
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    seen, _ = sketcher.gradients(rows, sizes)
    found, _ = slow_gradients(objective)
    assert_rows_close(
        seen.numpy(), torch.stack([torch.cat([g.flatten() for g in one.values()]) for one in found]).numpy()
    )


def test_half_precision_weights_are_accumulated_in_float32(llama: CausalLM) -> None:
    half = FullSketcher(llama, {n: p.bfloat16() for n, p in llama.parameters().items()}, D, 1, 5)
    coarse, _ = sketch_chunks(half, CHUNKS, IDS, 0, 100)
    fine, _ = sketch_chunks(sketcher_of(llama, 1), CHUNKS, IDS, 0, 100)
    assert_rows_close(coarse, fine, 0.05)


class Largest(TorchDispatchMode):
    """Records the largest tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, torch.Tensor):
                self.numel = max(self.numel, value.untyped_storage().nbytes() // value.element_size())
        return out


def test_gradients_are_never_held_together(llama: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "BLOCK", 100)
    sketcher = sketcher_of(llama)
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    with Largest() as seen:
        sketcher.sketch(rows, sizes)
    assert seen.numel == len(CHUNKS) * LENGTH * VOCAB  # the logits


def test_the_model_is_left_as_it_was() -> None:
    objective = tiny_model("gpt2")
    expected, _ = sketch_chunks(sketcher_of(objective), CHUNKS, IDS, 0, 60)
    for module in objective.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    objective.model.train()
    seen, _ = sketch_chunks(sketcher_of(objective), CHUNKS, IDS, 0, 60)
    np.testing.assert_array_equal(seen, expected)
    assert objective.model.training
    assert not any(module._forward_hooks for module in objective.model.modules())
    assert all(p.grad is None for p in objective.model.parameters())
