"""Sketches read in blocks: the corpus is streamed, only vectors of length d and n are held.

Blocks of any size give the same results bit for bit, because all sums are taken over tiles of fixed rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import InputError

Float = TypeVar("Float", np.float32, np.float64)
TILE_ROWS = 1024


class SketchBlocks(Protocol):
    """A sequence of n sketches of dimension d that can be read from the start any number of times."""

    @property
    def n(self) -> int:
        """Number of sketches."""
        ...

    @property
    def d(self) -> int:
        """Dimension of a sketch."""
        ...

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        """Yield (first row, (b, d) float16 or float32 array), in order and without gaps."""
        ...


@dataclass(frozen=True)
class ArrayBlocks:
    """Sketches in memory, or mapped from a file.

    sketches: (n, d) float16 or float32; scale: a factor of all rows or (n,) factors, applied on reading, or None.
    float16 and scales are converted in each pass.
    """

    sketches: NDArray[np.floating[Any]]
    scale: NDArray[np.floating[Any]] | float | None = None
    block_rows: int = 8 * TILE_ROWS

    def __post_init__(self) -> None:
        if self.sketches.ndim != 2:
            raise InputError(
                f"sketches have shape {self.sketches.shape}; give an array of n rows and d columns"
            )
        if isinstance(self.scale, np.ndarray) and self.scale.shape != (self.n,):
            raise InputError(f"scale has shape {self.scale.shape}; give one factor per sketch: ({self.n},)")

    @property
    def n(self) -> int:
        """Number of sketches."""
        return self.sketches.shape[0]

    @property
    def d(self) -> int:
        """Dimension of a sketch."""
        return self.sketches.shape[1]

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        for start in range(0, self.n, self.block_rows):
            block = self.sketches[start : start + self.block_rows]
            if self.scale is not None:
                scaled = np.empty(block.shape, dtype=np.float32)
                _convert(block, scaled)
                if isinstance(self.scale, np.ndarray):
                    scaled *= self.scale[start : start + self.block_rows].astype(np.float32)[:, None]
                else:
                    scaled *= np.float32(self.scale)
                block = scaled
            yield start, block


@dataclass(frozen=True)
class StackedBlocks:
    """Several views of the same chunks side by side, each times a factor; nothing is copied but one tile."""

    views: Sequence[tuple[SketchBlocks, float]]

    def __post_init__(self) -> None:
        if not self.views or len({view.n for view, _ in self.views}) != 1:
            raise InputError(
                f"views have {[view.n for view, _ in self.views]} rows; give one row per chunk in all of them"
            )

    @property
    def n(self) -> int:
        """Number of sketches."""
        return self.views[0][0].n

    @property
    def d(self) -> int:
        """Dimension of a stacked sketch: the sum over the views."""
        return sum(view.d for view, _ in self.views)

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        for parts in zip(*(tiles(view) for view, _ in self.views), strict=True):
            yield (
                parts[0][0],
                np.hstack(
                    [
                        tile * np.float32(factor)
                        for (_, tile), (_, factor) in zip(parts, self.views, strict=True)
                    ]
                ),
            )


def as_blocks(sketches: SketchBlocks | NDArray[np.floating[Any]]) -> SketchBlocks:
    """Return sketches as blocks; an (n, d) array is wrapped without a copy."""
    return ArrayBlocks(sketches) if isinstance(sketches, np.ndarray) else sketches


def tiles(blocks: SketchBlocks) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first row, (TILE_ROWS, d) float32 tile), cut at multiples of TILE_ROWS; the last may be shorter.

    A tile is valid until the next one is asked for.

    Raises:
        InputError: blocks are out of order, of the wrong width, or not n rows in all.
    """
    start = filled = seen = 0
    buffer = np.empty((TILE_ROWS, blocks.d), dtype=np.float32)
    for first, block in blocks:
        if first != seen or block.ndim != 2 or block.shape[1] != blocks.d or seen + len(block) > blocks.n:
            raise InputError(
                f"a sketch block of shape {block.shape} starts at row {first}; expected row {seen} of "
                f"{blocks.n} and width {blocks.d}"
            )
        seen += len(block)
        position = 0
        while position < len(block):
            want = min(TILE_ROWS, blocks.n - start)
            take = min(want - filled, len(block) - position)
            rows = block[position : position + take]
            position += take
            if take == want and rows.dtype == np.float32:
                yield start, np.ascontiguousarray(rows)
                start += want
                continue
            _convert(rows, buffer[filled : filled + take])
            filled += take
            if filled == want:
                yield start, buffer[:want]
                start, filled = start + want, 0
    if seen != blocks.n:
        raise InputError(f"the sketch blocks hold {seen} rows; expected {blocks.n}")


