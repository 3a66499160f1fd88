"""Kind `layers` against the projection of gradients that backward() materialises, one chunk at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from toys import LENGTH, VOCAB, random_pool, tiny_model
from transformers.pytorch_utils import Conv1D

from grasp_pipeline.config import SketchConfig
from grasp_pipeline.errors import ConfigError, TrainingError
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.sketch import layers
from grasp_pipeline.sketch.build import build_sketcher
from grasp_pipeline.sketch.layers import LayersSketcher
from grasp_pipeline.sketch.run import sketch_chunks

POOL = random_pool(17, "layers")
CHUNKS = [POOL.chunk(i) for i in range(POOL.n)]
IDS = [f"c{i}" for i in range(POOL.n)]
FAMILIES = ["llama", "gpt2", "neox", "qwen2"]


def sketcher_of(
    objective: CausalLM, input_dim: int = 5, output_dim: int = 6, seed: int = 1
) -> LayersSketcher:
    return LayersSketcher(objective, objective.parameters(), input_dim, output_dim, seed)


def layer_gradients(objective: CausalLM) -> Iterator[tuple[dict[str, torch.Tensor], float]]:
    """The slow twin: per chunk, float64 gradients (out, in), a bias as last column, of an untied copy; and losses."""
    model = copy.deepcopy(objective.model).double()
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone())
    for chunk in CHUNKS:
        model.zero_grad()
        rows, _ = pad_chunks([chunk], 0, LENGTH)
        logits = model(input_ids=rows[:, : len(chunk)]).logits[0]
        loss = nn.functional.cross_entropy(logits, rows[0, 1 : len(chunk) + 1])
        loss.backward()
        found = {}
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear | Conv1D | nn.Embedding):
                weight = module.weight.grad
                found[name] = weight if isinstance(module, nn.Linear) else weight.t()
                if getattr(module, "bias", None) is not None:
                    found[name] = torch.cat([found[name], module.bias.grad.unsqueeze(1)], dim=1)
        yield found, loss.item()


def projected_gradients(objective: CausalLM, sketcher: LayersSketcher) -> tuple[NDArray, list[float]]:
    """Minus A' G B of every layer, in the order of its blocks, (n, d) float64; and losses."""
    sketches, losses = np.full((len(CHUNKS), sketcher.d), np.nan), []
    for index, (found, loss) in enumerate(layer_gradients(objective)):
        assert set(found) == set(sketcher.blocks)
        for name, gradient in found.items():
            left, right = (side.double() for side in sketcher.projections[name])
            sketches[index, sketcher.blocks[name]] = -(left.t() @ gradient @ right).flatten().numpy()
        losses.append(loss)
    return sketches, losses


