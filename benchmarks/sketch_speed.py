"""Speed of the sketchers against plain passes over the same rows, in turns within one run.

- A forward pass is the one most people write: a transformers model with its default attention (SDPA),
  `model(input_ids).logits` and `cross_entropy` of all tokens, without gradients. It is timed on the whole batch and in
  pieces of a quarter of it, which fit the caches better; the faster of the two in the median counts.
- A frozen backward pass adds the gradient to the input embeddings, no parameter requiring one: the least that any
  method pays which reads gradients inside the network.
- Contestants take turns within a round, in reverse order every second round, after one call of each that is not
  timed. A figure is the median over rounds, its interval the lowest and the highest round.
- Chunks are all of full length; batches are as the engine makes them. The engine's own cost is in the whole runs
  (`benchmarks/sketch_runs.py`).
- FLOP are 2 per token and parameter of a matrix, output layer included and table look-ups not, and 4 L H per token
  and layer for attention; twice that for `layers`, three times for `full`. Projections are not counted: that work is
  the sketcher's own cost. The peak is the best rate of a square matrix product of the same number format in any round:
  products take their turn like the contestants.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from benchmarks.published import Figure
from grasp_pipeline.config import ProxyConfig, SketchConfig
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.seeds import seed_for
from grasp_pipeline.sketch.build import build_sketcher

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SKETCH = SketchConfig.model_validate({"full_sparsity": 1})
"""The default dimensions; a count sketch of the whole gradient, the cheapest sparse projection."""
PRODUCTS = 5
"""Matrix products in a turn."""
PASSES = {"output": 1, "layers": 2, "full": 3}
"""Work of a kind, in forward passes."""


@dataclass(frozen=True)
class Shape:
    """A model, how its chunks are batched and where it runs."""

    preset: str
    vocabulary: int
    chunk_tokens: int
    batch_tokens: int
    threads: int = 2
    device: str = "cpu"

    @property
    def dtype(self) -> torch.dtype:
        """float32 on a CPU, bfloat16 elsewhere."""
        return torch.float32 if self.device == "cpu" else torch.bfloat16

    @property
    def tokens(self) -> int:
        """Tokens of one batch."""
        return max(1, self.batch_tokens // self.chunk_tokens) * self.chunk_tokens

    def rows(self) -> tuple[Tensor, Tensor]:
        """Return one batch of full chunks on the device: rows (B, L + 1) of random tokens, and sizes (B,)."""
        source = torch.Generator().manual_seed(seed_for("sketch benchmark", self.preset))
        count = self.tokens // self.chunk_tokens
        rows = torch.randint(0, self.vocabulary, (count, self.chunk_tokens + 1), generator=source)
        return rows.to(self.device), torch.full((count,), self.chunk_tokens, device=self.device)

    def objective(self) -> CausalLM:
        """Return the model at its initial weights, float32, on the device."""
        config = ProxyConfig.model_validate({"preset": self.preset})
        model = build_model(config, self.vocabulary, self.chunk_tokens)
        torch.nn.Module.to(model, device=self.device)
        return CausalLM(model)

    def plain(self) -> PreTrainedModel:
        """Return the model as plain passes take it: default attention, frozen, parameters in the number format."""
        model = self.objective().model
        model.set_attn_implementation("sdpa")
        for parameter in model.requires_grad_(False).parameters():
            parameter.data = parameter.data.to(self.dtype)
        return model


def forward(model: PreTrainedModel, rows: Tensor, pieces: int = 1) -> Tensor:
    """Return the mean loss of rows (B, L + 1) by plain forward passes over pieces of the batch."""
    losses = []
    with torch.no_grad():
        for part in rows.chunk(pieces):
            logits = model(input_ids=part[:, :-1]).logits
            losses.append(torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()))
    return torch.stack(losses).mean()


def frozen_backward(model: PreTrainedModel, rows: Tensor, pieces: int = 1) -> None:
    """Run forward and backward to the input embeddings; no parameter may require a gradient."""
    for part in rows.chunk(pieces):
        embedded = model.get_input_embeddings()(part[:, :-1]).detach().requires_grad_()
        logits = model(inputs_embeds=embedded).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten()).backward()


def forward_flop(model: PreTrainedModel, tokens: int, chunk_tokens: int) -> float:
    """Return the FLOP of one forward pass over some tokens, see the module's docstring."""
    config = model.config
    table, head = next(model.get_input_embeddings().parameters()), CausalLM(model).output_name
    looked_up = 0 if table is dict(model.named_parameters())[head] else table.numel()
    matrices = sum(p.numel() for p in model.parameters() if p.dim() >= 2) - looked_up
    attention = 4 * chunk_tokens * config.hidden_size * config.num_hidden_layers
    return tokens * (2.0 * matrices + attention)


