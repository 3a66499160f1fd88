"""Kind `output` against the explicit projection of its gradient, accumulated token by token in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from toys import LENGTH, VOCAB, random_pool, tiny_model

from grasp_pipeline.proxy.images import ImageClassifier
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.sketch.output import OutputSketcher, token_blocks
from grasp_pipeline.sketch.vocabulary import ErrorProjector

POOL = random_pool(17, "output")
CHUNKS = [POOL.chunk(i) for i in range(POOL.n)]
ROWS, SIZES = pad_chunks(CHUNKS, 0, LENGTH)
FAMILIES = ["gpt2", "llama", "neox", "qwen2"]


def gradient(objective: CausalLM, chunk: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The slow twin: transformers' own states and the loss's gradient by the output weight, summed over tokens."""
    model = copy.deepcopy(objective.model).double()
    tokens = torch.tensor([0, *chunk])
    with torch.no_grad():
        body = getattr(model, model.base_model_prefix)
        states = body(input_ids=tokens[None, :-1]).last_hidden_state[0]
    weight = model.get_parameter(objective.output_name).detach()
    total, loss = torch.zeros_like(weight), torch.zeros((), dtype=torch.float64)
    for state, label in zip(states, tokens[1:], strict=True):
        logits = weight @ state
        error = torch.softmax(logits, 0)
        error[label] -= 1
        total += torch.outer(error, state) / len(chunk)
        loss += torch.nn.functional.cross_entropy(logits, label) / len(chunk)
    return total, loss


def assert_is_projected_gradient(objective: CausalLM, a: int, b: int, share: float = 1e-5) -> None:
    """Every sketch equals -A'GB to a share of |G|, its expected norm, and every loss the mean cross-entropy."""
    sketcher = OutputSketcher(objective, objective.parameters(), hidden_dim=b, vocab_dim=a, seed=2)
    sketches, losses = sketcher.sketch(ROWS, SIZES)
    assert sketches.shape == (len(CHUNKS), sketcher.d)
    assert sketches.dtype == losses.dtype == torch.float32
    vocab_side, hidden_side = sketcher.vocabulary.matrix().double(), sketcher.hidden_side.double()
    for sketch, loss, chunk in zip(sketches.double(), losses.double(), CHUNKS, strict=True):
        exact, exact_loss = gradient(objective, chunk)
        expected = -(vocab_side.t() @ exact @ hidden_side).flatten()
        assert float((sketch - expected).norm()) < share * float(exact.norm())
        torch.testing.assert_close(loss, exact_loss, rtol=share, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("a", "b"), [(9, 6), (40, 99), (99, 5), (1, 1)])
def test_a_sketch_is_the_projected_output_layer_gradient(family: str, a: int, b: int) -> None:
    assert_is_projected_gradient(tiny_model(family), a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_very_large_logits_stay_finite_and_right(family: str) -> None:
    objective = tiny_model(family)
    objective.model.get_parameter(objective.output_name).data.mul_(100)
    assert_is_projected_gradient(objective, 9, 6, share=1e-3)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_batch_order_padding_and_block_sizes_change_nothing(data: st.DataObject) -> None:
    objective = tiny_model("qwen2")
    sketcher = OutputSketcher(objective, objective.parameters(), 5, 7, 0)
    whole, whole_losses = sketcher.sketch(ROWS, SIZES)
    order = torch.tensor(data.draw(st.permutations(range(len(CHUNKS)))))
    batch = data.draw(st.integers(1, len(CHUNKS)))
    tokens, logits = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 2000))
    weight = objective.output_weight(objective.parameters())
    sketcher._errors = ErrorProjector(weight, sketcher.vocabulary, tokens, logits)
    padding = data.draw(st.integers(0, 9))
    rows = torch.nn.functional.pad(ROWS, (0, padding))
    behind = torch.arange(rows.shape[1]) > SIZES.unsqueeze(1)
    rows = torch.where(behind, data.draw(st.integers(0, VOCAB - 1)), rows)
    for part in order.split(batch):
        sketches, losses = sketcher.sketch(rows[part], SIZES[part])
        atol = 1e-5 * float(whole.norm(dim=1).max())
        torch.testing.assert_close(sketches, whole[part], rtol=0, atol=atol)
        torch.testing.assert_close(losses, whole_losses[part], rtol=1e-5, atol=1e-6)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 50))
