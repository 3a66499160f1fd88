"""Ids of rows as bytes of a fixed width, in the order of the ids: what an index holds instead of strings.

An id of this pipeline begins with digits of a sha-256; two of them are one byte. Ids that begin otherwise are held as
they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Ints
from grasp_pipeline.errors import StoreError

CHUNK_DIGITS, DOCUMENT_DIGITS = 24, 64
"""Hexadecimal digits that a chunk's and a document's id begin with."""

_BATCH = 1 << 16
_DIGITS = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
_VALUES = np.full(256, 255, dtype=np.uint8)
_VALUES[_DIGITS] = np.arange(16)

Bytes = NDArray[np.bytes_]


def _matrix(ids: pl.Series) -> tuple[NDArray[np.uint8], Ints]:
    """Return the UTF-8 bytes of ids (k, longest), filled up with zeros, and their lengths (k,)."""
    array: Any = ids.cast(pl.Binary).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    offsets = np.frombuffer(array.buffers()[1], dtype="<i8")[array.offset : array.offset + len(array) + 1]
    lengths = np.diff(offsets)
    matrix = np.zeros((len(ids), int(lengths.max(initial=1))), dtype=np.uint8)
    if len(ids) and offsets[-1] > offsets[0]:
        flat = np.frombuffer(array.buffers()[2], dtype=np.uint8)
        matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = flat[offsets[0] : offsets[-1]]
    return matrix, lengths


@dataclass(frozen=True)
class RowKeys:
    """Keys of n ids, sorted as the ids are by their bytes, so that an id's place is its row.

    digits: hexadecimal digits at the head of every id that are held as half as many bytes, 0 where ids are held whole.
    keys: (n,) bytes, of as many as the longest needs.
    """

    digits: int
    keys: Bytes

    @staticmethod
    def digits_of(ids: pl.Series, most: int) -> int:
        """Return `most` where all ids begin with so many hexadecimal digits, else 0."""
        return most if len(ids) and ids.str.contains(f"^[0-9a-f]{{{most}}}").all() else 0

    @staticmethod
    def pack(ids: pl.Series, digits: int) -> tuple[Bytes, Bools]:
        """Return the keys of ids (k,), and which begin with so many hexadecimal digits; other keys mean nothing."""
        matrix, lengths = _matrix(ids)
        if not digits:
            return _column(matrix), np.ones(len(ids), dtype=np.bool_)
        if matrix.shape[1] < digits:
            return np.zeros(len(ids), dtype="S1"), np.zeros(len(ids), dtype=np.bool_)
        values = _VALUES[matrix[:, :digits]]
        fits = (lengths >= digits) & (values < 16).all(axis=1)
        packed = (values[:, ::2] << 4) | (values[:, 1::2] & 15)
        return _column(np.hstack([packed, matrix[:, digits:]])), fits

    @classmethod
    def distinct(cls, columns: Iterable[pl.Series], most: int) -> RowKeys:
        """Return the keys of all different ids of some columns, of which one is held at a time.

        Raises:
            StoreError: some ids begin with digits and some do not.
        """
        digits, parts = -1, [np.empty(0, dtype="S1")]
        for ids in columns:
            digits = cls.digits_of(ids, most) if digits < 0 else digits
            parts.append(cls.checked(ids, digits))
        return cls(max(digits, 0), np.unique(np.concatenate(parts)))

    @classmethod
    def checked(cls, ids: pl.Series, digits: int) -> Bytes:
        """Return the keys of ids, all of which must begin with so many hexadecimal digits."""
        keys, fits = cls.pack(ids, digits)
        if not fits.all():
            raise StoreError(
                f"the id {ids[int(np.argmin(fits))]!r} has another form than the others of its table; materialize the "
                "asset that writes the table again"
            )
        return keys

    def find(self, ids: pl.Series) -> tuple[Ints, Bools]:
        """Return the rows of those ids that are there, and which are: (k,)."""
        wanted, known = self.pack(ids, self.digits)
        width = self.keys.dtype.itemsize
        if wanted.dtype.itemsize > width:  # a longer id is none of these; comparing it would widen all keys
            raw = wanted.view(np.uint8).reshape(len(wanted), -1)
            known &= ~raw[:, width:].any(axis=1)
            wanted = _column(np.ascontiguousarray(raw[:, :width]))
        elif len(wanted):
            wanted = wanted.astype(self.keys.dtype)
        rows = np.searchsorted(self.keys, wanted)
        if len(self.keys):
            known &= self.keys[np.minimum(rows, len(self.keys) - 1)] == wanted
        else:
            known[:] = False
        return rows[known].astype(np.int64), known

    def ids(self, rows: NDArray[np.integer[Any]]) -> list[str]:
        """Return the ids of rows (k,), in their order."""
        keys = self.keys[rows]
        raw = keys.view(np.uint8).reshape(len(keys), -1)
        half = self.digits // 2
        head = np.empty((len(keys), self.digits), dtype=np.uint8)
        head[:, ::2], head[:, 1::2] = _DIGITS[raw[:, :half] >> 4], _DIGITS[raw[:, :half] & 15]
        return [key.decode() for key in _column(np.hstack([head, raw[:, half:]])).tolist()]


def _column(matrix: NDArray[Any]) -> Bytes:
    """Return the rows of a matrix of bytes (k, w) as (k,) bytes."""
    matrix = np.ascontiguousarray(matrix)
    return matrix.view(f"S{matrix.shape[1]}").reshape(len(matrix))
