"""What a cell works on: a pool of examples, and the held-out examples of its tasks. Text or images alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.arrays import Ints, TokenLists
from grasp_pipeline.proxy.packing import ExampleStream


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples of all tasks.

    rows: (N, L + 1) as laid out for the objective; sizes: (N,) tokens; task, document: (N,) integer codes.
    """

    rows: Tensor
    sizes: Tensor
    task: Ints
    document: Ints

    @property
    def n_tokens(self) -> Ints:
        """Tokens per example, (N,)."""
        return self.sizes.numpy()

    def task_means(self, values: NDArray[np.floating], n_tasks: int) -> NDArray[np.float64]:
        """Return the token-weighted mean per task of values (N, ...) given per token: (n_tasks, ...)."""
        weights = self.n_tokens.astype(np.float64)
        return np.stack(
            [
                np.average(values[self.task == t].astype(np.float64), axis=0, weights=weights[self.task == t])
                for t in range(n_tasks)
            ]
        )


@dataclass(frozen=True)
class ChunkPool:
    """A pool of n examples and its tasks.

    Attributes:
        name: of the corpus, for tables.
        digest: digest of everything that a measurement depends on: examples, tasks and held-out examples.
        stream: the pool as training rows.
        rows: (n, L + 1) the pool's examples as laid out for the objective; sizes: (n,) tokens.
        source, document, cluster: (n,) integer codes; near duplicates share a cluster.
        planted: (n,) what was planted: "", "exact", "near" or "noise".
        tasks: names of the T tasks.
        query: examples that the tasks' directions are taken from.
        judge: others, for evidence that no optimiser has seen.
        evaluation: examples that utilities are measured on; their documents are in neither of the other two.
        vocabulary: size of the output layer.
        chunks: token ids of the pool for n-gram methods; None where examples are not text.
        queries: token ids of each task's query examples; None where examples are not text.
        judges: token ids of each task's judge examples; None where examples are not text.
        contaminated: documents of those considered that were left out since they hold text of a held-out one.
    """

    name: str
    digest: str
    stream: ExampleStream
    rows: Tensor
    sizes: Tensor
    source: Ints
    document: Ints
    cluster: Ints
    planted: NDArray[np.str_]
    tasks: tuple[str, ...]
    query: HeldOut
    judge: HeldOut
    evaluation: HeldOut
    vocabulary: int
    chunks: TokenLists | None = None
    queries: Sequence[TokenLists] | None = None
    judges: Sequence[TokenLists] | None = None
    contaminated: int = 0

    @property
    def n(self) -> int:
        """Number of examples in the pool."""
        return len(self.source)

    @property
    def n_tokens(self) -> Ints:
        """Tokens per example, (n,)."""
        return self.sizes.numpy()
