"""One Parquet file of a partition, written group by group; nothing is visible before a commit adds it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Self
from urllib.parse import quote

import polars as pl

from grasp_pipeline.seeds import digest
from grasp_pipeline.tables import Table
from resources.delta.content import content_digest


class PartitionFile:
    """A Parquet file of one partition while it is written; as a context, an error leaves no file.

    Columns of bytes, sketches above all, are stored plain: float16 noise shrinks by a sixth and takes four times as
    long to read back.
    """

    def __init__(self, delta: Any, table: Table, partition: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from deltalake.fs import DeltaStorageHandler

        self._table, self._partition = table, dict(partition)
        self._store = DeltaStorageHandler.from_table(delta._table, delta._storage_options, {})
        folders = "".join(f"{key}={quote(partition[key], safe='')}/" for key in table.partition_by)
        self._path = f"{folders}part-00000-{uuid.uuid4()}-c000.parquet"
        fields = [field for field in pa.schema(delta.schema().to_arrow()) if field.name not in partition]
        self._schema = pa.schema(fields)
        plain = {field.name for field in fields if pa.types.is_binary(field.type)}
        # The raw stream: pyarrow's own wrapper of it cannot be dropped unclosed.
        self._sink = _Sink(self._store._handler.open_output_stream(self._path, None))
        names = self._schema.names
        options: dict[str, Any] = {
            "compression": {name: "NONE" if name in plain else "ZSTD" for name in names},
            "use_dictionary": [name for name in names if name not in {*plain, *table.key}],
            "write_statistics": [name for name in names if name not in plain],
            "data_page_size": 2**25,
        }
        self._writer = pq.ParquetWriter(pa.PythonFile(self._sink, mode="w"), self._schema, **options)
        self._rows = 0
        self._digests: list[str] = []
        self._keys: list[Any] = []

    def append(self, frame: pl.DataFrame) -> None:
        """Add rows of the table, already conformed, as one row group."""
        self._rows += frame.height
        self._digests.append(content_digest(frame))
        self._keys.append(frame.select(self._table.key).hash_rows().to_numpy())
        stored = frame.select(self._schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        self._writer.write_table(stored.cast(self._schema), row_group_size=frame.height)

    def finish(self) -> Any:
        """Close the file and return the log action that adds it; None, and no file, where there are no rows.

        Raises:
            ValueError: the key is not unique. Keys are compared by 64-bit hashes.
        """
        import numpy as np
        from deltalake.transaction import AddAction

        if not self._rows:
            self.discard()
            return None
        keys = np.sort(np.concatenate(self._keys))
        if (keys[1:] == keys[:-1]).any():
            raise ValueError(
                f"table {self._table.name}: the key ({', '.join(self._table.key)}) is not unique"
            )
        self._writer.close()
        self._sink.commit()
        statistics = json.dumps({"numRecords": self._rows})
        now = int(time.time() * 1000)
        return AddAction(self._path, self._sink.size, self._partition, now, True, statistics)

    def content(self) -> str:
        """Return a digest of the rows, in groups as they were appended."""
        return digest(self._digests)

    def discard(self) -> None:
        """Leave no file behind."""
        self._writer.is_open = False  # a closed writer would write a footer
        self._sink.abandon()
        with suppress(FileNotFoundError):
            self._store.delete_file(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self.discard()


class _Sink:
    """An output stream of delta-rs for pyarrow: takes buffers, and is closed only when the file is whole.

    Closing is what makes a file visible; dropped unclosed, an upload leaves nothing.
    """

    def __init__(self, stream: Any) -> None:
        self._stream: Any = stream
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Add bytes; the writer's last ones, on its way out of an abandoned file, go nowhere."""
        if self._stream is not None:
            self._stream.write(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing: the stream cuts its own parts."""

    def close(self) -> None:
        """Do nothing: see `commit`."""

    def commit(self) -> None:
        """Close the stream: the file is whole."""
        self._stream.close()
        self.closed = True

    def abandon(self) -> None:
        """Drop the stream unclosed."""
        self._stream = None
        self.closed = True
