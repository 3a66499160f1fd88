"""Retraining throughput: models per minute of the stacked retrainer against one model at a time.

python -m benchmarks.retraining [--steps N] [--models K [K ...]] [--rounds R] [--quick]

What makes the comparison fair:

- One at a time is the loop that most people write: a transformers model with its default attention (SDPA), the
  cross-entropy of its logits, `clip_grad_norm_` and `torch.optim.AdamW` as they come. It computes no position whose
  loss is not used, and never waits for a loss to be printed. `tests/proxy/test_stacked.py` holds its losses and
  weights to those of the stacked trainer: both do the same work.
- Every way may use two cores: one process with two threads, or two processes with one each, as the laboratory runs
  its cells. Two processes start each training together, at a barrier; the slower one's seconds count. One at a time is
  measured with one thread too, and the faster of the two is what `retrain.speedup` is over; against one at a time in
  two processes there is a figure of its own.
- Ways take turns within a round, in reverse order every second round; a figure is the median over rounds, a ratio is
  taken within each round, and its interval is the lowest and the highest round. The best stacked way is the one with
  the most models per minute in the median.
- A timed training is a slice: `--steps` steps of 2 sequences, as many tokens at 8, and from 4 stacked models on a
  total of 4 `--steps` model steps. Building the model, the rows and the first steps of the process are not timed.
  Every step costs the same, so a slice gives the rate of a whole retraining of `MODEL_TOKENS` tokens; the held-out
  evaluation is left out of all ways.
- FLOP are 6 per token and parameter of a matrix, as usual; attention's own products are not counted. The peak is that
  of a 1024 x 1024 x 1024 float32 product with two threads, measured in every round.
"""

from __future__ import annotations

import argparse
import copy
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.published import Figure, results_folder, save
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.training import Recipe, train_stacked
from grasp_pipeline.seeds import seed_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel

THREADS = 2
VOCABULARY, CHUNK_TOKENS = 512, 64
MODEL_TOKENS = 64_000
"""Training tokens of one subset model, as in config/demo.yaml."""

PRODUCTS = {"aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm"}


@dataclass(frozen=True)
class Setting:
    """What is trained: the proxy's preset and the sequences per step."""

    preset: str
    batch_sequences: int

    def recipe(self, steps: int) -> Recipe:
        """Return the default recipe for some steps."""
        config = ProxyConfig(batch_sequences=self.batch_sequences)
        return Recipe.from_config(config, CHUNK_TOKENS, steps * self.batch_sequences * CHUNK_TOKENS)


DEFAULT = Setting("tiny", ProxyConfig().batch_sequences)
SETTINGS = {
    "": DEFAULT,
    "_batch8": Setting("tiny", 8),
    "_gpt2": Setting("gpt2-tiny", DEFAULT.batch_sequences),
    "_gpt2_batch8": Setting("gpt2-tiny", 8),
}
"""By the ending of their figures' names."""


@dataclass(frozen=True)
class Way:
    """How models are trained: `stacked` at a time (0: the plain loop), with `threads` in each process."""

    stacked: int
    processes: int
    threads: int

    @property
    def models(self) -> int:
        """Models trained together."""
        return max(1, self.stacked) * self.processes

    @property
    def name(self) -> str:
        """The way in words."""
        what = f"{self.stacked} stacked" if self.stacked else "one at a time"
        if self.processes == THREADS:
            return f"{what} in each of two processes"
        return what if self.threads == THREADS else f"{what}, one thread"

    def steps(self, setting: Setting, steps: int) -> int:
        """Steps of a timed training, see the module's docstring."""
        share = DEFAULT.batch_sequences / setting.batch_sequences * min(1.0, 4 / max(1, self.stacked))
        return max(2, round(steps * share))


ALONE = [Way(0, 1, THREADS), Way(0, 1, 1)]
ALONE_TWICE = Way(0, THREADS, 1)


def ways(sizes: Sequence[int]) -> list[Way]:
    """Return all ways for some stack sizes."""
    one, two = [Way(size, 1, THREADS) for size in [1, *sizes]], [Way(size, THREADS, 1) for size in sizes]
    return [*ALONE, ALONE_TWICE, *one, *two]


def train_plain(model: PreTrainedModel, rows: Tensor, recipe: Recipe) -> list[Tensor]:
    """Train one transformers model the ordinary way, in place.

    Args:
        model: at its initial weights, without dropout.
        rows: (recipe.rows, L + 1) token ids.
        recipe: optimiser and schedule.

    Returns:
        Loss of every step.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.95),
    )
    losses = []
    for step in range(recipe.steps):
        batch = rows[step * recipe.batch_sequences : (step + 1) * recipe.batch_sequences]
        logits = model(input_ids=batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        losses.append(loss.detach())
    return losses


@functools.cache
def proxy(preset: str) -> CausalLM:
    """Return a proxy at its initial weights, which nobody changes."""
    return CausalLM(build_model(ProxyConfig.model_validate({"preset": preset}), VOCABULARY, CHUNK_TOKENS))


def multiplied(objective: CausalLM) -> int:
    """Parameters that every token is multiplied by: matrices, but not GPT-2's table of positions."""
    return sum(p.numel() for name, p in objective.parameters().items() if p.dim() >= 2 and "wpe" not in name)