def products(device: str, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """Return what multiplies square matrices, of 1024 on a CPU, 8192 elsewhere, and its FLOP."""
    size = 1024 if device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(PRODUCTS):
            torch.mm(a, b)

    return multiply, PRODUCTS * 2 * size**3


def seconds(call: Callable[[], object], device: str) -> float:
    """Return the seconds of a call, until the device has finished."""
    if device != "cpu":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def in_turns(calls: dict[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of every call in every round, in reverse order every second round."""
    for call in calls.values():
        seconds(call, device)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds):
        for name in calls if number % 2 == 0 else reversed(calls):
            found[name].append(seconds(calls[name], device))
    return found


@dataclass(frozen=True)
class Timing:
    """Seconds of every contestant in every round, matrix products' FLOP/s in each, and the FLOP of a forward pass."""

    shape: Shape
    rounds: dict[str, list[float]]
    peaks: list[float]
    flop: float

    def faster(self, floor: str) -> str:
        """Return the faster form of `forward` or `backward`: the whole batch or pieces of it."""
        forms = [name for name in self.rounds if name.startswith(floor)]
        return min(forms, key=lambda name: statistics.median(self.rounds[name]))

    def over(self, kind: str, floor: str) -> list[float]:
        """Return the ratio of a kind's seconds to those of `forward` or `backward` in every round."""
        pairs = zip(self.rounds[kind], self.rounds[self.faster(floor)], strict=True)
        return [a / b for a, b in pairs]

    def rates(self, name: str) -> list[float]:
        """Return tokens per second in every round."""
        return [self.shape.tokens / each for each in self.rounds[name]]

    def utilisation(self, kind: str) -> list[float]:
        """Return the share of the peak in every round."""
        return [PASSES[kind] * self.flop / each / max(self.peaks) for each in self.rounds[kind]]


def measure(shape: Shape, kinds: Sequence[str], rounds: int) -> Timing:
    """Time kinds against the passes they are over, in turns."""
    torch.set_num_threads(shape.threads)
    objective, plain = shape.objective(), shape.plain()
    rows, sizes = shape.rows()
    pieces = min(4, len(rows))
    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: forward(plain, rows),
        "forward, in pieces": lambda: forward(plain, rows, pieces),
    }
    if "layers" in kinds:
        calls["backward"] = lambda: frozen_backward(plain, rows)
        calls["backward, in pieces"] = lambda: frozen_backward(plain, rows, pieces)
    for kind in kinds:
        sketcher = build_sketcher(kind, objective, SKETCH, shape.device, shape.dtype)
        calls[kind] = lambda sketcher=sketcher: sketcher.sketch(rows, sizes)
    calls["products"], work_done = products(shape.device, shape.dtype)
    found = in_turns(calls, rounds, shape.device)
    peaks = [work_done / each for each in found.pop("products")]
    return Timing(shape, found, peaks, forward_flop(plain, shape.tokens, shape.chunk_tokens))


def over_rounds(name: str, values: Sequence[float], unit: str, goal: str = "", note: str = "") -> Figure:
    """Return the median of some rounds, with the lowest and the highest."""
    return Figure(name, statistics.median(values), unit, goal, min(values), max(values), note)


def described(timing: Timing) -> str:
    """Return what was timed, in words."""
    shape = timing.shape
    threads = f", {shape.threads} threads" if shape.device == "cpu" else ", bfloat16"
    return f"{shape.preset}, vocabulary {shape.vocabulary:,}, {shape.chunk_tokens}-token chunks{threads}"


def output_figure(name: str, timing: Timing) -> Figure:
    """Return `output`'s seconds over a forward pass."""
    note = f"64 x 64; {described(timing)}; over {timing.faster('forward')}"
    return over_rounds(name, timing.over("output", "forward"), "x", "at most 1.10", note)


def cpu_figures(timing: Timing) -> list[Figure]:
    """Return the figures of all kinds at the standard shape: ratios, rates and distances from the peak."""
    what = described(timing)
    found = [
        over_rounds(
            "sketch.layers_over_frozen_backward",
            timing.over("layers", "backward"),
            "x",
            "at most 1.03",
            f"{what}; over {timing.faster('backward')}",
        ),
        over_rounds(
            "sketch.full_over_forward",
            timing.over("full", "forward"),
            "x",
            "at most 3.4",
            f"{SKETCH.full_dim} dimensions, {SKETCH.full_sparsity} per parameter; {what}",
        ),
        over_rounds(
            "sketch.matmul_peak",
            [peak / 1e9 for peak in timing.peaks],
            "GFLOP/s",
            note="1024^3; the highest is the peak",
        ),
    ]
    for kind in PASSES:
        found.append(over_rounds(f"sketch.tokens_per_second[{kind}]", timing.rates(kind), "tokens/s"))
        shares = timing.utilisation(kind)
        found.append(over_rounds(f"sketch.flops_utilisation[{kind}]", shares, "of the peak", note=work(kind)))
    plain = timing.rates(timing.faster("forward"))
    found.append(over_rounds("sketch.tokens_per_second[forward]", plain, "tokens/s", note=what))
    return found


def work(kind: str) -> str:
    """Return the work that a kind's utilisation counts."""
    passes = PASSES[kind]
    return f"counting {passes} forward {'pass' if passes == 1 else 'passes'}"


def gpu_figures(timing: Timing) -> list[Figure]:
    """Return a GPU's figures for one shape: rates of `output` and `layers` as shares of the forward pass's."""
    preset, what = timing.shape.preset, f"{torch.cuda.get_device_name()}; {described(timing)}"
    found = []
    for kind, goal in (("output", "at least 0.85"), ("layers", "at least 0.45")):
        shares = [1 / ratio for ratio in timing.over(kind, "forward")]
        found += [
            over_rounds(f"sketch.gpu_{kind}_share[{preset}]", shares, "of the forward pass", goal, what),
            over_rounds(f"sketch.gpu_tokens_per_second[{kind}, {preset}]", timing.rates(kind), "tokens/s"),
            over_rounds(
                f"sketch.gpu_mfu[{kind}, {preset}]", timing.utilisation(kind), "of the peak", note=work(kind)
            ),
        ]
    peaks = [peak / 1e12 for peak in timing.peaks]
    return [*found, over_rounds(f"sketch.gpu_matmul_peak[{preset}]", peaks, "TFLOP/s", note="8192^3")]
