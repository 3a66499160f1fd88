"""Sketches as bytes: float16 little-endian with one scale per kind, a power of two.

A value x is stored as float16(x / scale), scale the power of two nearest to the root mean square of typical values.
Relative to the scale float16 reaches from 2^-24 to 65,504 and keeps 11 bits from 2^-14 on. Of normally distributed
values at the scale 5 in 100,000 lie below 2^-14, where the error is at most 2^-25 of the scale, and 2 in 10^8 become
zero. Values too large are refused, never clipped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

GROUP_ROWS = 4096
"""Chunks that are sorted by length, sketched and written together: one row group of the stored file.

Batches of 65,536 tokens are padded by 3% where lengths are uniform between 64 and 1,024, by less where most chunks are
full. More rows would not be read faster, and memory is several times a group.
"""

GROUP_VALUES = 2**23
"""Most values in one group; what bounds memory where d is large."""


def group_rows(d: int) -> int:
    """Return the chunks of a group of sketches of dimension d."""
    return max(1, min(GROUP_ROWS, GROUP_VALUES // d))


def in_groups(frames: Iterable[pl.DataFrame], rows: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of some frames in order, cut anew: `rows` in every frame but the last."""
    held: list[pl.DataFrame] = []
    count = 0
    for frame in frames:
        while count + frame.height >= rows:
            head, frame = frame.head(rows - count), frame.slice(rows - count)
            yield pl.concat([*held, head])
            held, count = [], 0
        if frame.height:
            held.append(frame)
            count += frame.height
    if held:
        yield pl.concat(held)


def power_of_two_scale(sketches: NDArray[np.float32]) -> float:
    """Return the power of two nearest to the root mean square of some typical sketches; 1.0 for all zeros."""
    rms = float(np.sqrt(np.mean(np.square(sketches, dtype=np.float64))))
    return 2.0 ** round(math.log2(rms)) if rms > 0 else 1.0


def encode(sketches: NDArray[np.float32], scale: float, chunk_ids: Sequence[str]) -> pl.Series:
    """Encode (n, d) float32 sketches as a binary column: d float16 values a row, divided by `scale`.

    Raises:
        InputError: a sketch is not finite, before or after scaling; the message names the chunk.
    """
    with np.errstate(over="ignore"):
        half = (sketches / np.float32(scale)).astype("<f2")
    bad = np.flatnonzero(~np.isfinite(half).all(axis=1))
    if len(bad):
        raise InputError(
            f"the sketch of chunk {chunk_ids[bad[0]]} is not finite in float16; check the proxy checkpoint's weights "
            "and the chunk's tokens"
        )
    return pl.Series("sketch", _binary(half), dtype=pl.Binary)


def _binary(half: NDArray[np.float16]) -> pa.LargeBinaryArray:
    """Return the rows of a contiguous array as binary values, without a copy."""
    import pyarrow as pa

    n, d = half.shape
    offsets = np.arange(n + 1, dtype=np.int64) * (2 * d)
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(half)]
    )


def decode(column: pl.Series, d: int, scale: float = 1.0) -> NDArray[np.float32]:
    """Decode a binary column of float16 sketches to (n, d) float32, multiplied by `scale`."""
    half = decode_half(column, d).astype(np.float32)
    if scale != 1.0:
        half *= np.float32(scale)
    return half


def decode_half(column: pl.Series, d: int) -> NDArray[np.float16]:
    """Decode a binary column of float16 sketches to (n, d) float16.

    Raises:
        InputError: a row does not hold d values.
    """
    return view_half(_with_offsets(column), d)


def _with_offsets(column: pl.Series) -> pa.LargeBinaryArray:
    """Return a binary column as one array of values and offsets; polars itself holds views."""
    return column.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())


def view_half(column: pa.Array, d: int) -> NDArray[np.float16]:
    """Return an Arrow column as (n, d) float16, read-only: a view of binary and large_binary, a copy of binary views.

    Raises:
        InputError: a row is null or does not hold d values.
    """
    import pyarrow as pa

    n, width = len(column), 2 * d
    if n == 0:
        return np.empty((0, d), dtype="<f2")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        column = _with_offsets(pl.Series(column))
    kind = "<i8" if pa.types.is_large_binary(column.type) else "<i4"
    _, places, values = column.buffers()
    offsets = np.frombuffer(places, dtype=kind)[column.offset : column.offset + n + 1]
    if column.null_count or (np.diff(offsets) != width).any():
        raise InputError(f"a stored sketch does not hold {d} float16 values; sketch the shard again")
    return np.frombuffer(values, dtype="<f2", count=n * d, offset=int(offsets[0])).reshape(n, d)


def encode_vector(vector: NDArray[np.floating]) -> bytes:
    """Encode one vector as float32 little-endian."""
    return np.asarray(vector, dtype="<f4").tobytes()


def decode_vector(data: bytes) -> NDArray[np.float32]:
    """Decode a float32 little-endian vector."""
    return np.frombuffer(data, dtype="<f4").copy()
