"""Subsets of the chunks as packed bits: who is in each, at an eighth of a byte a chunk.

A (m, n) array of booleans takes eight times as much, and a product with it, which numpy makes in float64, 64 times.
What is computed from subsets is computed range by range of the chunks, for either form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Bools, Floats

RANGE = 1 << 16
"""Chunks that are unpacked at once; a multiple of 8."""


@dataclass(frozen=True, eq=False)
class Memberships:
    """m subsets of n chunks. bits: (m, ceil(n / 8)) uint8, the first chunk in the highest bit, as `numpy.packbits`.

    Raises:
        ValueError: the bits are of another number of chunks.
    """

    bits: NDArray[np.uint8]
    n: int

    ndim = 2
    __array_ufunc__ = None  # an array times this is nobody's wish: it would be unpacked whole

    def __post_init__(self) -> None:
        if self.bits.ndim != 2 or self.bits.shape[1] != -(-self.n // 8):
            raise ValueError(f"bits of shape {self.bits.shape} do not fit subsets of {self.n} chunks")

    @classmethod
    def of(cls, rows: Iterable[ArrayLike], n: int) -> Memberships:
        """Pack memberships (n,), one at a time."""
        return cls.of_bytes((np.packbits(np.asarray(row, dtype=bool)).tobytes() for row in rows), n)

    @classmethod
    def of_bytes(cls, rows: Iterable[bytes], n: int) -> Memberships:
        """Return memberships that are packed already, as the table `subsets` has them."""
        packed = [np.frombuffer(row, dtype=np.uint8) for row in rows]
        return cls(np.stack(packed) if packed else np.empty((0, -(-n // 8)), dtype=np.uint8), n)

    @classmethod
    def join(cls, parts: Sequence[Memberships]) -> Memberships:
        """Return the subsets of all parts, which are of the same chunks."""
        return cls(np.concatenate([part.bits for part in parts]), parts[0].n)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return len(self.bits), self.n

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[Bools]:
        """Yield every subset (n,), unpacked."""
        for row in self.bits:
            yield np.unpackbits(row, count=self.n).view(np.bool_)

    def __getitem__(self, rows: Any) -> Memberships:
        """Return some subsets: a slice, indices, or (m,) whether each."""
        return Memberships(self.bits[rows], self.n)

    def columns(self, start: int, stop: int) -> Bools:
        """Return the memberships (m, k) of a range of chunks."""
        first = start // 8
        packed = self.bits[:, first : -(-stop // 8)]
        return np.unpackbits(packed, axis=1)[:, start - 8 * first : stop - 8 * first].view(np.bool_)

    def has(self, membership: Bools) -> bool:
        """Return whether a membership (n,) is one of these."""
        return bool((self.bits == np.packbits(membership)).all(axis=1).any())

    def __matmul__(self, values: NDArray[Any]) -> Floats:
        """Return the sums (m,) or (m, T) of values (n,) or (n, T) of the chunks in every subset."""
        return sums_over(self, values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Unpack all: for methods whose features are the memberships themselves."""
        return self.columns(0, self.n).astype(dtype or np.bool_)


class NamedMemberships(MutableMapping[str, Bools]):
    """Memberships (n,) by name, each packed while it is kept and unpacked when it is asked for."""

    def __init__(self, n: int, packed: Mapping[str, bytes] | None = None) -> None:
        """Take those that are packed already; n: number of chunks."""
        self.n, self._packed = n, dict(packed or {})

    def __getitem__(self, name: str) -> Bools:
        return next(iter(Memberships.of_bytes([self._packed[name]], self.n)))

    def __setitem__(self, name: str, membership: Bools) -> None:
        self._packed[name] = np.packbits(membership).tobytes()

    def __delitem__(self, name: str) -> None:
        del self._packed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


Membership = NDArray[np.bool_] | NDArray[np.floating[Any]] | Memberships
"""(m, n) subsets of chunks: booleans, shares between 0 and 1, or packed bits."""


def columns_of(membership: Membership, start: int, stop: int) -> NDArray[Any]:
    """Return a range of the chunks, (m, k)."""
    if isinstance(membership, Memberships):
        return membership.columns(start, stop)
    return membership[:, start:stop]


def sums_over(membership: Membership, values: ArrayLike) -> Floats:
    """Return the sums (m,) or (m, T) of values (n,) or (n, T) over subsets, range by range of the chunks."""
    given = np.asarray(values, dtype=np.float64)
    total = np.zeros((len(membership), *given.shape[1:]))
    for start in range(0, len(given), RANGE):
        stop = min(start + RANGE, len(given))
        total += columns_of(membership, start, stop).astype(np.float64) @ given[start:stop]
    return total
