"""Sketching many chunks: length-sorted batches, results in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.errors import TrainingError
from grasp_pipeline.proxy.objective import pad_chunks
from grasp_pipeline.sketch.protocol import Sketcher


def sketch_chunks(
    sketcher: Sketcher,
    chunks: Sequence[list[int]],
    chunk_ids: Sequence[str],
    bos: int,
    batch_tokens: int,
    on_tokens: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sketch chunks in batches of similar length.

    Args:
        sketcher: what to compute.
        chunks: n lists of token ids.
        chunk_ids: their ids, for error messages.
        bos: id that starts each chunk.
        batch_tokens: most padded tokens per batch (one chunk at least).
        on_tokens: told the tokens finished, for progress.

    Returns:
        sketches (n, d) float32, mean token losses (n,) float32 in nats.

    Raises:
        TrainingError: a loss or sketch is not finite; the message names the chunk.
    """
    longest = max(map(len, chunks), default=0)
    rows, sizes = pad_chunks(list(chunks), bos, longest)
    return sketch_rows(sketcher, rows, sizes, chunk_ids, batch_tokens, on_tokens)


def sketch_rows(
    sketcher: Sketcher,
    rows: Tensor,
    sizes: Tensor,
    ids: Sequence[str],
    batch_tokens: int,
    on_tokens: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sketch examples that are laid out already, of any `Objective`, in batches of similar length.

    Args:
        sketcher: what to compute.
        rows: (n, L + 1), inputs and targets as `Objective` reads them, padded on the right.
        sizes: (n,) targets per example.
        ids: their ids, for error messages.
        batch_tokens: most padded targets per batch (one example at least).
        on_tokens: told the targets finished, for progress.

    Returns:
        sketches (n, d) float32, mean target losses (n,) float32 in nats.

    Raises:
        TrainingError: a loss or sketch is not finite; the message names the example.
    """
    counts = sizes.numpy()
    order = np.argsort(-counts, kind="stable")
    sketches = np.empty((len(order), sketcher.d), dtype=np.float32)
    losses = np.empty(len(order), dtype=np.float32)
    start = 0
    while start < len(order):
        longest = int(counts[order[start]])
        chosen = order[start : start + max(1, batch_tokens // max(1, longest))]
        picked = torch.from_numpy(chosen)
        values, loss = sketcher.sketch(rows[picked, : longest + 1], sizes[picked])
        finite = torch.isfinite(values).all(dim=1) & torch.isfinite(loss)
        if not bool(finite.all()):
            bad = ids[chosen[int((~finite).nonzero()[0])]]
            raise TrainingError(
                f"the {sketcher.kind} sketch of chunk {bad} is not finite; check the proxy checkpoint's weights"
            )
        sketches[chosen], losses[chosen] = values.numpy(), loss.numpy()
        if on_tokens is not None:
            on_tokens(int(counts[chosen].sum()))
        start += len(chosen)
    return sketches, losses
