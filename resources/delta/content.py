"""Digests of what tables hold."""

from __future__ import annotations

import hashlib
from typing import Any

import polars as pl


def content_digest(frame: pl.DataFrame) -> str:
    """Return a digest of a frame's names, types and values, however they lie in memory."""
    running = hashlib.blake2b(digest_size=16)
    for name, column in zip(frame.columns, frame.iter_columns(), strict=True):
        running.update(f"{name}:{column.dtype};".encode())
        array = column.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        _digest_array(running, array)
    return running.hexdigest()


def _digest_array(running: Any, array: Any) -> None:
    """Add an Arrow array's nulls, lengths and values to a running digest."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    running.update(np.asarray(array.is_valid().to_numpy(zero_copy_only=False)).tobytes())
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        running.update(
            pc.fill_null(pc.call_function("list_value_length", [array]), 0).to_numpy().astype("<i8").tobytes()
        )
        _digest_array(running, array.flatten())
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        running.update(
            pc.fill_null(pc.call_function("binary_length", [array]), 0).to_numpy().astype("<i8").tobytes()
        )
        # Concatenating copies the values that are there, and no others, into one buffer.
        whole = pa.concat_arrays([pc.fill_null(array.cast(pa.large_binary()), b"")])
        offsets = np.frombuffer(whole.buffers()[1], dtype="<i8")[whole.offset : whole.offset + len(whole) + 1]
        if len(whole) and offsets[-1] > offsets[0]:
            running.update(whole.buffers()[2].slice(int(offsets[0]), int(offsets[-1] - offsets[0])))
    else:
        filled = pc.fill_null(array, False if pa.types.is_boolean(kind) else 0)
        running.update(filled.to_numpy(zero_copy_only=False).tobytes())
