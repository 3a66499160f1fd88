"""What every stage's cost scales with, and what that makes of a measured line.

A stage's seconds (of one core), its bytes on disk and its memory are lines

    y(a) = y0 + y1 w(a)

in one amount w of work: text bytes, tokens, chunks, trained and read tokens. Two small runs on the user's own corpus,
the second a few times as large, give y0 and y1 (`fit`); the whole corpus and the real settings give w.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

TRAINING = 3.0
"""Forward passes that a training step is worth: one forward, and backward twice that."""


@dataclass(frozen=True)
class Amounts:
    """How much there is to do.

    Attributes:
        text_bytes, documents: of the corpus, as read.
        tokens, chunks: of its clean documents.
        task_bytes: of the held-out documents, as read.
        held_out: tokens of their chunks, by split.
        kinds: kinds of sketches.
        reference_tokens, retrain_tokens, finalist_tokens: of one training.
        calibration_runs, evaluation_runs, finalist_runs, arm_runs: retrainings.
        subsets: calibration and evaluation subsets.
        tokenizer_bytes: text that the tokenizer is trained on, 0 for one that is given.
        conditional: whether conditional losses are asked for.
    """

    text_bytes: float
    documents: float
    tokens: float
    chunks: float
    task_bytes: float
    held_out: Mapping[str, float]
    kinds: int
    reference_tokens: float
    retrain_tokens: float
    finalist_tokens: float
    calibration_runs: int
    evaluation_runs: int
    finalist_runs: int
    arm_runs: int
    subsets: int
    tokenizer_bytes: float
    conditional: bool

    def retraining(self, runs: int, tokens: float, split: str) -> float:
        """Return forward passes over tokens that retrainings are worth, each measured on a split."""
        return runs * (TRAINING * tokens + self.held_out[split])


Work = Callable[[Amounts], float]

NOTHING = "nothing"

WORK: dict[str, Work] = {
    NOTHING: lambda a: 0.0,
    "text bytes": lambda a: a.text_bytes,
    "bytes of tasks": lambda a: a.task_bytes,
    "bytes to train a tokenizer": lambda a: a.tokenizer_bytes,
    "tokens": lambda a: a.tokens,
    "tokens x kinds": lambda a: a.tokens * a.kinds,
    "tokens, where asked for": lambda a: a.tokens * a.conditional,
    "chunks": lambda a: a.chunks,
    "chunks x subsets": lambda a: a.chunks * a.subsets,
    "steps of the reference": lambda a: a.reference_tokens,
    "steps of calibration": lambda a: a.retraining(a.calibration_runs, a.retrain_tokens, "calibration"),
    "steps of finalists": lambda a: a.retraining(a.finalist_runs, a.finalist_tokens, "calibration"),
    "steps of evaluation": lambda a: (
        a.retraining(a.evaluation_runs, a.retrain_tokens, "evaluation")
        + a.retraining(a.arm_runs, a.finalist_tokens, "evaluation")
    ),
}
"""Name -> amount of work that a cost is proportional to, beside what it costs at least."""


@dataclass(frozen=True)
class Cost:
    """What one stage costs.

    Attributes:
        seconds, disk: names of the work that its time and its bytes on disk grow with.
        per_chunk, per_document: bytes of memory that it holds of each.
        engine: whether its blocks go through the engine, so that workers share them.
        runs: retrainings that it makes.
    """

    seconds: str
    disk: str = NOTHING
    per_chunk: float = 0.0
    per_document: float = 0.0
    engine: bool = False
    runs: Callable[[Amounts], int] = lambda a: 0


INDEX = 60.0
"""Bytes of a chunk in the index that selection works on (docs/scale.md)."""

ARRAYS = 200.0
"""Bytes of a chunk in the arrays beside it: scores, weights, orders, memberships."""

COSTS: dict[str, Cost] = {
    "task_documents": Cost("bytes of tasks", "bytes of tasks"),
    "manifest": Cost("text bytes"),
    "documents": Cost("text bytes", "text bytes", per_document=190.0, engine=True),
    "tokenizer": Cost("bytes to train a tokenizer"),
    "tokenized_shards": Cost("text bytes", "tokens", per_document=10.0, engine=True),
    "tasks": Cost("bytes of tasks", "bytes of tasks"),
    "proxy_checkpoints": Cost("steps of the reference", per_chunk=INDEX),
    "sketchers": Cost(NOTHING),
    "gradient_sketches": Cost("tokens x kinds", "tokens x kinds", engine=True),
    "task_sketches": Cost("bytes of tasks"),
    "candidates": Cost(NOTHING),
    "subsets": Cost("chunks x subsets", "chunks x subsets", per_chunk=INDEX + ARRAYS),
    "subset_utilities": Cost(
        "steps of calibration", per_chunk=INDEX, engine=True, runs=lambda a: a.calibration_runs
    ),
    "surrogates": Cost("chunks x subsets", per_chunk=INDEX + ARRAYS),
    "conditional_losses": Cost("tokens, where asked for", "tokens, where asked for", engine=True),
    "finalists": Cost("tokens", per_chunk=INDEX + 2 * ARRAYS),
    "certificates": Cost(
        "steps of finalists", per_chunk=INDEX + ARRAYS, engine=True, runs=lambda a: a.finalist_runs
    ),
    "calibration_pool": Cost(NOTHING, "chunks"),
    "pruned_corpus": Cost("tokens", "chunks", per_chunk=INDEX + ARRAYS),
    "curations": Cost(NOTHING),
    "export": Cost("tokens", "tokens", per_chunk=INDEX),
    "sealed_evaluation": Cost(
        "steps of evaluation",
        per_chunk=INDEX + ARRAYS,
        engine=True,
        runs=lambda a: a.evaluation_runs + a.arm_runs,
    ),
    "report": Cost(NOTHING),
    "filtered_shards": Cost("text bytes", "text bytes", per_document=190.0),
    "vision_fidelity": Cost(NOTHING),
    "attribution_proof": Cost("tokens"),
}
"""Stage -> its cost. The last three have jobs of their own and are not in a plan of `curate`."""


@dataclass(frozen=True)
class Line:
    """y = base + rate * work."""

    base: float
    rate: float

    def at(self, work: float) -> float:
        """Return y at an amount of work."""
        return self.base + self.rate * work


def fit(small: tuple[float, float], large: tuple[float, float]) -> Line:
    """Return the line through two points (work, y); neither part is negative.

    Where both did the same work, or the larger cost less, they say nothing of a rate: the line is flat at their mean.
    """
    (work, cost), (more, dearer) = small, large
    if more <= work or dearer <= cost:
        return Line((cost + dearer) / 2, 0.0)
    rate = min((dearer - cost) / (more - work), dearer / more)
    return Line(max(0.0, dearer - rate * more), rate)
