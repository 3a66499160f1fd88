"""A toy cell: a pool of token chunks with sources, copies and tasks, which a tiny model trains on in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy
from toys import LENGTH, VOCAB

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.calibration.strata import draw_subsets
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.evaluation.proxies import SketchPlan
from grasp_pipeline.proxy.objective import Objective, Parameters, pad_chunks
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.proxy.retrain import Run
from grasp_pipeline.proxy.runs import MemoryStore
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.views import View

SOURCES = 4
TASKS = ("code", "french", "news")
RECIPE = Recipe(
    steps=5,
    batch_sequences=2,
    chunk_tokens=LENGTH,
    learning_rate=5e-3,
    warmup_fraction=0.1,
    weight_decay=0.1,
    clip_norm=1.0,
)
REFERENCE = replace(RECIPE, steps=12)
PLAN = SketchPlan(
    hidden_dim=6, vocab_dim=6, full_dim=48, layer_dim=2, batch_tokens=256, gradient_rows=16, ngram_dim=100
)


def toy_corpus() -> TaskPool:
    """Return 60 chunks of 3 to LENGTH tokens: 24 documents of 4 sources, 3 exact and 3 near copies, and 3 tasks."""
    rng = generator("toy laboratory")
    documents = [
        ([_chunk(i % SOURCES, rng) for _ in range(1 + i % 3)], i % SOURCES, i, "") for i in range(24)
    ]
    for original, kind in zip(documents[:6], ["exact"] * 3 + ["near"] * 3, strict=True):
        chunks = [
            [1 + chunk[0] % (VOCAB - 1), *chunk[1:]] if kind == "near" else chunk for chunk in original[0]
        ]
        documents.append((chunks, original[1], original[2], kind))
    chunks = [chunk for document in documents for chunk in document[0]]
    repeat = [len(document[0]) for document in documents]
    rows, _ = pad_chunks(chunks, 0, LENGTH)
    pool = TokenLists.of(chunks)
    held = {split: _held_out(count, rng) for split, count in (("query", 5), ("judge", 4), ("evaluation", 6))}
    return TaskPool(
        name="toy",
        digest="digest of the toy",
        stream=TextStream(pool, 0),
        rows=rows,
        n_tokens=pool.lengths,
        source=np.repeat([document[1] for document in documents], repeat).astype(np.int64),
        document=np.repeat(np.arange(len(documents)), repeat).astype(np.int64),
        cluster=np.repeat([document[2] for document in documents], repeat).astype(np.int64),
        planted=np.repeat([document[3] for document in documents], repeat),
        tasks=TASKS,
        **held,
        vocabulary=VOCAB,
        chunks=pool,
    )


def toy_view(n: int, d: int, *name: str | int) -> View:
    """Return a view of random sketches with a common direction, T = len(TASKS)."""
    rng = generator("toy view", n, d, *name)
    sketches = (rng.standard_normal((n, d)) + 0.4).astype(np.float32)
    targets, _ = rng.standard_normal((2, len(TASKS), d))
    queries = rng.standard_normal((5 * len(TASKS), d)).astype(np.float32)
    return View(sketches, targets, rng.uniform(2, 5, n).astype(np.float32), queries, d)


def toy_subsets(corpus: TaskPool, count: int, name: str) -> NDArray[np.bool_]:
    """Return (3 count, n) subsets of the random strata."""
    counts = {"uniform": count, "fixed_size": count, "tilted": count}
    return draw_subsets(corpus, np.zeros((corpus.n, 1)), counts, name).membership


def descent(objective: Objective, parameters: Parameters, rows: Tensor, sizes: Tensor) -> Tensor:
    """The slow twin of gradients: minus the gradient (P,) of the mean loss of all tokens of some examples."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in parameters.items()}
    total = torch.zeros(())
    for row, size in zip(rows, sizes.tolist(), strict=True):
        logits = objective.hidden(weights, row[None, :size])[0] @ objective.output_weight(weights).t()
        total = total + cross_entropy(logits, row[1 : size + 1], reduction="sum")
    gradients = torch.autograd.grad(total / sizes.sum(), list(weights.values()))
    return -torch.cat([g.reshape(-1) for g in gradients])


class CountingStore(MemoryStore):
    """A store that writes down what happens: ("known", ()) or ("keep", runs), in order."""

    def __init__(self, events: list[tuple[str, tuple[Run, ...]]] | None = None) -> None:
        super().__init__()
        self.events = [] if events is None else events

    @property
    def kept(self) -> list[Run]:
        """All runs ever kept, in order."""
        return [run for what, runs in self.events for run in runs if what == "keep"]

    def known(self, recipe: str) -> Mapping[Run, Floats]:
        self.events.append(("known", ()))
        return super().known(recipe)

    def keep(self, recipe: str, values: Mapping[Run, Floats], seconds: Mapping[Run, float]) -> None:
        super().keep(recipe, values, seconds)
        self.events.append(("keep", tuple(values)))


def _chunk(source: int, rng: np.random.Generator) -> list[int]:
    size = int(rng.integers(3, LENGTH + 1))
    own = 1 + 15 * source + rng.integers(0, 15, size)
    return np.where(rng.random(size) < 0.8, own, rng.integers(1, VOCAB, size)).tolist()


def _held_out(count: int, rng: np.random.Generator) -> HeldOut:
    chunks = [[_chunk(task, rng) for _ in range(count)] for task in range(len(TASKS))]
    rows, sizes = pad_chunks([chunk for part in chunks for chunk in part], 0, LENGTH)
    task = np.repeat(np.arange(len(TASKS)), count)
    return HeldOut(rows, sizes, task, np.arange(len(task)))