def test_token_blocks_cover_every_token_once(batch: int, length: int, most: int) -> None:
    seen = torch.zeros(batch, length)
    for chunks, positions in token_blocks(batch, length, most):
        assert 0 < seen[chunks, positions].numel() <= most
        seen[chunks, positions] += 1
    assert (seen == 1).all()


class _Largest(TorchDispatchMode):
    """Records the most elements of a tensor that an operation makes; views of what is there do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = out if isinstance(out, (tuple, list)) else (out,)
            self.elements = max([self.elements, *(t.numel() for t in made if isinstance(t, torch.Tensor))])
        return out


@pytest.mark.parametrize(("batch", "vocab_dim"), [(3, 64), (48, 64), (48, 1024)])
def test_memory_is_bounded_whatever_the_vocabulary_and_the_batch(batch: int, vocab_dim: int) -> None:
    objective = tiny_model("llama")
    source = torch.Generator().manual_seed(0)
    objective.model.resize_token_embeddings(32_000)
    objective = CausalLM(objective.model)
    sketcher = OutputSketcher(objective, objective.parameters(), 1, vocab_dim, 0)
    rows = torch.randint(0, 32_000, (batch, 33), generator=source)
    with _Largest() as largest:
        sketcher.sketch(rows, torch.full((batch,), 32))
    tokens = batch * 32
    assert 0 < largest.elements <= 2**17 + 2048 < tokens * 32_000 / 20


def test_no_operation_waits_for_the_device() -> None:
    """Nothing in a sketch reads a value back: no `.item()`, no boolean-mask indexing."""

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), (
                func
            )
            return func(*args, **(kwargs or {}))

    for family in FAMILIES:
        objective = tiny_model(family)
        sketcher = OutputSketcher(objective, objective.parameters(), 5, 7, 0)
        with Waits():
            sketches, _ = sketcher.sketch(ROWS, SIZES)
        assert torch.isfinite(sketches).all()


def test_bfloat16_is_close_to_float32() -> None:
    """Hidden states and logits in bfloat16: sketches differ by a few 2^-8, the rounding of the model itself."""
    objective = tiny_model("llama")
    exact, exact_losses = OutputSketcher(objective, objective.parameters(), 6, 9, 0).sketch(ROWS, SIZES)
    half = {name: p.bfloat16() for name, p in objective.parameters().items()}
    sketches, losses = OutputSketcher(objective, half, 6, 9, 0).sketch(ROWS, SIZES)
    assert sketches.dtype == losses.dtype == torch.float32
    errors = (sketches - exact).norm(dim=1) / exact.norm(dim=1)
    assert 1e-4 < float(errors.max()) < 8 * 2**-8
    torch.testing.assert_close(losses, exact_losses, rtol=8 * 2**-8, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_attention_is_the_models_own(family: str) -> None:
    """Outside of torch.func hidden states come from fused attention; under vmap from the model's own and a mask."""
    objective = tiny_model(family)
    parameters, inputs = objective.parameters(), ROWS[:, :-1]
    before = objective.model.config._attn_implementation
    fused = objective.hidden(parameters, inputs)
    mapped = torch.func.vmap(lambda row: objective.hidden(parameters, row[None])[0])(inputs)
    torch.testing.assert_close(fused, mapped, rtol=1e-5, atol=1e-5)
    for row, size, states in zip(inputs, SIZES, fused, strict=True):
        body = getattr(objective.model, objective.model.base_model_prefix)
        alone = body(input_ids=row[None, :size]).last_hidden_state[0]
        torch.testing.assert_close(states[:size], alone, rtol=1e-5, atol=1e-5)
    assert objective.model.config._attn_implementation == before


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", True), ("gpt2", True), ("neox", False), ("qwen2", False)]
)
def test_description_of_a_language_model(family: str, tied: bool) -> None:
    objective = tiny_model(family)
    described = OutputSketcher(objective, objective.parameters(), 6, 99, 0).describe()
    total = sum(p.numel() for p in objective.model.parameters())
    assert described.pop("covered") == pytest.approx(VOCAB * 16 / total)
    assert described == {"dimensions": [VOCAB, 6], "tied": tied, "projection": "count sketch x signs"}


def test_description_of_an_image_classifier() -> None:
    classifier = ImageClassifier(np.zeros((2, 1, 8, 8), np.float32), classes=3)
    described = OutputSketcher(classifier, classifier.parameters(), 6, 3, 0).describe()
    assert described["dimensions"] == [3, 6]
    assert described["tied"] is False
