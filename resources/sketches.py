"""Stored sketches: read as blocks of float16, and what they took."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError, StoreError
from grasp_pipeline.sketch.storage import GROUP_ROWS, view_half
from grasp_pipeline.tables import GRADIENT_SKETCHES
from resources.delta.files import DataFile, data_files, file_batches
from resources.notes import SketchNote

if TYPE_CHECKING:
    import pyarrow as pa

    from resources.delta.tables import DeltaTables


@dataclass(frozen=True)
class SketchBlock:
    """Consecutive stored sketches: values (n, d) float16, read-only, to be multiplied by the scale, and chunk ids.

    The values are a view of the block's own memory; they stay valid as long as they are referred to.
    """

    sketches: NDArray[np.float16]
    _ids: pa.Array

    @property
    def ids(self) -> pl.Series:
        """Chunk ids (n,); converted when asked for, which costs as much as reading the values."""
        return pl.Series("chunk_id", self._ids)


class SketchReader:
    """The sketches of one kind in `gradient_sketches` at a version, streamed as blocks.

    Shards come in order of their names, rows in the order in which a shard's file holds them; the size of the blocks
    changes nothing. It can be read any number of times.

    n: number of sketches; d: their dimension; scale: factor of the stored values.
    """

    def __init__(
        self, tables: DeltaTables, version: int, kind: str, shards: Sequence[str] | None = None
    ) -> None:
        """Look up what there is; no sketch is read yet.

        Args:
            tables: the store's tables.
            version: of `gradient_sketches`.
            kind: sketch kind.
            shards: shards to read; None for all.

        Raises:
            StoreError: the kind or a shard has no sketches, or shards differ in dimension or scale.
        """
        delta = tables.open_to_read(GRADIENT_SKETCHES, version)
        files = data_files(delta, {"sketch_kind": kind})
        if shards is not None:
            absent = sorted(set(shards) - {file.partition["shard"] for file in files})
            if absent:
                raise StoreError(
                    f"there are no {kind} sketches of the shards {', '.join(absent)} at version {version}; "
                    "materialize gradient_sketches for them"
                )
            files = [file for file in files if file.partition["shard"] in set(shards)]
        self._files = sorted(
            (file for file in files if file.n_rows), key=lambda file: (file.partition["shard"], file.path)
        )
        if not self._files:
            raise StoreError(
                f"there are no {kind} sketches at version {version} of {delta.table_uri}; materialize "
                "gradient_sketches first"
            )
        self._delta, self.kind = delta, kind
        self.n = sum(file.n_rows for file in self._files)
        layouts = {self._layout(file) for file in self._files}
        if len(layouts) > 1:
            raise StoreError(
                f"the {kind} sketches of different shards do not match in dimension or scale; materialize "
                "gradient_sketches for every shard"
            )
        self.d, self.scale = layouts.pop()

    def _layout(self, file: DataFile) -> tuple[int, float]:
        """Return dimension and scale of a file's first row."""
        (head,) = next(file_batches(self._delta, file, ["d", "scale"], 1)).to_pylist()
        return head["d"], head["scale"]

    def blocks(self, rows: int = GROUP_ROWS) -> Iterator[SketchBlock]:
        """Yield all sketches in blocks of at most `rows`.

        Raises:
            InputError: a stored sketch does not hold d values; the message names the file.
        """
        for file in self._files:
            for batch in file_batches(self._delta, file, ["chunk_id", "sketch"], rows):
                try:
                    values = view_half(batch.column(1), self.d)
                except InputError as error:
                    raise InputError(f"{file.path}: {error}") from error
                yield SketchBlock(values, batch.column(0))


def sketch_seconds(tables: DeltaTables, kind: str) -> float:
    """Return the seconds that one kind's current sketches took, over all shards."""
    newest: dict[str, float] = {}
    for commit in tables.commits(GRADIENT_SKETCHES):
        partition = commit.partition or {}
        if partition.get("sketch_kind") == kind:
            newest.setdefault(partition["shard"], SketchNote.of(commit).seconds)
    return sum(newest.values())
