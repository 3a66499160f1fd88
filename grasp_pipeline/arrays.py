"""The arrays of the whole house: names for their types, and the one ragged array, lists of token ids end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError

if TYPE_CHECKING:
    import polars as pl

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Codes = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class TokenLists:
    """Token ids of n chunks end to end: chunk i is `tokens[offsets[i]:offsets[i + 1]]`.

    tokens: (total,) integers; offsets: (n + 1,) int64.

    Raises:
        InputError: offsets do not run from 0 to the number of tokens in steps of 0 or more.
    """

    tokens: NDArray[np.integer[Any]]
    offsets: Ints

    def __post_init__(self) -> None:
        at = self.offsets
        if len(at) == 0 or at[0] != 0 or at[-1] != len(self.tokens) or (np.diff(at) < 0).any():
            raise InputError("chunk offsets must rise from 0 to the number of tokens")

    @classmethod
    def of(cls, lists: Sequence[Sequence[int] | NDArray[np.integer[Any]]]) -> TokenLists:
        """Return chunks given as one sequence of token ids each."""
        flat = [np.empty(0, np.int32), *(np.asarray(ids, dtype=np.int32) for ids in lists)]
        return cls(np.concatenate(flat), offsets_of([len(ids) for ids in lists]))

    @classmethod
    def join(cls, parts: Sequence[TokenLists]) -> TokenLists:
        """Return the chunks of all parts, one part after the other."""
        tokens = [np.empty(0, np.int32), *(part.tokens for part in parts)]
        lengths = [np.empty(0, np.int64), *(part.lengths for part in parts)]
        return cls(np.concatenate(tokens), offsets_of(np.concatenate(lengths)))

    @classmethod
    def of_column(cls, column: pl.Series) -> TokenLists:
        """Return the chunks of a column of lists, without a copy of the tokens."""
        import polars as pl

        array: Any = column.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
        offsets = array.offsets.to_numpy().astype(np.int64)
        first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
        return cls(array.values.to_numpy()[first:last], offsets - first)

    @property
    def n(self) -> int:
        """Number of chunks."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ints:
        """(n,) tokens per chunk."""
        return np.diff(self.offsets)

    def chunk(self, index: int) -> list[int]:
        """Return the token ids of one chunk."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]].tolist()


def offsets_of(lengths: Sequence[int] | NDArray[np.integer[Any]]) -> Ints:
    """Return (n + 1,) where lists of the given lengths begin and end in one flat array."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
