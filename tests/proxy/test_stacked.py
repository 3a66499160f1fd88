"""The stacked retrainer against plain transformers and torch, by group size, device and number format."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from toys import LENGTH, VOCAB, random_pool, tiny_model

from benchmarks import retraining
from benchmarks.published import README
from grasp_pipeline.proxy.objective import CausalLM, Parameters, pad_chunks
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.proxy.retrain import Job, retrain
from grasp_pipeline.proxy.training import Recipe, train_stacked, unstack

RECIPE = Recipe(
    steps=20,
    batch_sequences=2,
    chunk_tokens=LENGTH,
    learning_rate=5e-3,
    warmup_fraction=0.1,
    weight_decay=0.1,
    clip_norm=0.5,
)
MODELS = 4
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")),
]


@pytest.fixture(params=["llama", "gpt2"])
def family(request: pytest.FixtureRequest) -> CausalLM:
    return tiny_model(request.param)


def rows_of(model: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(model)
    return torch.randint(0, VOCAB, (RECIPE.rows, LENGTH + 1), generator=source)


def train(
    objective: CausalLM, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Parameters, torch.Tensor]:
    """Train stacked; returns parameters and losses (K, steps)."""
    losses = []
    weights = train_stacked(
        objective,
        objective.parameters(),
        [rows_of(k) for k in range(MODELS)],
        RECIPE,
        [str(k) for k in range(MODELS)],
        device,
        lambda _, loss, __: losses.append(loss.clone()),
        dtype,
    )
    return weights, torch.stack(losses, dim=1)


def train_plainly(objective: CausalLM, rows: torch.Tensor) -> tuple[Parameters, torch.Tensor]:
    """The slow twin: transformers' attention and loss from labels, torch's clipping and AdamW, one model."""
    model = copy.deepcopy(objective.model)
    model.set_attn_implementation("sdpa")
    named = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p], "weight_decay": RECIPE.weight_decay if p.dim() >= 2 else 0.0}
            for p in named.values()
        ],
        betas=(0.9, 0.95),
    )
    losses = []
    for step, batch in enumerate(rows.split(RECIPE.batch_sequences)):
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.rate(step)
        model.zero_grad()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip_norm)
        optimizer.step()
        losses.append(loss.detach())
    return {name: p.detach() for name, p in named.items()}, torch.stack(losses)


def without_key_bias(name: str, value: torch.Tensor) -> torch.Tensor:
    """Drop GPT-2's key biases: their true gradient is 0, Adam blows its rounding up, no output depends on them."""
    if not name.endswith("c_attn.bias"):
        return value
    queries, _, values = value.chunk(3)
    return torch.cat([queries, values])


def test_stacked_models_are_those_of_plain_training(family: CausalLM) -> None:
    """Float32: losses to 1e-5 nats in every step, weights to 1e-4 where training moves them by 2e-2 and more."""
    stacked, losses = train(family)
    initial = family.parameters()
    for k in range(MODELS):
        slow, slow_losses = train_plainly(family, rows_of(k))
        torch.testing.assert_close(losses[k], slow_losses, rtol=0, atol=1e-5)
        for name, value in unstack(stacked, k).items():
            fast, plain = without_key_bias(name, value), without_key_bias(name, slow[name])
            assert (slow[name] - initial[name]).abs().max() > 0.02
            torch.testing.assert_close(fast, plain, rtol=0, atol=1e-4)


def test_groups_of_different_sizes_give_the_same_utilities(family: CausalLM) -> None:
    pool = random_pool(40)
    held = pad_chunks([pool.chunk(i) for i in range(8)], 0, LENGTH)
    jobs = [Job(f"s{i}", np.arange(i, 20 + i, dtype=np.int64), i) for i in range(5)]

    def utilities(group: int) -> np.ndarray:
        outcomes = retrain(family, family.parameters(), TextStream(pool, 0), jobs, RECIPE, held, group)
        return -np.stack([outcome.chunk_losses.sum() for outcome in outcomes]) / int(held[1].sum())

    together = utilities(5)
    assert np.ptp(together) > 1e-3
    for group in (1, 2, 3, 8):
        np.testing.assert_allclose(utilities(group), together, rtol=0, atol=1e-5)


class Products(TorchDispatchMode):
    """Collects the types of the blocks' batched products, forward and backward (the output layer's are not batched)."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm):
            self.dtypes.add(out.dtype)
        return out


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_blocks_stay_close_to_float32(family: CausalLM, device: str) -> None:
    """Losses to 1% in every step; the blocks really multiply in bfloat16, and the weights stay float32."""
    with Products() as products:
        _, exact = train(family, device)
    assert products.dtypes == {torch.float32}
    with Products() as products:
        weights, losses = train(family, device, torch.bfloat16)
    assert products.dtypes == {torch.bfloat16}
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, exact, rtol=1e-2, atol=0)
    assert not torch.equal(losses, exact)


@pytest.mark.parametrize("device", ["meta", *DEVICES])
def test_nothing_of_a_model_stays_behind_on_the_cpu(family: CausalLM, device: str) -> None:
    """The objective's module stays where it is; only parameters and inputs are moved."""
    weights = {name: p.to(device) for name, p in family.parameters().items()}
    hidden = family.hidden(weights, rows_of(0)[:2, :-1].to(device))
    assert hidden.device.type == family.output_weight(weights).device.type == device


@pytest.mark.parametrize("setting", [retraining.SETTINGS[""], retraining.SETTINGS["_gpt2_batch8"]], ids=str)
def test_the_benchmark_compares_equal_work(setting: retraining.Setting) -> None:
    objective, recipe = retraining.proxy(setting.preset), setting.recipe(6)
    rows = [retraining.draw_rows(setting, model, recipe) for model in range(2)]
    losses = []
    stacked = train_stacked(
        objective,
        objective.parameters(),
        rows,
        recipe,
        ["a", "b"],
        on_step=lambda _, loss, __: losses.append(loss),
    )
    for k in range(2):
        model = copy.deepcopy(objective.model)
        model.set_attn_implementation("sdpa")
        plain = torch.stack(retraining.train_plain(model, rows[k], recipe))
        torch.testing.assert_close(torch.stack(losses)[:, k], plain, rtol=0, atol=1e-4)
        for name, p in model.named_parameters():
            fast, slow = without_key_bias(name, stacked[name][k]), without_key_bias(name, p.detach())
            torch.testing.assert_close(fast, slow, rtol=0, atol=1e-3)


def test_the_benchmark_runs_and_a_quick_run_stores_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = README.read_text()
    retraining.main(["--quick"])
    printed = capsys.readouterr().out
    for name in ("speedup", "speedup_batch8", "speedup_gpt2", "share_of_peak"):
        assert f"retrain.{name}: " in printed
    assert README.read_text() == before
