"""Files of a Delta table read in batches of bounded memory, and stored sketches as blocks of float16.

Parquet is read by pyarrow: of a column chunk of bytes the values lie one after the other once decoded, so a block is a
view of what was decoded. Tables in a local folder are opened directly, others through delta-rs's object store.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.errors import InputError, StoreError
from grasp_pipeline.locations import local_folder
from grasp_pipeline.sketch.storage import GROUP_ROWS, view_half

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

_BUFFER_BYTES = 2**20


class DataFile(NamedTuple):
    """One Parquet file of a table: path inside the table's folder, partition values and number of rows."""

    path: str
    partition: dict[str, str]
    n_rows: int


def data_files(delta: DeltaTable, partition: Mapping[str, str] | None = None) -> list[DataFile]:
    """Return the files that hold (a partition of) an open table at its version, by partition values, then path.

    Raises:
        StoreError: rows of a file are marked as deleted (deletion vectors), which reading whole files would miss.
    """
    import pyarrow as pa

    if "deletionVectors" in (delta.protocol().reader_features or ()):
        raise StoreError(
            f"the table {delta.table_uri} marks deleted rows by deletion vectors, which its readers here do not know; "
            "delete its folder and materialize the asset that writes it again"
        )
    keys = delta.metadata().partition_columns
    rows = pa.table(delta.get_add_actions(flatten=True)).to_pylist()  # type: ignore[arg-type]
    uncounted = [row["path"] for row in rows if row["num_records"] is None]
    if uncounted:
        raise StoreError(
            f"the log of {delta.table_uri} does not say how many rows {uncounted[0]} holds; another program wrote it. "
            "Materialize the asset that writes the table again"
        )
    files = [
        DataFile(unquote(row["path"]), {key: row[f"partition.{key}"] for key in keys}, row["num_records"])
        for row in rows
    ]
    wanted = dict(partition or {})
    chosen = [file for file in files if all(file.partition[key] == value for key, value in wanted.items())]
    return sorted(chosen, key=lambda file: (*file.partition.values(), file.path))


def file_batches(
    delta: DeltaTable, file: DataFile, columns: Sequence[str], batch_rows: int, buffered: bool = False
) -> Iterator[pa.RecordBatch]:
    """Yield columns of a file in batches, in the file's order.

    Args:
        delta: the open table.
        file: one of its files.
        columns: names of columns that are stored in the file (partition columns are not), in the order wanted.
        batch_rows: most rows in a batch.
        buffered: decode a row group bit by bit from a small buffer instead of reading its columns whole first; slower,
            for row groups that are large.

    Raises:
        StoreError: the file does not hold a column.
    """
    import pyarrow.parquet as pq

    with _open_input(delta, file.path) as source:
        parquet = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES if buffered else 0, pre_buffer=False)
        missing = sorted(set(columns) - set(parquet.schema_arrow.names))
        if missing:
            raise StoreError(
                f"the file {file.path} of {delta.table_uri} has no column {', '.join(missing)}; materialize the asset "
                "that writes the table again"
            )
        for batch in parquet.iter_batches(batch_rows, columns=list(columns), use_threads=False):
            yield batch.select(list(columns))


def _open_input(delta: DeltaTable, path: str) -> Any:
    """Open a file of a table for reading; a local one without the detour through delta-rs, at twice the speed."""
    import pyarrow as pa
    from deltalake.fs import DeltaStorageHandler

    folder = local_folder(delta.table_uri)
    if folder is not None:
        return pa.OSFile(str(Path(folder) / path))
    handler = DeltaStorageHandler.from_table(delta._table, delta._storage_options, {})
    return handler.open_input_file(path)


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

    def __init__(self, delta: DeltaTable, kind: str, shards: Sequence[str] | None = None) -> None:
        """Look up what there is; no sketch is read yet.

        Args:
            delta: the table, opened at the version to read.
            kind: sketch kind.
            shards: shards to read; None for all.

        Raises:
            StoreError: the kind or a shard has no sketches, or shards differ in dimension or scale.
        """
        files = data_files(delta, {"sketch_kind": kind})
        if shards is not None:
            absent = sorted(set(shards) - {file.partition["shard"] for file in files})
            if absent:
                raise StoreError(
                    f"there are no {kind} sketches of the shards {', '.join(absent)} at version {delta.version()}; "
                    "materialize gradient_sketches for them"
                )
            files = [file for file in files if file.partition["shard"] in set(shards)]
        self._files = sorted(
            (file for file in files if file.n_rows), key=lambda file: (file.partition["shard"], file.path)
        )
        if not self._files:
            raise StoreError(
                f"there are no {kind} sketches at version {delta.version()} of {delta.table_uri}; materialize "
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

    def scaled(self, rows: int = GROUP_ROWS) -> ScaledBlocks:
        """Return the sketches at their true scale in the form that the attribution's passes take."""
        return ScaledBlocks(self, rows)


@dataclass(frozen=True)
class ScaledBlocks:
    """Stored sketches as (first row, (b, d) float32 block) at their true scale; see `attribution.blocks`."""

    reader: SketchReader
    rows: int

    @property
    def n(self) -> int:
        """Number of sketches."""
        return self.reader.n

    @property
    def d(self) -> int:
        """Dimension of a sketch."""
        return self.reader.d

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        start = 0
        for block in self.reader.blocks(self.rows):
            yield start, block.sketches.astype(np.float32) * np.float32(self.reader.scale)
            start += len(block.sketches)
