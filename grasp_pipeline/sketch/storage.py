"""Sketches as bytes: float16 little-endian with one scale per kind, a power of two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError


def power_of_two_scale(sketches: NDArray[np.float32]) -> float:
    """Return the power of two nearest to the root mean square of some typical sketches; 1.0 for all zeros."""
    rms = float(np.sqrt(np.mean(np.square(sketches, dtype=np.float64))))
    return 2.0 ** round(math.log2(rms)) if rms > 0 else 1.0


def encode(sketches: NDArray[np.float32], scale: float, chunk_ids: Sequence[str]) -> list[bytes]:
    """Encode (n, d) float32 sketches as n byte strings of d float16 values, divided by `scale`.

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
    return [row.tobytes() for row in half]


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
    joined = b"".join(column.to_list())
    if len(joined) != 2 * d * len(column):
        raise InputError(f"a stored sketch does not hold {d} float16 values; sketch the shard again")
    return np.frombuffer(joined, dtype="<f2").reshape(len(column), d)


def encode_vector(vector: NDArray[np.floating]) -> bytes:
    """Encode one vector as float32 little-endian."""
    return np.asarray(vector, dtype="<f4").tobytes()


def decode_vector(data: bytes) -> NDArray[np.float32]:
    """Decode a float32 little-endian vector."""
    return np.frombuffer(data, dtype="<f4").copy()