def draw_rows(setting: Setting, model: int, recipe: Recipe) -> Tensor:
    """Return a model's training rows: random tokens, since no token changes what a step costs."""
    source = torch.Generator().manual_seed(seed_for("benchmark", setting.preset, model))
    return torch.randint(0, VOCABULARY, (recipe.rows, recipe.chunk_tokens + 1), generator=source)


def prepare(setting: Setting, way: Way, steps: int) -> Callable[[], object]:
    """Return one process's training of a way, all set to start."""
    objective, recipe = proxy(setting.preset), setting.recipe(steps)
    rows = [draw_rows(setting, model, recipe) for model in range(max(1, way.stacked))]
    if way.stacked == 0:
        model = copy.deepcopy(objective.model)
        model.set_attn_implementation("sdpa")
        return lambda: train_plain(model, rows[0], recipe)
    names = [f"model {index}" for index in range(way.stacked)]
    return lambda: train_stacked(objective, objective.parameters(), rows, recipe, names)


def timed(setting: Setting, way: Way, steps: int, start: Callable[[], object] = lambda: None) -> float:
    """Return the seconds of one process's training; `start` is called when all is set, a warm-up included."""
    torch.set_num_threads(way.threads)
    prepare(setting, way, 2)()
    training = prepare(setting, way, steps)
    start()
    begun = time.perf_counter()
    training()
    return time.perf_counter() - begun


def _work(requests: Connection, barrier: Barrier) -> None:
    while True:
        try:
            setting, way, steps = requests.recv()
        except EOFError:
            return
        requests.send(timed(setting, way, steps, barrier.wait))


class Workers(AbstractContextManager["Workers"]):
    """Two processes of one thread each, which sleep while nothing is asked of them."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._barrier = context.Barrier(THREADS, timeout=300)
        self._processes, self._requests = [], []
        for _ in range(THREADS):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, self._barrier), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._requests.append(here)

    def timed(self, setting: Setting, way: Way, steps: int) -> float:
        """Return the seconds of the slower of the two, started together."""
        for request in self._requests:
            request.send((setting, way, steps))
        return max(request.recv() for request in self._requests)

    def __exit__(self, *_: object) -> None:
        for request in self._requests:
            request.close()
        for process in self._processes:
            process.join(timeout=10)
            # A signal that the parent ignores is ignored by its children too, so SIGTERM may not end them.
            process.kill()
            process.join()


def matmul_peak() -> float:
    """Return the GFLOP/s of a 1024 x 1024 x 1024 float32 product, the best of five."""
    torch.set_num_threads(THREADS)
    size = 1024
    a, b = torch.randn(size, size), torch.randn(size, size)
    seconds = []
    for _ in range(6):
        begun = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds[1:]) / 1e9


@dataclass(frozen=True)
class Rounds:
    """What was measured: models per minute by setting and way, and the matmul peak in GFLOP/s, one per round."""

    rates: dict[tuple[Setting, Way], list[float]]
    peaks: list[float]

    def median(self, setting: Setting, way: Way) -> float:
        """Models per minute."""
        return statistics.median(self.rates[setting, way])

    def best(self, setting: Setting) -> Way:
        """Return the fastest stacked way."""
        stacked = [way for where, way in self.rates if where == setting and way.stacked > 1]
        return max(stacked, key=lambda way: self.median(setting, way))

    def alone(self, setting: Setting) -> Way:
        """Return the faster of the ways to train one at a time in one process."""
        return max(ALONE, key=lambda way: self.median(setting, way))

    def ratios(self, setting: Setting, way: Way, other: Way) -> list[float]:
        """Return the ratio of two ways in every round."""
        pairs = zip(self.rates[setting, way], self.rates[setting, other], strict=True)
        return [a / b for a, b in pairs]

    def gflops(self, setting: Setting, way: Way) -> list[float]:
        """Return the rate of a way in every round."""
        each = 6 * multiplied(proxy(setting.preset)) * MODEL_TOKENS / 60 / 1e9
        return [rate * each for rate in self.rates[setting, way]]

    def shares(self, setting: Setting, way: Way) -> list[float]:
        """Return a way's share of the matmul peak in every round."""
        return [rate / peak for rate, peak in zip(self.gflops(setting, way), self.peaks, strict=True)]


