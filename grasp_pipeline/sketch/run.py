"""Sketching many chunks: batches of similar length, results in the order given, memory that does not grow.

Chunks come in groups of some thousand. Within a group they are sorted by length and cut into batches; while a batch
is computed the next one is laid out in a thread, and results are copied to the host without waiting for the device:
it is waited for once a group. Where memory runs out the batch is halved and the work goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.arrays import Ints, TokenLists
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.sketch.protocol import Sketcher
from grasp_pipeline.sketch.storage import group_rows, in_groups

Results = tuple[NDArray[np.float32], NDArray[np.float32]]

_OUT_OF_MEMORY = (
    "can't allocate memory",  # DefaultCPUAllocator on Linux and macOS
    "not enough memory",  # the same on Windows
    "MPS backend out of memory",
)


class Examples(Protocol):
    """Some examples that can be laid out in batches."""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Targets of each example, (n,)."""
        ...

    def pack(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the chosen examples as rows (B, L + 1), L the most targets among them, and sizes (B,) int64."""
        ...


@dataclass(frozen=True)
class Texts:
    """Chunks of text as examples: their token ids, and the id that starts each."""

    lists: TokenLists
    bos: int

    @property
    def sizes(self) -> Ints:
        """Tokens of each chunk, (n,)."""
        return self.lists.lengths

    def pack(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return rows `[bos, tokens..., 0...]` (B, L + 1) int64 and sizes (B,) int64; see `pad_chunks`."""
        starts = self.lists.offsets[chosen]
        sizes = self.lists.offsets[chosen + 1] - starts
        longest = int(sizes.max(initial=0))
        rows = np.zeros((len(chosen), longest + 1), dtype=np.int64)
        rows[:, 0] = self.bos
        if longest:
            columns = np.arange(longest)
            tokens = self.lists.tokens.take(starts[:, None] + columns, mode="clip")
            rows[:, 1:] = np.where(columns < sizes[:, None], tokens, 0)
        return torch.from_numpy(rows), torch.from_numpy(sizes)


@dataclass(frozen=True)
class LaidOut:
    """Examples that are laid out already: rows (n, L + 1) padded on the right, and targets per example (n,)."""

    rows: Tensor
    counts: Tensor

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Targets of each example, (n,)."""
        return self.counts.numpy()

    def pack(self, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return the chosen rows, cut to the most targets among them, and their sizes."""
        picked = torch.from_numpy(chosen)
        counts = self.counts[picked]
        return self.rows[picked, : int(counts.max()) + 1], counts


class _Batch(NamedTuple):
    """Consecutive examples of a group in order of length, being laid out in a thread."""

    start: int
    stop: int
    longest: int
    rows: Future[tuple[Tensor, Tensor]]


class SketchEngine:
    """Sketches groups of examples with one sketcher; what a shortage of memory taught is kept for the next group."""

    def __init__(
        self,
        sketcher: Sketcher,
        batch_tokens: int,
        listen: Listener = silent,
        device: torch.device | str = "cpu",
    ) -> None:
        """Prepare.

        Args:
            sketcher: what to compute.
            batch_tokens: most padded targets per batch (one example at least); halved where memory runs out.
            listen: told when the batch gets smaller.
            device: where the sketcher computes.
        """
        self.sketcher = sketcher
        self.batch_tokens = batch_tokens
        self._listen = listen
        self._device = torch.device(device)
        self._pinned = self._device.type == "cuda"
        self._sketches = torch.empty(0, sketcher.d)
        self._losses = torch.empty(0)

    def sketch(
        self, examples: Examples, ids: Sequence[str], on_tokens: Callable[[int], None] | None = None
    ) -> Results:
        """Sketch one group.

        Args:
            examples: n examples.
            ids: their ids, for error messages.
            on_tokens: told the targets of each batch when it is under way, for progress.

        Returns:
            sketches (n, d) float32, mean target losses (n,) float32 in nats, in the order given.

        Raises:
            TrainingError: a loss or sketch is not finite, or there is not enough memory for one example; the message
                names the example.
        """
        counts = examples.sizes
        order = np.argsort(-counts, kind="stable")
        self._reserve(len(order))
        with ThreadPoolExecutor(1) as packer:
            batch = self._begin(packer, examples, order, 0)
            while batch is not None:
                following = self._begin(packer, examples, order, batch.stop)
                if self._compute(batch):
                    if on_tokens is not None:
                        on_tokens(int(counts[order[batch.start : batch.stop]].sum()))
                    batch = following
                else:
                    self._shrink(batch, ids[int(order[batch.start])])
                    batch = self._begin(packer, examples, order, batch.start)
        return self._collect(order, ids)

    def _begin(
        self, packer: ThreadPoolExecutor, examples: Examples, order: NDArray[np.int64], start: int
    ) -> _Batch | None:
        """Start laying out the batch whose first example is at a place in the order; None behind the last."""
        if start >= len(order):
            return None
        longest = int(examples.sizes[order[start]])
        chosen = order[start : start + max(1, self.batch_tokens // max(1, longest))]
        return _Batch(start, start + len(chosen), longest, packer.submit(self._pack, examples, chosen))

    def _pack(self, examples: Examples, chosen: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        rows, sizes = examples.pack(chosen)
        return (rows.pin_memory(), sizes.pin_memory()) if self._pinned else (rows, sizes)

    def _compute(self, batch: _Batch) -> bool:
        """Sketch a batch and begin to copy the results to the host; False where memory ran out."""
        try:
            rows, sizes = (part.to(self._device, non_blocking=True) for part in batch.rows.result())
            sketches, losses = self.sketcher.sketch(rows, sizes)
            self._sketches[batch.start : batch.stop].copy_(sketches.detach(), non_blocking=True)
            self._losses[batch.start : batch.stop].copy_(losses.detach(), non_blocking=True)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return False
        return True

    def _shrink(self, batch: _Batch, first: str) -> None:
        """Halve the batch size, outside of the handler that holds on to the failed batch's tensors."""
        failed = batch.stop - batch.start
        if self._pinned:
            torch.cuda.empty_cache()
        if failed == 1:
            raise TrainingError(
                f"there is not enough memory on {self._device} to sketch chunk {first} of {batch.longest:,} tokens by "
                f"itself ({self.sketcher.kind}); lower tokenizer.chunk_tokens or the sketch's dimensions, take a "
                "smaller proxy, or free memory"
            )
        self.batch_tokens = failed // 2 * max(1, batch.longest)
        self._listen(
            f"memory ran out on {self._device} at a batch of {failed:,} chunks of up to {batch.longest:,} tokens; "
            f"sketching ({self.sketcher.kind}) goes on with {self.batch_tokens:,} tokens a batch"
        )

    def _reserve(self, n: int) -> None:
        """Make room on the host for the results of n examples, in page-locked memory where copies need it."""
        if len(self._sketches) < n:
            self._sketches = torch.empty(n, self.sketcher.d, pin_memory=self._pinned)
            self._losses = torch.empty(n, pin_memory=self._pinned)

    def _collect(self, order: NDArray[np.int64], ids: Sequence[str]) -> Results:
        """Wait for the device, put the results in the order given and check them."""
        if self._pinned:
            torch.cuda.synchronize(self._device)
        n = len(order)
        sketches = np.empty((n, self.sketcher.d), dtype=np.float32)
        losses = np.empty(n, dtype=np.float32)
        sketches[order], losses[order] = self._sketches[:n].numpy(), self._losses[:n].numpy()
        bad = np.flatnonzero(~(np.isfinite(sketches).all(axis=1) & np.isfinite(losses)))
        if len(bad):
            raise TrainingError(
                f"the {self.sketcher.kind} sketch of chunk {ids[int(bad[0])]} is not finite; check the proxy "
                "checkpoint's weights"
            )
        return sketches, losses


def out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of torch says that memory ran out, on whichever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


class Sketched(NamedTuple):
    """A group of chunks (rows of a frame) with sketches (n, d) float32 and mean token losses (n,) float32 in nats."""

    chunks: pl.DataFrame
    sketches: NDArray[np.float32]
    losses: NDArray[np.float32]


def sketch_stream(
    engine: SketchEngine,
    frames: Iterable[pl.DataFrame],
    bos: int,
    on_tokens: Callable[[int], None] | None = None,
) -> Iterator[Sketched]:
    """Sketch a stream of chunks group by group; one group is held at a time.

    Args:
        engine: computes and remembers the batch size.
        frames: columns chunk_id and input_ids at least, in pieces of any size.
        bos: id that starts each chunk.
        on_tokens: told the tokens of each batch when it is under way, for progress.

    Yields:
        Groups of `group_rows(d)` chunks in the order given, whatever the pieces were.

    Raises:
        TrainingError: see `SketchEngine.sketch`.
    """
    for chunks in in_groups(frames, group_rows(engine.sketcher.d)):
        tokens = Texts(TokenLists.of_column(chunks["input_ids"]), bos)
        yield Sketched(chunks, *engine.sketch(tokens, chunks["chunk_id"].to_list(), on_tokens))


def sketch_chunks(
    sketcher: Sketcher,
    chunks: Sequence[list[int]],
    chunk_ids: Sequence[str],
    bos: int,
    batch_tokens: int,
    on_tokens: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
) -> Results:
    """Sketch chunks that are in memory, in batches of similar length.

    Args:
        sketcher: what to compute.
        chunks: n lists of token ids.
        chunk_ids: their ids, for error messages.
        bos: id that starts each chunk.
        batch_tokens: most padded tokens per batch (one chunk at least).
        on_tokens: told the tokens of each batch when it is under way, for progress.
        device: where the sketcher computes.

    Returns:
        sketches (n, d) float32, mean token losses (n,) float32 in nats.

    Raises:
        TrainingError: see `SketchEngine.sketch`.
    """
    engine = SketchEngine(sketcher, batch_tokens, device=device)
    return sketch_in_memory(engine, chunks, chunk_ids, bos, on_tokens)


def sketch_in_memory(
    engine: SketchEngine,
    chunks: Sequence[list[int]],
    chunk_ids: Sequence[str],
    bos: int,
    on_tokens: Callable[[int], None] | None = None,
) -> Results:
    """Sketch chunks that are in memory with an engine that goes on to be used; see `sketch_chunks`."""

    def part(rows: slice) -> Examples:
        return Texts(TokenLists.of(chunks[rows]), bos)

    return _in_memory(engine, part, chunk_ids, on_tokens)


def sketch_rows(
    sketcher: Sketcher,
    rows: Tensor,
    sizes: Tensor,
    ids: Sequence[str],
    batch_tokens: int,
    on_tokens: Callable[[int], None] | None = None,
    device: torch.device | str = "cpu",
) -> Results:
    """Sketch examples that are laid out already, of any `Objective`; the rest is as in `sketch_chunks`.

    rows: (n, L + 1), inputs and targets as `Objective` reads them, padded on the right; sizes: (n,) targets of each.
    """

    def part(taken: slice) -> Examples:
        return LaidOut(rows[taken], sizes[taken])

    return _in_memory(SketchEngine(sketcher, batch_tokens, device=device), part, ids, on_tokens)


def _in_memory(
    engine: SketchEngine,
    part: Callable[[slice], Examples],
    ids: Sequence[str],
    on_tokens: Callable[[int], None] | None,
) -> Results:
    """Sketch examples group by group into one array."""
    sketches = np.empty((len(ids), engine.sketcher.d), dtype=np.float32)
    losses = np.empty(len(ids), dtype=np.float32)
    step = group_rows(engine.sketcher.d)
    for start in range(0, len(ids), step):
        taken = slice(start, min(start + step, len(ids)))
        sketches[taken], losses[taken] = engine.sketch(part(taken), ids[taken], on_tokens)
    return sketches, losses
