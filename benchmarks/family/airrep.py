"""AirRep, trained and untrained, on held-out subsets and held-out documents; its cost per query against gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.family.learned_pool import RESAMPLES, SEED, LearnedPool, cpu_seconds
from benchmarks.laboratory.text import TextPlan
from benchmarks.published import Figure
from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.attribution.methods.airrep import AirRep, Encoder, Task, train_encoder
from grasp_pipeline.attribution.unlearning import Unlearning
from grasp_pipeline.calibration.designs import STRATA
from grasp_pipeline.calibration.rank import spearman
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.proxy.runs import MeasuredRuns, MemoryStore, job_of
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.run import sketch_rows
from grasp_pipeline.sketch.views import take_view

PLAN = TextPlan(
    chunks=240, chunk_tokens=32, tasks=4, query_documents=24, judge_documents=4, evaluation_documents=32
)
STEPS = 120
SHARE = 0.25
"""Of the pool's tokens in every subset: what a selection differs in is what it holds, not how much."""

DRAWS = ("source_tilted", "task_optimised", "redundancy_tilted", "uniform", "task_optimised", "source_tilted")
LEARNED, FEW, HELD_OUT = 480, 72, 60
"""Subsets that are learned from, how many of them show what few can teach, and subsets to predict."""

HELD_SEEDS = 3
"""Training seeds of the subsets to predict: one run of a proxy this small is noise for a third or more."""

TOGETHER = 64
"""Queries of one forward pass."""
SKETCH_DIM = 2048
TIMED = 12


