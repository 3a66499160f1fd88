"""Sketching many chunks: length-sorted batches, results in the order given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

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
    sizes = np.array([len(chunk) for chunk in chunks], dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    sketches = np.empty((len(chunks), sketcher.d), dtype=np.float32)
    losses = np.empty(len(chunks), dtype=np.float32)
    start = 0
    while start < len(order):
        longest = int(sizes[order[start]])
        chosen = order[start : start + max(1, batch_tokens // max(1, longest))]
        rows, lengths = pad_chunks([chunks[i] for i in chosen], bos, longest)
        values, loss = sketcher.sketch(rows, lengths)
        finite = torch.isfinite(values).all(dim=1) & torch.isfinite(loss)
        if not bool(finite.all()):
            bad = chunk_ids[chosen[int((~finite).nonzero()[0])]]
            raise TrainingError(
                f"the {sketcher.kind} sketch of chunk {bad} is not finite; check the proxy checkpoint's weights"
            )
        sketches[chosen], losses[chosen] = values.numpy(), loss.numpy()
        if on_tokens is not None:
            on_tokens(int(sizes[chosen].sum()))
        start += len(chosen)
    return sketches, losses