@pytest.mark.parametrize("dims", [(5, 6), (999, 999)], ids=["projected", "identity"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_projected_gradients(family: str, dims: tuple[int, int]) -> None:
    objective = tiny_model(family)
    sketcher = sketcher_of(objective, *dims)
    fast, losses = sketch_chunks(sketcher, CHUNKS, IDS, 0, 40)
    slow, expected = projected_gradients(objective, sketcher)
    for name, block in sketcher.blocks.items():
        error = np.linalg.norm(fast[:, block] - slow[:, block], axis=1)
        # A chunk of one token has exactly zero gradient by queries and keys: the scale is that of the layer.
        assert error.max() <= 1e-5 * np.linalg.norm(slow[:, block], axis=1).max(), name
    whole = np.linalg.norm(fast - slow, axis=1)
    assert (whole <= 1e-5 * np.linalg.norm(slow, axis=1)).all()
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_sketches_do_not_depend_on_batch_padding_or_order(family: str) -> None:
    sketcher = sketcher_of(tiny_model(family))
    whole, whole_losses = sketch_chunks(sketcher, CHUNKS, IDS, 0, 10_000)
    order = np.random.default_rng(3).permutation(len(CHUNKS))
    for batch in (1, 13, 60):
        parts, losses = sketch_chunks(sketcher, [CHUNKS[i] for i in order], [IDS[i] for i in order], 0, batch)
        np.testing.assert_allclose(parts, whole[order], rtol=1e-4, atol=1e-6 * np.abs(whole).max())
        np.testing.assert_allclose(losses, whole_losses[order], rtol=1e-5)
    rows, sizes = pad_chunks(CHUNKS, 0, LENGTH)
    beyond = torch.arange(LENGTH + 1).unsqueeze(0) > sizes.unsqueeze(1)
    other, _ = sketcher.sketch(rows.masked_fill(beyond, 7), sizes)
    np.testing.assert_allclose(other.numpy(), whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_logits_in_pieces_change_nothing(llama: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    sketcher = sketcher_of(llama)
    whole, _ = sketch_chunks(sketcher, CHUNKS, IDS, 0, 10_000)
    monkeypatch.setattr(layers, "block_tokens", lambda vocabulary: 7)
    pieces, _ = sketch_chunks(sketcher_of(llama), CHUNKS, IDS, 0, 10_000)
    np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_dropout_is_off_and_the_model_is_left_as_it_was() -> None:
    objective = tiny_model("gpt2")
    expected, _ = sketch_chunks(sketcher_of(objective), CHUNKS, IDS, 0, 50)
    for module in objective.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    objective.model.train()
    with torch.no_grad():
        seen, _ = sketch_chunks(sketcher_of(objective), CHUNKS, IDS, 0, 50)
    np.testing.assert_array_equal(seen, expected)
    assert objective.model.training
    assert not any(module._forward_hooks for module in objective.model.modules())
    assert all(p.grad is None for p in objective.model.parameters())


def test_blocks_follow_each_other(objective: CausalLM) -> None:
    sketcher = sketcher_of(objective)
    edges = [(block.start, block.stop) for block in sketcher.blocks.values()]
    assert [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])]
    assert edges[-1][1] == sketcher.d
    for name, (left, right) in sketcher.projections.items():
        block = sketcher.blocks[name]
        assert block.stop - block.start == left.shape[1] * right.shape[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_coverage_names_what_is_skipped(family: str) -> None:
    coverage = sketcher_of(tiny_model(family)).coverage
    assert coverage["covered"] + sum(coverage["skipped"].values()) == pytest.approx(1.0)
    assert coverage["covered"] > 0.9
    assert all("norm" in name or "ln_" in name for name in coverage["skipped"])
    assert len(coverage["skipped"]) == {"llama": 5, "gpt2": 10, "neox": 10, "qwen2": 5}[family]


def test_the_embedding_row_of_padding_has_no_gradient(llama: CausalLM) -> None:
    llama.model.get_input_embeddings().padding_idx = 0  # the BOS of every chunk
    sketcher = sketcher_of(llama)
    fast, _ = sketch_chunks(sketcher, CHUNKS, IDS, 0, 50)
    slow, _ = projected_gradients(llama, sketcher)
    assert (np.linalg.norm(fast - slow, axis=1) <= 1e-5 * np.linalg.norm(slow, axis=1)).all()


def test_fused_experts_are_refused() -> None:
    from transformers import AutoModelForCausalLM, MixtralConfig

    shape = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        num_local_experts=2,
    )
    objective = CausalLM(AutoModelForCausalLM.from_config(shape).eval())
    with pytest.raises(ConfigError, match=r"model\.layers\.0\.mlp\.experts \(MixtralExperts\).*dense proxy"):
        sketcher_of(objective)


class Routed(nn.Module):
    """An expert as its own linear layer, given tokens without their chunks."""

    def __init__(self, expert: nn.Module) -> None:
        super().__init__()
        self.expert = expert

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.expert(states.flatten(0, 1)).view(*states.shape[:2], -1)


def test_tokens_without_their_chunks_are_refused(llama: CausalLM) -> None:
    mlp = llama.model.get_submodule("model.layers.1.mlp")
    mlp.up_proj = Routed(mlp.up_proj)
    with pytest.raises(
        ConfigError, match=r"model\.layers\.1\.mlp\.up_proj\.expert gives .*cannot tell chunks"
    ):
        sketch_chunks(sketcher_of(llama), CHUNKS, IDS, 0, 50)


class Twice(nn.Module):
    """A layer applied to two inputs in one forward pass."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.layer(states) * self.layer(states.sin())


def test_a_layer_applied_twice_adds_up(llama: CausalLM) -> None:
    mlp = llama.model.get_submodule("model.layers.0.mlp")
    mlp.up_proj = Twice(mlp.up_proj)
    sketcher = sketcher_of(llama)
    fast, _ = sketch_chunks(sketcher, CHUNKS, IDS, 0, 50)
    slow, _ = projected_gradients(llama, sketcher)
    assert (np.linalg.norm(fast - slow, axis=1) <= 1e-5 * np.linalg.norm(slow, axis=1)).all()


def test_a_nan_names_the_chunk(llama: CausalLM) -> None:
    broken = {name: p.clone() for name, p in llama.parameters().items()}
    broken["model.layers.1.mlp.up_proj.weight"][0] = float("nan")
    with pytest.raises(TrainingError, match=r"the layers sketch of chunk c\d+ is not finite"):
        sketch_chunks(LayersSketcher(llama, broken, 4, 4, 0), CHUNKS, IDS, 0, 1000)


def test_inner_products_are_unbiased_over_seeds(llama: CausalLM) -> None:
    exact = np.stack(
        [torch.cat([g.flatten() for g in found.values()]) for found, _ in layer_gradients(llama)]
    )
    true = exact @ exact.T
    scale = np.sqrt(np.outer(np.diag(true), np.diag(true)))
    products = []
    for seed in range(40):
        sketches, _ = sketch_chunks(sketcher_of(llama, 8, 8, seed), CHUNKS, IDS, 0, 300)
        products.append((sketches.astype(np.float64) @ sketches.T - true) / scale)
    errors = np.stack(products)
    assert np.abs(errors).mean() < 0.1
    standard_error = errors.std(axis=0, ddof=1) / len(errors) ** 0.5
    assert np.abs(errors.mean(axis=0)).max() < 0.1
    assert (np.abs(errors.mean(axis=0)) < 5 * standard_error).all()


def test_the_configuration_builds_it(llama: CausalLM) -> None:
    config = SketchConfig.model_validate({"kinds": ["layers"], "layers_input_dim": 3, "layers_output_dim": 2})
    sketcher = build_sketcher("layers", llama, config)
    assert isinstance(sketcher, LayersSketcher)
    assert (sketcher.kind, sketcher.d) == ("layers", 16 * 6)


def test_describe_says_what_is_sketched(objective: CausalLM) -> None:
    sketcher = sketcher_of(objective)
    told = sketcher.describe()
    assert list(told["blocks"]) == list(sketcher.blocks)
    for name, (left, right) in told["blocks"].items():
        assert left * right == sketcher.blocks[name].stop - sketcher.blocks[name].start
    assert {"covered": told["covered"], "skipped": told["skipped"]} == sketcher.coverage
    assert told["tied"] == (objective.model.config.model_type != "gpt_neox")
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_weights_cost_what_the_docstring_says(family: str) -> None:
    objective = tiny_model(family)
    fine, _ = sketch_chunks(sketcher_of(objective), CHUNKS, IDS, 0, 100)
    parameters = {name: p.bfloat16() for name, p in objective.parameters().items()}
    half = LayersSketcher(objective, parameters, 5, 6, 1)
    coarse, _ = sketch_chunks(half, CHUNKS, IDS, 0, 100)
    error = np.linalg.norm(coarse - fine, axis=1) / np.linalg.norm(fine, axis=1)
    assert error.max() < 0.05
    # The products are accumulated in float32: rounding every projection to bfloat16 would show in whole sketches.
    assert coarse.dtype == np.float32
    assert not np.array_equal(coarse, torch.from_numpy(coarse).bfloat16().float().numpy())


class Made(TorchDispatchMode):
    """Records the shapes of all tensors that operators return."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else [made]:
            if isinstance(value, torch.Tensor):
                self.shapes.add(tuple(value.shape))
        return made


@pytest.mark.parametrize("family", FAMILIES)
def test_no_weight_gradient_is_formed(family: str) -> None:
    objective = tiny_model(family)
    sketcher = sketcher_of(objective)
    # Lengths and batch that are no size of the model, so that a weight's shape cannot turn up by chance.
    rows, sizes = pad_chunks([chunk for chunk in CHUNKS if len(chunk) < 8], 0, 7)
    with Made() as made:
        sketcher.sketch(rows, sizes)
    weights = {tuple(p.shape) for p in objective.model.parameters() if p.ndim > 1}
    for shape in weights:
        for one in (shape, shape[::-1]):
            assert (len(rows), *one) not in made.shapes
    # Any product of the size of a weight or more would have to be one of the model's own activations.
    operators = {shape for shape in made.shapes if len(shape) == 3 and shape[0] == len(rows)}
    assert all(rows.shape[1] - 1 in shape or shape[1] <= 6 for shape in operators)


def test_layers_that_read_one_tensor_share_a_product(llama: CausalLM) -> None:
    sketcher = sketcher_of(llama)
    groups = {tuple(inputs.rows) for inputs in sketcher._inputs.values()}
    names = [f"model.layers.{i}." for i in range(2)]
    assert groups == {
        tuple(f"{at}{layer}_proj" for layer in layers)
        for at in names
        for layers in (
            ("self_attn.q", "self_attn.k", "self_attn.v"),
            ("self_attn.o",),
            ("mlp.gate", "mlp.up"),
            ("mlp.down",),
        )
    }
