"""Per-example gradients, by hooks and by vmap, against a loop of backward(), parameter by parameter."""

from __future__ import annotations

import pytest
import torch
from toys import LENGTH, random_pool

from grasp_pipeline.proxy.objective import CausalLM, Parameters, pad_chunks
from grasp_pipeline.sketch import full
from grasp_pipeline.sketch.full import FullSketcher

POOL = random_pool(9, "gradients")
CHUNKS = [POOL.chunk(i) for i in range(POOL.n)]
ROWS, SIZES = pad_chunks(CHUNKS, 0, LENGTH)


@pytest.fixture(autouse=True, params=["hooks", "vmap"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "vmap":
        monkeypatch.setattr(full, "known_modules", lambda objective, parameters: None)
    return request.param


def fast(
    objective: CausalLM, rows: torch.Tensor, sizes: torch.Tensor, parameters: Parameters | None = None
) -> tuple[Parameters, torch.Tensor]:
    """Gradients of mean token losses, name -> (B, ...), and the losses (B,), as the sketcher takes them."""
    parameters = objective.parameters() if parameters is None else parameters
    found, losses = FullSketcher(objective, parameters, d=8, sparsity=1, seed=0).gradients(rows, sizes)
    parts = found.split([p.numel() for p in parameters.values()], dim=1)
    return {
        name: part.view(len(rows), *p.shape)
        for (name, p), part in zip(parameters.items(), parts, strict=True)
    }, losses


def test_the_path_is_as_asked(llama: CausalLM, path: str) -> None:
    assert FullSketcher(llama, llama.parameters(), 8, 1, 0).describe()["path"] == path


def slow(objective: CausalLM, chunk: list[int]) -> tuple[Parameters, torch.Tensor]:
    """The same for one chunk by backward() of transformers' own logits, without padding."""
    model = objective.model
    model.zero_grad()
    tokens = torch.tensor([[0, *chunk]])
    loss = torch.nn.functional.cross_entropy(model(input_ids=tokens[:, :-1]).logits[0], tokens[0, 1:])
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, loss.detach()


def test_every_gradient_of_every_example_equals_backward(objective: CausalLM) -> None:
    gradients, losses = fast(objective, ROWS, SIZES)
    for index, chunk in enumerate(CHUNKS):
        expected, loss = slow(objective, chunk)
        torch.testing.assert_close(losses[index], loss, rtol=1e-5, atol=1e-6)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            scale = float(gradient.abs().max())
            torch.testing.assert_close(
                gradients[name][index],
                gradient,
                rtol=1e-4,
                atol=1e-5 * scale + 1e-8,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def test_padding_and_neighbours_in_the_batch_change_nothing(objective: CausalLM) -> None:
    together, _ = fast(objective, ROWS, SIZES)
    junk = ROWS.clone()
    for row, size in zip(junk, SIZES, strict=True):
        row[size + 1 :] = 7
    padded, _ = fast(objective, junk, SIZES)
    for index in range(len(CHUNKS)):
        alone, _ = fast(objective, ROWS[index : index + 1], SIZES[index : index + 1])
        for name, gradient in together.items():
            torch.testing.assert_close(padded[name][index], gradient[index], rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(alone[name][0], gradient[index], rtol=1e-4, atol=1e-6)


def test_a_gradient_is_the_slope_of_the_loss(llama: CausalLM) -> None:
    """Central differences along a random direction, in double precision."""
    parameters = {name: p.double() for name, p in llama.parameters().items()}
    gradients, _ = fast(llama, ROWS, SIZES, parameters)
    source = torch.Generator().manual_seed(0)
    direction = {
        name: torch.randn(p.shape, generator=source, dtype=p.dtype) for name, p in parameters.items()
    }
    step = 1e-4
    losses = [
        fast(llama, ROWS, SIZES, {name: p + sign * step * direction[name] for name, p in parameters.items()})[
            1
        ]
        for sign in (1, -1)
    ]
    slopes = sum((gradients[name] * direction[name]).flatten(1).sum(1) for name in parameters)
    # Losses come in single precision: their rounding, over 2 step, bounds the error.
    torch.testing.assert_close((losses[0] - losses[1]).double() / (2 * step), slopes, rtol=1e-2, atol=1e-2)