_CONVERTED_VALUES = 1 << 15
"""Values converted at once; from more on torch starts threads, which costs more than it saves."""


def _convert(rows: NDArray[np.floating[Any]], into: NDArray[np.float32]) -> None:
    """Copy rows (b, d) as float32; float16 by torch, ten times as fast as by numpy with the same bits."""
    if rows.dtype != np.float16:
        into[...] = rows
        return
    import torch

    step = max(1, _CONVERTED_VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        # torch takes no read-only memory, which is what a file's pages are.
        half = torch.from_numpy(part if part.flags.writeable else part.copy())
        torch.from_numpy(into[start : start + step]).copy_(half)


def project(blocks: SketchBlocks, directions: ArrayLike) -> Floats:
    """Return <direction, phi_i>: (n,) for one direction (d,), (n, T) for T directions as columns (d, T)."""
    return _project(blocks, directions, np.float64)


def project_single(blocks: SketchBlocks, directions: ArrayLike) -> NDArray[np.float32]:
    """Return what `project` does as float32, the precision it is computed in: half the memory."""
    return _project(blocks, directions, np.float32)


def _project(blocks: SketchBlocks, directions: ArrayLike, kind: type[Float]) -> NDArray[Float]:
    columns = np.asarray(directions, dtype=np.float32)
    result = np.empty((blocks.n, *columns.shape[1:]), dtype=kind)
    for start, tile in tiles(blocks):
        result[start : start + len(tile)] = tile @ columns
    return result


def weighted_sum(blocks: SketchBlocks, weights: ArrayLike) -> Floats:
    """Return sum_i weights_i phi_i: (d,) for weights (n,). Rows of weight zero cost little."""
    row = np.asarray(weights, dtype=np.float32)
    total = np.zeros(blocks.d)
    for start, tile in tiles(blocks):
        part = row[start : start + len(tile)]
        (used,) = np.nonzero(part)
        if used.size == 0:
            continue
        if 2 * used.size < part.size:
            part, tile = part[used], tile[used]
        total += part @ tile
    return total


def mean_token_norm(blocks: SketchBlocks, n_tokens: ArrayLike) -> float:
    """Return sum_i w_i ||phi_i|| / sum_i w_i for token counts w (n,)."""
    tokens = np.asarray(n_tokens, dtype=np.float64)
    norms = row_norms(blocks)
    return float(tokens @ norms / tokens.sum())


def row_norms(blocks: SketchBlocks) -> Floats:
    """Return (n,) Euclidean norms of the sketches."""
    norms = np.empty(blocks.n)
    for start, tile in tiles(blocks):
        norms[start : start + len(tile)] = np.sqrt(np.einsum("ij,ij->i", tile, tile, dtype=np.float64))
    return norms


def gather(blocks: SketchBlocks, rows: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
    """Return the sketches of ascending row numbers: (len(rows), d) float32, read in one pass."""
    result = np.empty((len(rows), blocks.d), dtype=np.float32)
    for start, tile in tiles(blocks):
        low, high = np.searchsorted(rows, (start, start + len(tile)))
        result[low:high] = tile[rows[low:high] - start]
        if high == len(rows):
            break
    return result


def sum_and_gather(
    blocks: SketchBlocks,
    weights: NDArray[np.float32],
    rows: NDArray[np.integer[Any]],
    summed: NDArray[np.bool_] | None = None,
) -> tuple[Floats, NDArray[np.float32]]:
    """Return `weighted_sum` of weights (n,) and `gather` of ascending row numbers, from one read.

    summed: (n,) rows that count in the sum, None for all.
    """
    total = np.zeros(blocks.d)
    result = np.empty((len(rows), blocks.d), dtype=np.float32)
    for start, tile in tiles(blocks):
        low, high = np.searchsorted(rows, (start, start + len(tile)))
        result[low:high] = tile[rows[low:high] - start]
        part = weights[start : start + len(tile)]
        if summed is not None:
            part = part * summed[start : start + len(tile)]
        if part.any():
            total += part @ tile
    return total, result