def measure(settings: Sequence[Setting], sizes: Sequence[int], steps: int, rounds: int) -> Rounds:
    """Time every way in every setting, in turns."""
    turns = [(setting, way) for setting in settings for way in ways(sizes)]
    measured = Rounds({turn: [] for turn in turns}, [])
    with Workers() as workers:
        for number in range(rounds):
            measured.peaks.append(matmul_peak())
            for setting, way in turns if number % 2 == 0 else reversed(turns):
                count = way.steps(setting, steps)
                seconds = (workers.timed if way.processes == THREADS else timed)(setting, way, count)
                tokens = way.models * setting.recipe(count).tokens
                measured.rates[setting, way].append(60 * tokens / MODEL_TOKENS / seconds)
            print(f"round {number + 1} of {rounds} done", flush=True)
    return measured


def products(setting: Setting, stacked: int, steps: int) -> tuple[float, float]:
    """Profile a stacked training; returns matrix products' share of the time and the GFLOP/s inside them."""
    way = Way(stacked, 1, THREADS)
    torch.set_num_threads(way.threads)
    prepare(setting, way, 2)()
    training = prepare(setting, way, steps)
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as profiler:
        training()
    events = profiler.key_averages()
    inside = [event for event in events if event.key in PRODUCTS]
    total = sum(event.self_cpu_time_total for event in events)
    microseconds = sum(event.self_cpu_time_total for event in inside)
    return microseconds / total, sum(event.flops for event in inside) / microseconds / 1e3


def over_rounds(name: str, values: Sequence[float], unit: str, goal: str = "", note: str = "") -> Figure:
    """Return the median of some rounds, with the lowest and the highest."""
    return Figure(name, statistics.median(values), unit, goal, min(values), max(values), note)


def figures(measured: Rounds, share: float, inside: float) -> list[Figure]:
    """Return all figures.

    Args:
        measured: rates.
        share: share of a stacked step that matrix products take, preset tiny.
        inside: GFLOP/s within them.
    """
    best, alone = measured.best(DEFAULT), measured.alone(DEFAULT)
    plain = statistics.median(measured.shares(DEFAULT, alone))
    peak = statistics.median(measured.peaks)
    bound = (
        f"one at a time reaches {plain:.0%} of the matmul peak, so nothing could be more than {1 / plain:.0f}x; "
        f"matrix products, small ones, take {share:.0%} of a stacked step, at {inside / peak:.0%} of the peak; the "
        "rest is elementwise passes over memory (norms, rotations, activations, softmax, copies)"
    )
    out = []
    for ending, setting in SETTINGS.items():
        way, slow = measured.best(setting), measured.alone(setting)
        what = f"{setting.preset}, {setting.batch_sequences} sequences a step: {way.name}, over {slow.name}"
        ratios = measured.ratios(setting, way, slow)
        default = setting == DEFAULT
        note = f"{what}; {bound}" if default else what
        out.append(
            over_rounds(f"retrain.speedup{ending}", ratios, "x", "at least 5" if default else "", note)
        )
    out += [
        over_rounds(
            "retrain.speedup_over_two_processes",
            measured.ratios(DEFAULT, best, ALONE_TWICE),
            "x",
            note=f"the same, over {ALONE_TWICE.name}",
        ),
        over_rounds("retrain.matmul_peak", measured.peaks, "GFLOP/s", note="1024^3, float32, two threads"),
        over_rounds("retrain.gflops", measured.gflops(DEFAULT, best), "GFLOP/s", note=best.name),
        over_rounds("retrain.share_of_peak", measured.shares(DEFAULT, best), "of the peak", note=best.name),
        over_rounds(
            "retrain.alone_share_of_peak", measured.shares(DEFAULT, alone), "of the peak", note=alone.name
        ),
        Figure("retrain.products_share", share, "of a step", note="time inside matrix products, profiled"),
        Figure("retrain.products_share_of_peak", inside / peak, "of the peak", note="rate inside them"),
    ]
    for (setting, way), rates in measured.rates.items():
        name = f"retrain.models_per_minute[{setting.preset}, {setting.batch_sequences} sequences, {way.name}]"
        out.append(over_rounds(name, rates, "models per minute"))
    return out


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and store."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retraining", description="Retraining throughput."
    )
    parser.add_argument("--steps", type=int, default=100, help="steps of a timed training of one model")
    parser.add_argument("--models", type=int, nargs="+", default=[4, 8, 16], help="stack sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one short round of two stacked; stores nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.models, options.rounds = 4, [2], 1
    else:
        results_folder()
    measured = measure(list(SETTINGS.values()), options.models, options.steps, options.rounds)
    stacked = measured.best(DEFAULT).stacked
    found = figures(measured, *products(DEFAULT, stacked, max(2, options.steps // 10)))
    for figure in found:
        interval = f" [{figure.low:.4g}, {figure.high:.4g}]" if figure.low is not None else ""
        print(f"{figure.figure}: {figure.value:.4g}{interval} {figure.unit} {figure.note}")
    if not options.quick:
        command = "make benchmark-retraining"
        print(f"wrote {save('retraining', command, found)}")


if __name__ == "__main__":
    main()
