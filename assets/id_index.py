"""An index of a table's ids in memory: which shards hold an id that begins so, without reading a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.lineage.curation import Curation
    from grasp_pipeline.tables import Table

DIGITS = 16
"""Hexadecimal digits of an id that are kept: 8 bytes."""


@dataclass(frozen=True)
class IdIndex:
    """Beginnings of ids, sorted, and the shard of each; 12 bytes an id.

    Attributes:
        keys: (n,) uint64, the first 16 hexadecimal digits of every id, ascending.
        codes: (n,) int32, its place in `shards`.
        shards: names.
    """

    keys: NDArray[np.uint64]
    codes: NDArray[np.int32]
    shards: tuple[str, ...]

    @classmethod
    def of(cls, frame: pl.LazyFrame, column: str) -> IdIndex | None:
        """Read the ids and shards of a table; None where an id does not begin with 16 hexadecimal digits."""
        import polars as pl

        key = pl.col(column).str.slice(0, DIGITS)
        whole = key.str.len_bytes() == DIGITS
        rows = frame.select(
            key=pl.when(whole).then(key.str.to_integer(base=16, dtype=pl.UInt64, strict=False)),
            shard=pl.col("shard").cast(pl.Categorical),
        ).collect(engine="streaming")
        if rows["key"].null_count():
            return None
        keys = rows["key"].to_numpy()
        order = np.argsort(keys, kind="stable")
        names = rows["shard"].unique().cast(pl.String).sort().to_list()
        codes = rows["shard"].cast(pl.String).replace_strict(names, range(len(names)), return_dtype=pl.Int32)
        return cls(keys[order], codes.to_numpy()[order], tuple(names))

    def shards_of(self, beginning: str) -> list[str]:
        """Return the shards that hold an id which begins so; of ids alike in 16 digits all.

        Args:
            beginning: of an id; one that is no hexadecimal number begins none.
        """
        digits = beginning[:DIGITS]
        if any(each not in "0123456789abcdef" for each in digits):
            return []
        low, high = (np.uint64(int(digits.ljust(DIGITS, end), 16)) for end in "0f")
        first, last = np.searchsorted(self.keys, low, "left"), np.searchsorted(self.keys, high, "right")
        return [self.shards[code] for code in np.unique(self.codes[first:last])]


class Indexes:
    """The indexes of one curation's ids, read in the background; a search meanwhile reads the ids itself."""

    def __init__(self, curation: Curation, columns: Mapping[str, tuple[Table, str]]) -> None:
        """Begin to read; columns: what an index is asked for by -> its table and the column of its ids."""
        self.number = curation.number
        self._found: dict[str, IdIndex | None] = {}
        self._reading = Thread(target=self._read, args=(curation, columns), daemon=True)
        self._reading.start()

    def _read(self, curation: Curation, columns: Mapping[str, tuple[Table, str]]) -> None:
        for name, (table, column) in columns.items():
            self._found[name] = IdIndex.of(curation.read(table), column)

    def wait(self) -> None:
        """Return once all are read."""
        self._reading.join()

    def of(self, curation: Curation, name: str) -> IdIndex | None:
        """Return an index, where it is of this curation and there by now."""
        return self._found.get(name) if curation.number == self.number else None
