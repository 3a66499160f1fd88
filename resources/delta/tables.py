"""Versioned Delta tables: reading at a version, and atomic writes of partitions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import polars as pl

from grasp_pipeline.errors import StoreError
from grasp_pipeline.seeds import digest
from grasp_pipeline.tables import ALL, Table
from resources.delta.commits import Commit, Partition, Provenance, Read, data_metadata
from resources.delta.content import content_digest
from resources.delta.files import data_files, file_batches
from resources.delta.log import TableLogs
from resources.delta.partition_file import PartitionFile
from resources.delta.predicates import check_partition, partition_predicate

KEEP_LOG = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": "10",
}
"""delta-rs would delete the log's entries after 30 days, and with them what old versions were made from; it would look
at every entry after every commit for it. It would write a checkpoint after a hundred commits: until then a table takes
longer to open with every one."""


STANDING = ("code_version", "config_digest", "upstream", "input_digest", "reads", "settings")
"""What a note says that content follows from."""


class DeltaTables(TableLogs):
    """All tables below one root, a local folder or an object-store URI."""

    def read(self, table: Table, version: int, partition: Partition | None = None) -> pl.LazyFrame:
        """Return a lazy frame of the table, or one partition of it, at a version; columns added since are null."""
        opened = self.open_to_read(table, version)
        frame = pl.scan_delta(opened, storage_options=self._options)
        frame = frame.with_columns(
            pl.lit(None, table.schema[name]).alias(name) for name in self.lacking(table, opened)
        )
        for key, value in (partition or {}).items():
            frame = frame.filter(pl.col(key) == value)
        return frame.select(list(table.schema))

    def rows(self, read: Read) -> pl.LazyFrame:
        """Return a lazy frame of exactly the rows that a pinned read names."""
        return self.read(ALL[read.table], read.version, dict(read.partition))

    def count(self, table: Table, version: int) -> int:
        """Return the number of rows at a version, from the log alone."""
        return int(self._open(table, version).count())

    def batches(
        self,
        table: Table,
        version: int,
        partition: Partition | None = None,
        columns: Sequence[str] | None = None,
        rows: int = 1024,
    ) -> Iterator[pl.DataFrame]:
        """Yield (a partition of) the table at a version in frames of at most `rows` rows; one is held at a time.

        Rows come in an order that is the same in every reading of the version. `columns`: those wanted; None for all.
        """
        delta = self.open_to_read(table, version)
        wanted = list(table.schema if columns is None else columns)
        new = dict.fromkeys(self.lacking(table, delta), pl.lit(None))
        stored = [name for name in wanted if name not in table.partition_by and name not in new]
        for file in data_files(delta, partition):
            fixed = {name: pl.lit(file.partition[name]) for name in wanted if name in table.partition_by}
            fixed |= {name: null for name, null in new.items() if name in wanted}
            for batch in file_batches(delta, file, stored, rows, buffered=True):
                frame = pl.DataFrame(batch).with_columns(**fixed)
                yield frame.select(pl.col(name).cast(table.schema[name]) for name in wanted)

    def create(self, table: Table, provenance: Provenance) -> None:
        """Create the table where it does not exist yet; concurrent writers start after this."""
        from deltalake import CommitProperties, DeltaTable

        metadata = replace(provenance, settings="").metadata()

        def attempt() -> None:
            if self.exists(table):
                return
            with self._racing(table):
                DeltaTable.create(
                    self._address(table),
                    table.empty().to_arrow().schema,
                    mode="ignore",
                    partition_by=list(table.partition_by),
                    name=table.name,
                    description=table.description,
                    configuration=KEEP_LOG,
                    storage_options=self._options,
                    commit_properties=CommitProperties(custom_metadata=metadata),
                )

        self._persist(table, attempt)

    def write(
        self,
        table: Table,
        frame: pl.DataFrame,
        provenance: Provenance,
        partition: Partition | None = None,
        statistics: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Replace a partition, or the whole table, in one commit.

        Equal content from the same tables and splits, with equal statistics (seconds aside), makes no commit: the last
        one is returned.

        Raises:
            StoreError: another writer kept winning the same partition.
            ValueError: the frame breaks the table's contract.
        """
        frame = table.conform(frame)
        check_partition(table, frame, partition)
        content = content_digest(frame)
        before = self._holding(table, content, partition)
        if before is not None and before.says(provenance, statistics or {}):
            return before
        self.create(table, provenance)
        metadata = data_metadata(provenance, partition or {}, content, statistics or {})

        return self._commit(table, metadata, self._overwriting(table, frame, partition))

    def _overwriting(
        self, table: Table, frame: pl.DataFrame, partition: Partition | None = None
    ) -> Callable[[Any, Any], None]:
        """Return what replaces a partition, or the whole of an open table; the table gets columns added since."""
        from deltalake import WriterProperties, write_deltalake

        def commit(delta: Any, properties: Any) -> None:
            write_deltalake(
                delta,
                frame,
                mode="overwrite",
                schema_mode="merge" if self.lacking(table, delta) else None,
                predicate=partition_predicate(partition) if partition else None,
                commit_properties=properties,
                writer_properties=WriterProperties(compression="ZSTD", max_row_group_size=65_536),
            )

        return commit

    def stamp(self, table: Table, curation: int) -> None:
        """Write the number of its curation into every row of a published table that tells another one.

        The commit tells of what it is made as the one before did, so that nothing is made anew for it.

        Raises:
            StoreError: another run published meanwhile.
        """
        newest, standing = self.latest(table), self.standing(table)
        assert newest is not None
        assert standing is not None
        frame = self.read(table, newest.version).collect()
        if (frame["curation"] == curation).fill_null(value=False).all():
            return
        frame = table.conform(frame.with_columns(curation=pl.lit(curation)))
        same = {name: value for name, value in standing.metadata.items() if name in STANDING}
        metadata = newest.metadata | same | {"content_digest": content_digest(frame)}
        metadata = {name: value for name, value in metadata.items() if name not in ("operation", "curation")}
        write = self._overwriting(table, frame)

        def commit(delta: Any, properties: Any) -> None:
            now = self.latest(table)
            if now is None or now.version != newest.version:
                raise StoreError(
                    f"another run published {table.name} while this one gave it its number; that run gives its own. "
                    "Launch this one again"
                )
            write(delta, properties)

        self._commit(table, metadata, commit)

    def write_stream(
        self,
        table: Table,
        frames: Iterable[pl.DataFrame],
        provenance: Provenance,
        partition: Partition,
        statistics: Callable[[], Mapping[str, Any]],
        group_rows: int = 1024,
    ) -> Commit:
        """Replace a partition by rows that are still being made, in one commit and one file.

        A frame is written while the next one is made; besides those two none is held. Nothing is visible before the
        commit. An error while frames are made or written leaves the table as it was and no file; a commit that fails
        leaves a file that no version refers to. Equal content makes no commit, as in `write`.

        Args:
            table: the table.
            frames: its rows in pieces of any size.
            provenance: what they are made from.
            partition: a value for every partition column.
            statistics: asked when all rows are written, just before the commit.
            group_rows: rows of a row group of the file.

        Raises:
            StoreError: another writer kept winning the same partition.
            ValueError: a frame breaks the table's contract, or the key is not unique over all of them.
        """
        from grasp_pipeline.sketch.storage import in_groups

        if sorted(partition) != sorted(table.partition_by):
            raise ValueError(
                f"table {table.name}: a stream writes one partition of ({', '.join(table.partition_by)})"
            )
        self.create(table, provenance)
        with PartitionFile(self._open(table), table, partition) as file, ThreadPoolExecutor(1) as writer:
            written: Future[None] | None = None
            for frame in in_groups((self._checked(table, frame, partition) for frame in frames), group_rows):
                if written is not None:
                    written.result()
                written = writer.submit(file.append, frame)
            if written is not None:
                written.result()
            action = file.finish()
            told = statistics()
        content = file.content()
        before = self._holding(table, content, partition)
        if before is not None and before.says(provenance, told):
            file.discard()
            return before
        metadata = data_metadata(provenance, partition, content, told)

        def commit(delta: Any, properties: Any) -> None:
            delta.create_write_transaction(
                [action] if action is not None else [],
                "overwrite",
                delta.schema(),
                list(table.partition_by),
                [(key, "=", value) for key, value in partition.items()],
                commit_properties=properties,
            )

        return self._commit(table, metadata, commit)

    def _checked(self, table: Table, frame: pl.DataFrame, partition: Partition) -> pl.DataFrame:
        frame = table.conform(frame)
        check_partition(table, frame, partition)
        return frame

    def stream_content(
        self, table: Table, frames: Iterable[pl.DataFrame], partition: Partition, group_rows: int = 1024
    ) -> tuple[str, int]:
        """Return the digest that `write_stream` would store for rows, and how many there are; nothing is held."""
        from grasp_pipeline.sketch.storage import in_groups

        digests, rows = [], 0
        for group in in_groups((self._checked(table, frame, partition) for frame in frames), group_rows):
            digests.append(content_digest(group))
            rows += group.height
        return digest(digests), rows

    def holds_content(self, table: Table, content: str, partition: Partition) -> bool:
        """Return whether the last commit of the partition wrote rows of this digest."""
        return self._holding(table, content, partition) is not None

    def holds(self, table: Table, frame: pl.DataFrame, partition: Partition | None = None) -> bool:
        """Return whether the last commit of the partition, or of the whole table, wrote exactly these rows."""
        return self._holding(table, content_digest(table.conform(frame)), partition) is not None

    def _holding(self, table: Table, content: str, partition: Partition | None) -> Commit | None:
        last = self.latest(table, partition)
        if last is None or last.partition != dict(partition or {}):
            return None
        return last if last.metadata.get("content_digest") == content else None

    def upsert(
        self,
        table: Table,
        frame: pl.DataFrame,
        provenance: Provenance,
        partition: Partition | None = None,
        statistics: Mapping[str, Any] | None = None,
    ) -> Commit:
        """Insert rows, replacing those with the same key, in one commit.

        Raises:
            StoreError: another writer kept winning.
            ValueError: the frame breaks the table's contract.
        """
        frame = table.conform(frame)
        check_partition(table, frame, partition)
        self.create(table, provenance)
        metadata = data_metadata(provenance, partition or {}, content_digest(frame), statistics or {})
        on = " AND ".join(
            f't."{key}" = s."{key}"' for key in dict.fromkeys((*table.partition_by, *table.key))
        )

        def commit(delta: Any, properties: Any) -> None:
            merge = delta.merge(frame, on, source_alias="s", target_alias="t", commit_properties=properties)
            merge.when_matched_update_all().when_not_matched_insert_all().execute()

        return self._commit(table, metadata, commit)

    def add_row(
        self, table: Table, make: Callable[[pl.DataFrame], pl.DataFrame], provenance: Provenance
    ) -> tuple[pl.DataFrame, bool]:
        """Add rows to a small unpartitioned table that follow from those it has; a lost race makes them anew.

        Args:
            table: the table.
            make: takes its rows, gives those to add; empty: there is nothing to add.
            provenance: what they are made from.

        Returns:
            The table's rows afterwards, and whether any were added.

        Raises:
            StoreError: another writer kept winning.
            ValueError: the rows break the table's contract.
        """
        from deltalake import write_deltalake

        last = self.latest(table)
        had = table.empty() if last is None else self.read(table, last.version).collect()
        if make(had).is_empty():
            return had, False
        self.create(table, provenance)
        rows = [had]

        def commit(delta: Any, properties: Any) -> None:
            before = self.read(table, delta.version()).collect()
            rows[0] = table.conform(pl.concat([before, table.conform(make(before))]))
            write_deltalake(delta, rows[0], mode="overwrite", commit_properties=properties)

        metadata = data_metadata(provenance, {}, digest(provenance.run_id, time.time_ns()), {})
        self._commit(table, metadata, commit)
        return rows[0], True
