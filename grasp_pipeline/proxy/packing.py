"""Training streams: the chunks of a subset in a seeded order, packed to rows of equal length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator


class ExampleStream(Protocol):
    """The examples of a corpus as training rows, in an order that a name decides."""

    def rows(
        self, members: NDArray[np.int64], count: int, length: int, *name: str | int
    ) -> NDArray[np.int64]:
        """Return (count, length + 1) rows of the subset `members`: inputs `[:, :-1]` and targets `[:, 1:]`."""
        ...


def packed_rows(
    pool: TokenLists, members: NDArray[np.int64], rows: int, length: int, bos: int, *name: str | int
) -> NDArray[np.int64]:
    """Pack a subset's chunks into rows: `[BOS, chunk, BOS, chunk, ...]` cut every `length` tokens.

    Each epoch is a fresh permutation seeded by `name` and the epoch's number; a subset smaller than the token
    budget is repeated. Neighbouring rows share one token: it is a target in one and context in the next.

    Args:
        pool: all chunks.
        members: indices of the subset's chunks; their order does not matter.
        rows: rows wanted.
        length: targets per row, L.
        bos: id that starts each chunk.
        name: names the draw, for example `("retrain", subset_id, seed)`.

    Returns:
        (rows, length + 1) int64.

    Raises:
        ConfigError: the subset is empty.
    """
    members = np.sort(members)
    if len(members) == 0:
        raise ConfigError(
            f"cannot train on an empty subset ({'/'.join(map(str, name))}); raise the token budget"
        )
    needed = rows * length + 1
    stream = np.empty(needed, dtype=np.int64)
    filled, epoch = 0, 0
    while filled < needed:
        for index in generator(*name, "epoch", epoch).permutation(members):
            chunk = pool.tokens[pool.offsets[index] : pool.offsets[index + 1]]
            take = min(len(chunk) + 1, needed - filled)
            stream[filled] = bos
            stream[filled + 1 : filled + take] = chunk[: take - 1]
            filled += take
            if filled == needed:
                break
        epoch += 1
    starts = np.arange(rows)[:, None] * length
    return stream[starts + np.arange(length + 1)]


@dataclass(frozen=True)
class TextStream:
    """The chunks of a pool, packed; `bos` starts each chunk."""

    pool: TokenLists
    bos: int

    def rows(
        self, members: NDArray[np.int64], count: int, length: int, *name: str | int
    ) -> NDArray[np.int64]:
        """Return `packed_rows` of the subset."""
        return packed_rows(self.pool, members, count, length, self.bos, *name)
