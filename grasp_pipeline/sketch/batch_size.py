"""How many tokens a sketching batch holds where nobody says it: chosen from the memory that a CUDA device has free.

What a token needs depends on the kind, the model and the length of the chunks, so it is measured: peak memory of a
batch of one chunk and of four, whose difference leaves out what does not grow with the batch. Half of the free memory
is planned for; the engine halves the batch where that was too much. Sizes are powers of two, so a little more or less
of free memory changes no batch.
"""

from __future__ import annotations

import torch

from grasp_pipeline.sketch.protocol import Sketcher

CPU_TOKENS = 4096
"""Padded tokens per batch anywhere but on CUDA: more is no faster."""

MOST_TOKENS = 65_536
"""Most on CUDA: the device is busy by then, and padding grows with the batch."""

_SHARE = 0.5
_FEW, _MANY = 1, 4


def fitting_tokens(free: float, per_token: float) -> int:
    """Return the largest power of two of tokens, from 64 to MOST_TOKENS, that needs at most half of the free memory.

    free: bytes. per_token: bytes.
    """
    tokens = 64
    while tokens < MOST_TOKENS and 2 * tokens * per_token <= _SHARE * free:
        tokens *= 2
    return tokens


def automatic_batch_tokens(sketcher: Sketcher, chunk_tokens: int, device: torch.device | str) -> int:
    """Return the padded tokens per batch for a sketcher on a device.

    chunk_tokens: L, of the longest chunk.
    """
    place = torch.device(device)
    if place.type != "cuda":
        return CPU_TOKENS
    few, many = (_peak_bytes(sketcher, chunks, chunk_tokens, place) for chunks in (_FEW, _MANY))
    per_token = max(1.0, (many - few) / ((_MANY - _FEW) * chunk_tokens))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(place)
    return fitting_tokens(free, per_token)


def _peak_bytes(sketcher: Sketcher, chunks: int, chunk_tokens: int, device: torch.device) -> int:
    """Return the most memory that a batch took beside what was there before."""
    rows = torch.zeros(chunks, chunk_tokens + 1, dtype=torch.int64, device=device)
    sizes = torch.full((chunks,), chunk_tokens, device=device)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    sketcher.sketch(rows, sizes)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
