"""What the engine costs and keeps: workers of one thread against one process, beside a busy one, and on Ray.

python -m benchmarks.scale.engines [--rounds R] [--quick]

What makes the comparison fair:

- The blocks are the same whoever does them: groups of chunks sketched by the kind `output`, and groups of stacked
  retrainings of the preset `tiny`. Every way gives the same rows, to the bit (`tests/assets/test_engine_parity.py`).
- One process has both cores as threads; workers have one thread each. Workers are started, and have loaded their
  libraries, before anything is timed: a run starts them once.
- Ways take turns within a round, in reverse order every second round; a ratio is taken within each round, the value is
  the median over rounds and the interval the lowest and the highest.
- The busy process is a Python loop at the same priority. Other load of the machine is in the note.
- A block takes a second or two of one core, less than in a run: what an engine costs per block weighs more here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch

from benchmarks.published import Figure, results_folder, update
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.engine import BuiltOnce, Engine, LocalEngine, RayEngine, SerialEngine
from grasp_pipeline.proxy.objective import CausalLM, pad_chunks
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.retrain import Group, GroupTrainer
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.build import StoredSettings
from grasp_pipeline.sketch.making import Chunks, EngineParts, GroupSketcher

VOCABULARY, CHUNK_TOKENS = 2048, 64
BLOCKS = 4
SKETCHED_CHUNKS, STACKED, STEPS = 768, 8, 12
"""Of one block: chunks sketched; models stacked, and their steps."""

Work = Callable[[Engine], object]
ALONE, ONE, TWO, RAY_ONE, RAY_TWO = "one process", "one worker", "two workers", "Ray, one", "Ray, two"
BUSY = ", beside a busy process"


def proxy() -> CausalLM:
    """Return the smallest proxy."""
    return CausalLM(build_model(ProxyConfig(preset="tiny"), VOCABULARY, CHUNK_TOKENS))


def sketching(chunks: int) -> Work:
    """Return the sketching of `BLOCKS` groups of random chunks."""
    tokens = generator("benchmark scale", "chunks").integers(1, VOCABULARY, (chunks, CHUNK_TOKENS))
    lists = TokenLists.of(list(tokens.astype(np.int32)))
    block = Chunks("output", [str(i) for i in range(chunks)], lists)
    settings = StoredSettings.model_validate({"output_hidden_dim": 32, "output_vocab_dim": 32})
    sketcher = GroupSketcher((EngineParts("output", proxy(), settings, None, CHUNK_TOKENS),), bos=0)
    return lambda engine: list(engine.map_blocks(BuiltOnce(sketcher), [block] * BLOCKS))


def retraining(models: int, steps: int) -> Work:
    """Return the retraining of `BLOCKS` groups of stacked models on random rows."""
    objective, config = proxy(), ProxyConfig()
    recipe = Recipe.from_config(config, CHUNK_TOKENS, steps * config.batch_sequences * CHUNK_TOKENS)
    draw = generator("benchmark scale", "rows")
    rows = [draw.integers(1, VOCABULARY, (recipe.rows, CHUNK_TOKENS + 1), np.int32) for _ in range(models)]
    held_out = pad_chunks(draw.integers(1, VOCABULARY, (8, CHUNK_TOKENS)).tolist(), 0, CHUNK_TOKENS)
    trainer = GroupTrainer(objective, objective.parameters(), recipe, held_out)
    group = Group([(str(model), 0) for model in range(models)], rows)
    return lambda engine: list(engine.map_blocks(trainer, [group] * BLOCKS))


@contextmanager
def busy() -> Iterator[None]:
    """Keep one core busy meanwhile."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def seconds(work: Work, engine: Engine) -> float:
    """Time one round of a work."""
    begun = time.perf_counter()
    work(engine)
    return time.perf_counter() - begun


def measure(work: Work, engines: dict[str, Engine], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every way and round; the first, which starts the workers, is not kept."""
    took: dict[str, list[float]] = {}
    for engine in engines.values():
        work(engine)
    ways = [*engines, ALONE + BUSY, TWO + BUSY]
    for turn in range(rounds):
        for way in ways if turn % 2 == 0 else ways[::-1]:
            engine = engines[way.removesuffix(BUSY)]
            with busy() if way.endswith(BUSY) else ExitStack():
                took.setdefault(way, []).append(seconds(work, engine))
        print({way: round(values[-1], 2) for way, values in took.items()}, flush=True)
    return took


def ratio(name: str, over: Sequence[float], under: Sequence[float], goal: str, note: str) -> Figure:
    """Return the median over rounds of a ratio of seconds, with the lowest and the highest round."""
    values = [a / b for a, b in zip(over, under, strict=True)]
    return Figure(name, statistics.median(values), "ratio", goal, min(values), max(values), note)


def figures(took: dict[str, dict[str, list[float]]], load: float) -> list[Figure]:
    """Return the figures of all works; load: of the machine before the first round, in processes."""
    found = []
    note = f"; {load:.1f} other processes were running" if load >= 0.1 else ""
    for work, times in took.items():
        found += [
            ratio(f"scale.busy_share[{work}]", times[TWO], times[TWO + BUSY], "at least 0.45",
                  f"tokens/s of two workers beside one busy process over without{note}"),
            ratio(f"scale.busy_share_one_process[{work}]", times[ALONE], times[ALONE + BUSY], "",
                  f"the same of one process with two threads{note}"),
            ratio(f"scale.workers_over_threads[{work}]", times[ALONE], times[TWO], "",
                  f"tokens/s of two workers over one process with two threads{note}"),
            ratio(f"scale.workers_over_threads_busy[{work}]", times[ALONE + BUSY], times[TWO + BUSY], "",
                  f"the same beside one busy process{note}"),
            ratio(f"scale.worker_efficiency[{work}]", [t / 2 for t in times[ONE]], times[TWO], "",
                  f"two local workers over twice one{note}"),
            ratio(f"scale.ray_overhead[{work}]", times[RAY_ONE], times[ONE], "at most 1.05",
                  f"seconds of one Ray worker over one local worker{note}"),
            ratio(f"scale.ray_efficiency[{work}]", [t / 2 for t in times[RAY_ONE]], times[RAY_TWO], "at least 0.9",
                  f"two Ray workers over twice one{note}"),
        ]  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of tiny blocks")
    arguments = parser.parse_args()
    results_folder()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    share = 16 if arguments.quick else 1
    works = {
        "sketching": sketching(SKETCHED_CHUNKS // share),
        "retraining": retraining(STACKED, max(2, STEPS // share)),
    }
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        engines = {
            ALONE: SerialEngine(),
            ONE: stack.enter_context(LocalEngine(1)),
            TWO: stack.enter_context(LocalEngine(2)),
            RAY_ONE: stack.enter_context(RayEngine(1)),
            RAY_TWO: stack.enter_context(RayEngine(2)),
        }
        rounds = 1 if arguments.quick else arguments.rounds
        took = {name: measure(work, engines, rounds) for name, work in works.items()}
    print(update("scale", "make benchmark-scale", figures(took, load)))


if __name__ == "__main__":
    main()
