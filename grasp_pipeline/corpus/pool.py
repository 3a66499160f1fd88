"""The chunks that are selected from, and the held-out examples that a selection is measured on, as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Codes, Ints, TokenLists
from grasp_pipeline.proxy.packing import ExampleStream
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from torch import Tensor


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

    def join(self, other: HeldOut, n_tasks: int) -> HeldOut:
        """Return these examples and then others of the same layout, whose tasks are counted from n_tasks on."""
        import torch

        return HeldOut(
            torch.cat([self.rows, other.rows]),
            torch.cat([self.sizes, other.sizes]),
            np.concatenate([self.task, other.task + n_tasks]),
            np.concatenate([self.document, other.document]),
        )

    def task_means(self, values: NDArray[np.floating], n_tasks: int) -> NDArray[np.float64]:
        """Return the token-weighted mean per task of values (N, ...) given per token: (n_tasks, ...)."""
        weights = self.n_tokens.astype(np.float64)
        return np.stack(
            [
                np.average(values[self.task == t].astype(np.float64), axis=0, weights=weights[self.task == t])
                for t in range(n_tasks)
            ]
        )

    def shares(self, n_tasks: int) -> NDArray[np.float64]:
        """Return every example's share in the tokens of its task, 0 in the others: (n_tasks, N)."""
        tokens = (self.task == np.arange(n_tasks)[:, None]) * self.n_tokens.astype(np.float64)
        return tokens / tokens.sum(axis=1, keepdims=True)

    def texts(self, *tasks: int) -> TokenLists:
        """Return the token ids of examples that are text, task by task."""
        mine = np.concatenate([np.flatnonzero(self.task == task) for task in tasks])
        return TokenLists.of([self.rows[i, 1 : 1 + self.sizes[i]].numpy() for i in mine])


@dataclass(frozen=True, kw_only=True)
class ChunkPool:
    """The n chunks that subsets are taken of.

    Attributes:
        n_tokens: (n,) tokens per chunk, each at least 1.
        source, document, cluster: (n,) integer codes; near duplicates share a cluster.
        chunks: token ids; None where examples are not text, or where nothing reads them.

    Raises:
        ValueError: there is no chunk, a chunk has no tokens, or shapes disagree.
    """

    n_tokens: Ints
    source: Codes
    document: Codes
    cluster: Codes
    chunks: TokenLists | None = None

    def __post_init__(self) -> None:
        shape = self.n_tokens.shape
        if len(shape) != 1 or not shape[0]:
            raise ValueError(f"n_tokens has shape {shape}; expected one number for each chunk, and a chunk.")
        for name in ("source", "document", "cluster"):
            if (found := getattr(self, name).shape) != shape:
                raise ValueError(
                    f"{name} has shape {found}; expected one code for each of {shape[0]} chunks."
                )
        if self.n_tokens.min() < 1:
            raise ValueError(
                f"Chunk {int(self.n_tokens.argmin())} has {int(self.n_tokens.min())} tokens; every chunk needs at "
                "least 1."
            )

    @property
    def n(self) -> int:
        """Number of chunks."""
        return len(self.n_tokens)

    @property
    def total(self) -> int:
        """Tokens in all."""
        return int(self.n_tokens.sum())

    @property
    def survivor(self) -> Bools:
        """Chunks of the document that stays of each near-duplicate cluster, the first: (n,)."""
        _, head, cluster = np.unique(self.cluster, return_index=True, return_inverse=True)
        return self.document == self.document[head][cluster]

    @property
    def position(self) -> Codes:
        """Place of every chunk in its document, whose chunks lie together: (n,)."""
        _, first, document = np.unique(self.document, return_index=True, return_inverse=True)
        return np.arange(self.n) - first[document]

    def subset_id(self, membership: Bools) -> str:
        """Return the name of a subset (n,): a digest of whatever says which chunks these are."""
        raise NotImplementedError

    @property
    def text(self) -> TokenLists:
        """Token ids of a pool of text."""
        assert self.chunks is not None, "a pool of text"
        return self.chunks


@dataclass(frozen=True, kw_only=True)
class TaskPool(ChunkPool):
    """A pool that was sampled with its tasks, text or images alike: what a cell works on.

    Attributes:
        name: of the corpus, for tables.
        digest: digest of everything that a measurement depends on: examples, tasks and held-out examples.
        stream: the pool as training rows.
        rows: (n, L + 1) the pool's examples as laid out for the objective.
        planted: (n,) what was planted: "", "exact", "near" or "noise".
        tasks: names of the T tasks.
        query: examples that the tasks' directions are taken from.
        judge: others, for evidence that no optimiser has seen.
        evaluation: examples that utilities are measured on; their documents are in neither of the other two.
        vocabulary: size of the output layer.
        contaminated: documents of those considered that were left out since they hold text of a held-out one.
    """

    name: str
    digest: str
    stream: ExampleStream
    rows: Tensor
    planted: NDArray[np.str_]
    tasks: tuple[str, ...]
    query: HeldOut
    judge: HeldOut
    evaluation: HeldOut
    vocabulary: int
    contaminated: int = 0

    def subset_id(self, membership: Bools) -> str:
        """Return a digest of the pool and the subset's members."""
        return digest(self.digest, np.flatnonzero(membership).tolist())

    @property
    def queries(self) -> list[TokenLists]:
        """Token ids of each task's query examples, which are text."""
        return [self.query.texts(task) for task in range(len(self.tasks))]

    @property
    def judges(self) -> list[TokenLists]:
        """Token ids of each task's judge examples, which are text."""
        return [self.judge.texts(task) for task in range(len(self.tasks))]

    @property
    def sizes(self) -> Tensor:
        """Tokens per example, (n,)."""
        return self.rows.new_tensor(self.n_tokens)