@dataclass(frozen=True)
class Measured:
    """Documents' utilities (m, D) under the subsets, (m, n); task, asked: (D,) of each document, whether it is learned
    from; shares: (D, N) of the examples."""

    membership: Bools
    utilities: Floats
    task: NDArray[np.int64]
    asked: Bools
    shares: Floats

    @classmethod
    def make(cls, pool: LearnedPool) -> Measured:
        """Retrain on every subset; half of each task's documents are learned from."""
        corpus, held = pool.corpus, pool.corpus.evaluation
        view = take_view(OutputSketcher(pool.objective, pool.reference, 32, 32, SEED), corpus)
        scores = view.sketches @ view.targets.T
        membership = np.stack(
            [*_draw(pool, scores, LEARNED, "learned"), *_draw(pool, scores, HELD_OUT, "held")]
        )
        runs = MeasuredRuns(
            pool.trainer,
            corpus.stream,
            held,
            pool.trainer.recipe_id(corpus),
            lambda outcome: outcome.chunk_losses,
            MemoryStore(),
        )
        jobs = [
            [job_of(corpus, row, SEED + k) for k in range(1 if place < LEARNED else HELD_SEEDS)]
            for place, row in enumerate(membership)
        ]
        runs.make([job for each in jobs for job in each], "retraining subsets", print)
        losses = np.stack([np.mean([runs.values[job.run] for job in each], axis=0) for each in jobs])
        losses /= held.n_tokens
        documents, document = np.unique(held.document, return_inverse=True)
        tokens = (document == np.arange(len(documents))[:, None]) * held.n_tokens.astype(np.float64)
        shares = tokens / tokens.sum(axis=1, keepdims=True)
        task = np.array([held.task[document == k][0] for k in range(len(documents))])
        asked = np.zeros(len(task), dtype=np.bool_)
        for code in np.unique(task):
            mine = generator("family", "airrep", "asked", int(code)).permutation(np.flatnonzero(task == code))
            asked[mine[: len(mine) // 2]] = True
        return cls(membership, -losses @ shares.T, task, asked, shares)

    def correlations(self, predicted: Floats, rows: NDArray[np.int64]) -> float:
        """Return the task-level rank correlation for unseen documents, (m, D) predicted, over some unseen subsets."""
        found = []
        for code in np.unique(self.task):
            mine = (self.task == code) & ~self.asked
            measured = self.utilities[LEARNED:][:, mine].mean(axis=1)
            found.append(float(spearman(predicted[rows][:, mine].mean(axis=1), measured[rows])))
        return float(np.mean(found))


def _draw(pool: LearnedPool, scores: Floats, count: int, name: str) -> Iterable[Bools]:
    tokens = round(SHARE * pool.corpus.total)
    for index in range(count):
        rng = generator("family", "airrep", name, index)
        yield STRATA[DRAWS[index % len(DRAWS)]](pool.corpus, scores, tokens, index // len(DRAWS) + 1, rng)


def figures() -> list[Figure]:
    """Train on measured subsets and half of the documents; predict the other subsets on the other documents."""
    pool = LearnedPool.make(PLAN, STEPS)
    measured = Measured.make(pool)
    tokens, held = pool.corpus.n_tokens, pool.corpus.evaluation
    chunks, queries = pool.features, pool.states(held)
    used = measured.shares[measured.asked].sum(axis=0) > 0
    tasks = {
        count: Task(
            chunks,
            queries[used],
            measured.shares[measured.asked][:, used],
            tokens,
            measured.membership[:count],
            measured.utilities[:count, measured.asked],
        )
        for count in (LEARNED, FEW)
    }
    made = (
        f"{HELD_OUT} unseen subsets of {SHARE:.0%} of {pool.corpus.n} chunks, {int((~measured.asked).sum())} unseen "
        f"documents of {PLAN.tasks} tasks, means of {HELD_SEEDS} training seeds; trained on {LEARNED} "
        f"subsets of one seed and {int(measured.asked.sum())} documents"
    )
    predicted: dict[str, Floats] = {}
    for attention in (True, False):
        pooling = "attention on" if attention else "attention off"
        encoders: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
            "cosine": _units,
            "untrained": Encoder.untrained(chunks),
            "trained": train_encoder(tasks[LEARNED], attention),
            f"trained on {FEW}": train_encoder(tasks[FEW], attention),
        }
        for name, encoder in encoders.items():
            method = AirRep(encoder(chunks), encoder(queries), measured.shares, tokens, attention)
            predicted[f"{name}, {pooling}"] = method.predict(measured.membership[LEARNED:])
    every = np.arange(HELD_OUT)
    draws = generator("family", "airrep", "bootstrap").integers(0, HELD_OUT, (RESAMPLES // 4, HELD_OUT))
    value = {name: measured.correlations(each, every) for name, each in predicted.items()}
    drawn = {
        name: np.array([measured.correlations(each, rows) for rows in draws])
        for name, each in predicted.items()
    }

    def figure(name: str, goal: str, at: float, several: NDArray[np.float64], note: str) -> Figure:
        low, high = np.quantile(several, (0.025, 0.975))
        return Figure(name, at, "rank correlation", goal, float(low), float(high), note)

    found = []
    for pooling in ("attention on", "attention off"):
        rival = max((f"cosine, {pooling}", f"untrained, {pooling}"), key=lambda name: value[name])
        for own, end, goal in (
            ("trained", "", "at least 0.1"),
            (f"trained on {FEW}", f", trained on {FEW}", ""),
        ):
            mine = f"{own}, {pooling}"
            found.append(
                figure(
                    f"family.airrep_gain[{pooling}{end}]",
                    goal,
                    value[mine] - value[rival],
                    drawn[mine] - drawn[rival],
                    f"over {rival}, the better of the two that are not trained; {made}",
                )
            )
    found += [
        figure(f"family.airrep_spearman[{name}]", "", at, drawn[name], made) for name, at in value.items()
    ]
    return found + _costs(pool, Encoder.untrained(chunks))


def _units(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _costs(pool: LearnedPool, encoder: Encoder) -> list[Figure]:
    """Return processor time per query and bytes per chunk, against gradients."""
    corpus, held = pool.corpus, pool.corpus.evaluation
    stored = encoder(pool.features)
    sketcher = FullSketcher(pool.objective, pool.reference, SKETCH_DIM, 4, SEED)
    names = [str(i) for i in range(corpus.n)]
    sketches = sketch_rows(sketcher, corpus.rows, corpus.sizes, names, 4096)[0]
    exact = Unlearning(pool.objective, pool.reference, corpus.rows, corpus.sizes)

    def one(number: int) -> tuple[Tensor, Tensor]:
        return held.rows[number : number + 1], held.sizes[number : number + 1]

    def learned(number: int) -> NDArray[np.float32]:
        return stored @ encoder(representations(pool.objective, pool.reference, *one(number))).T

    def together(_: int) -> NDArray[np.float32]:
        states = representations(pool.objective, pool.reference, held.rows[:TOGETHER], held.sizes[:TOGETHER])
        return stored @ encoder(states).T

    def sketched(number: int) -> NDArray[np.float32]:
        return sketches @ sketch_rows(sketcher, *one(number), ["query"], 4096)[0].T

    fast, some = cpu_seconds(learned, 4 * TIMED), cpu_seconds(sketched, TIMED)
    batched = cpu_seconds(together, TIMED) / TOGETHER
    slow = cpu_seconds(lambda number: exact.effects(held.rows[number], int(held.sizes[number])), TIMED)
    unit, goal = "times less processor time per query", "at least 50"
    ours = f"{1e3 * fast:.2f} ms, the proxy's forward pass of the query included; {corpus.n} chunks"
    gradients = f"{1e3 * slow:.0f} ms for the query's gradient and the pool's losses a step along it"
    return [
        Figure(
            "family.airrep_speedup[gradients of the pool not kept]",
            slow / fast,
            unit,
            goal,
            note=f"{gradients}, against {ours}",
        ),
        Figure(
            f"family.airrep_speedup[gradients of the pool not kept, {TOGETHER} queries together]",
            slow / batched,
            unit,
            goal,
            note=f"{gradients}, which is of one query by its nature, against {1e3 * batched:.2f} ms of {TOGETHER} "
            f"queries in one forward pass; {corpus.n} chunks",
        ),
        Figure(
            f"family.airrep_speedup[sketches of {SKETCH_DIM} kept]",
            some / fast,
            unit,
            goal,
            note=f"{1e3 * some:.2f} ms for the query's gradient and inner products with sketches, against {ours}",
        ),
        Figure(
            "family.airrep_bytes",
            2.0 * stored.shape[1],
            "bytes per chunk",
            note=f"float16; a sketch of {SKETCH_DIM} takes {2 * SKETCH_DIM}",
        ),
    ]
