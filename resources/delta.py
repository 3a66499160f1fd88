"""Versioned Delta tables: reading at a version, atomic partition writes, and what each commit was made from.

Every commit carries `run_id`, `asset_key`, `code_version`, `config_digest` and `upstream` (JSON: table -> version
read) and, for our own bookkeeping, `partition` (JSON), `input_digest`, `content_digest`, `reads` (JSON: partitions
of upstream tables that were read), `statistics` (JSON) and, where the step has a configuration, `settings` (JSON: its
values). Those decide what is current: nothing else does, `settings` aside, which only tell.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.locations import is_local, local_file, local_folder, tidy_root
from grasp_pipeline.seeds import digest
from grasp_pipeline.tables import ALL, GRADIENT_SKETCHES, Table
from resources.content import content_digest
from resources.partition_file import PartitionFile

if TYPE_CHECKING:
    from grasp_pipeline.sketch.reader import SketchReader

Partition = Mapping[str, str]
_RETRIES = 4


@dataclass(frozen=True)
class Read:
    """One table read for a result: its version and, where only some rows were read, the values of columns they have."""

    table: str
    version: int
    partition: tuple[tuple[str, str], ...] = ()

    def label(self) -> str:
        """Return `table` or `table/key=value`."""
        return "/".join([self.table, *(f"{key}={value}" for key, value in self.partition)])


@dataclass(frozen=True)
class Provenance:
    """What a commit is made from; written into its metadata."""

    run_id: str
    asset_key: str
    code_version: str
    config_digest: str
    reads: tuple[Read, ...] = ()
    settings: str = ""

    def labels(self) -> set[str]:
        """Return what was read, at whatever version."""
        return {read.label() for read in self.reads}

    def input_digest(self) -> str:
        """Return a digest of code, configuration and upstream versions: equal digests give equal results."""
        reads = sorted((read.label(), read.version) for read in self.reads)
        return digest(self.asset_key, self.code_version, self.config_digest, reads)


@dataclass(frozen=True)
class Settings:
    """The configuration that a step made its table under: a digest, and the values, None where they were not kept."""

    digest: str
    values: dict[str, Any] | None


@dataclass(frozen=True)
class Commit:
    """One commit of a table as its log tells it; `timestamp` in milliseconds since the epoch."""

    version: int
    timestamp: int
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def partition(self) -> dict[str, str] | None:
        """Partition written: {} for the whole table, None for the commit that created it."""
        label = self.metadata.get("partition")
        return None if label is None else json.loads(label)

    @property
    def statistics(self) -> dict[str, Any]:
        """Figures that the writing asset left (seconds, tokens...)."""
        return json.loads(self.metadata.get("statistics", "{}"))

    @property
    def reads(self) -> dict[str, int]:
        """Labels of what was read -> version."""
        return json.loads(self.metadata.get("reads", "{}"))


def sql_literal(value: str) -> str:
    """Quote a string for a Delta predicate; quotes inside are doubled."""
    return "'" + value.replace("'", "''") + "'"


def partition_predicate(partition: Partition) -> str:
    """Return the predicate that selects one partition."""
    return " AND ".join(f'"{key}" = {sql_literal(value)}' for key, value in partition.items())


def _settings(statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an asset left for its readers, without the time it took."""
    return {key: value for key, value in statistics.items() if key != "seconds"}


def _says_the_same(before: Commit, provenance: Provenance, statistics: Mapping[str, Any]) -> bool:
    """Return whether a new commit of equal content would tell nothing new of what was read and what was left."""
    same_reads = set(before.reads) == provenance.labels()
    return same_reads and _settings(before.statistics) == _settings(statistics)


def _agrees(written: Mapping[str, str], asked: Partition) -> bool:
    return all(asked.get(key, value) == value for key, value in written.items())


@cache
def _table_class() -> Any:
    """Return delta-rs's table, which says where its files lie in a form that polars reads back."""
    from deltalake import DeltaTable

    class PlacedTable(DeltaTable):
        """polars takes what this names for paths; delta-rs escapes the folder above the table in them."""

        def file_uris(self, *arguments: Any, **named: Any) -> list[str]:
            return [local_file(self.table_uri, uri) for uri in super().file_uris(*arguments, **named)]

    return PlacedTable


class DeltaTables:
    """All tables below one root, a local folder or an object-store URI."""

    def __init__(self, root: str, storage_options: dict[str, str] | None = None) -> None:
        self.root = tidy_root(root)
        self._options = storage_options or None
        self._committing = threading.Lock()

    def uri(self, table: Table) -> str:
        """Return the table's folder or URI."""
        return f"{self.root}/{table.name}"

    def _address(self, table: Table) -> str:
        """Return what delta-rs takes: a folder's whole path, since it takes the `a:` of `a:b/c` for a scheme."""
        return os.path.abspath(self.uri(table)) if is_local(self.root) else self.uri(table)

    def _open(self, table: Table, version: int | None = None) -> Any:
        from deltalake.exceptions import TableNotFoundError

        try:
            with self._reading(table, but=(TableNotFoundError,)):
                opened = _table_class()(self._address(table), version=version, storage_options=self._options)
        except TableNotFoundError as error:
            raise StoreError(
                f"the table {table.name} does not exist in the store {self.root}; materialize the asset that writes it"
            ) from error
        self._check_layout(table, opened)
        return opened

    def _reading(self, table: Table, but: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
        """Around a call of delta-rs that reads the table's log."""
        thing = f"the table {table.name} in the store {self.root} cannot be opened"
        if not is_local(self.root):
            return boundary(StoreError, thing, "check that the store can be reached and read", but)
        remedy = f"restore {self.uri(table)}, or delete it and materialize the asset that writes it"
        return boundary(StoreError, thing, remedy, but)

    def _writing(self, table: Table, but: tuple[type[Exception], ...] = ()) -> AbstractContextManager[None]:
        """Around a call of delta-rs that writes."""
        thing = f"the table {table.name} cannot be written to the store {self.root}"
        remedy = "make the store writable and see that it has room, or set GRASP_STORE to another"
        return boundary(StoreError, thing, remedy, but)

    def _open_to_read(self, table: Table, version: int) -> Any:
        """Open a version, whose files must be there as they were written: polars would fail late, or panic.

        Raises:
            StoreError: a file of a local table is missing or of another size.
        """
        opened = self._open(table, version)
        folder = local_folder(opened.table_uri)
        for path, size in opened._table.get_add_file_sizes().items() if folder is not None else ():
            file = Path(folder or "", path)
            fault = "is missing" if not file.is_file() else "was cut or changed"
            if fault == "is missing" or file.stat().st_size != size:
                raise StoreError(
                    f"the file {file} of the table {table.name} {fault}; restore it, or delete {self.uri(table)} and "
                    "materialize the asset that writes it"
                )
        return opened

    def _check_layout(self, table: Table, opened: Any) -> None:
        """Refuse a table that an older version laid out otherwise; delta-rs would tell it late and in its own words.

        Nothing is migrated: whether old rows can stand for new ones is for the asset to say, which writes them again.
        """
        stored = {column.name for column in opened.schema().fields}
        partitions = tuple(opened.metadata().partition_columns)
        missing = [name for name in table.schema if name not in stored]
        unknown = sorted(stored - set(table.schema))
        if missing or unknown or partitions != table.partition_by:
            faults = [f"it has no column {name}" for name in missing]
            faults += [f"it has a column {name} that is not written any more" for name in unknown]
            if partitions != table.partition_by:
                wanted, found = (", ".join(names) or "nothing" for names in (table.partition_by, partitions))
                faults.append(f"it is partitioned by {found} instead of {wanted}")
            raise StoreError(
                f"the table {table.name} in the store {self.root} was written by another version of grasp_pipeline: "
                f"{'; '.join(faults)}. Delete {self.uri(table)} and materialize the asset that writes it again"
            )

    def exists(self, table: Table) -> bool:
        """Return whether the table was created."""
        from deltalake import DeltaTable

        with self._reading(table):
            return DeltaTable.is_deltatable(self._address(table), storage_options=self._options)

    def _log(self, table: Table) -> list[Commit]:
        """Return every commit, newest first; those that hold no data too. Empty when there is no table."""
        if not self.exists(table):
            return []
        known = (
            *("run_id", "asset_key", "code_version", "config_digest", "upstream", "partition"),
            *("input_digest", "content_digest", "reads", "statistics", "settings", "operation"),
        )
        return [
            Commit(int(e["version"]), int(e["timestamp"]), {k: str(e[k]) for k in known if k in e})
            for e in self._open(table).history()
        ]

    def commits(self, table: Table) -> list[Commit]:
        """Return the table's data commits, newest first; empty when there is no table."""
        return [commit for commit in self._log(table) if commit.partition is not None]

    def latest(self, table: Table, partition: Partition | None = None) -> Commit | None:
        """Return the newest commit that wrote (part of) a partition, or the table when none is given."""
        for commit in self.commits(table):
            if _agrees(commit.partition or {}, partition or {}):
                return commit
        return None

    def settings(self, table: Table, step: str) -> Settings | None:
        """Return the configuration under which a step last wrote its table or found it right; None before that."""
        for commit in self._log(table):
            about = commit.metadata
            if about.get("asset_key") == step and ("partition" in about or "settings" in about):
                values = about.get("settings")
                return Settings(about["config_digest"], None if values is None else json.loads(values))
        return None

    def standing(self, table: Table, partition: Partition | None = None) -> Commit | None:
        """Return the newest commit of (a partition of) a table with the reads that its content last followed from.

        They are newer than the commit's own where a step made the same content of other inputs: see `confirm`.
        """
        newest = self.latest(table, partition)
        if newest is None:
            return None
        for note in self._log(table):
            if note.version <= newest.version:
                break
            same = note.metadata.get("asset_key") == newest.metadata["asset_key"]
            if same and note.partition is None and "reads" in note.metadata:
                return replace(note, version=newest.version)
        return newest

    def beside(self, commit: Commit, table: Table, partition: Partition | None = None) -> Commit | None:
        """Return the commit of (a partition of) a table as another commit saw it.

        That is the version that it read or, where it did not read the table, the newest of its time.
        """
        label = Read(table.name, 0, tuple(sorted((partition or {}).items()))).label()
        version = commit.reads.get(label)
        for candidate in self.commits(table):
            if not _agrees(candidate.partition or {}, partition or {}):
                continue
            if candidate.version == version or (version is None and candidate.timestamp <= commit.timestamp):
                return candidate
        return None

    def confirm(self, table: Table, provenance: Provenance, partition: Partition | None = None) -> None:
        """Note that the content of a table follows from these reads, where its log tells others."""
        standing = self.standing(table, partition)
        if standing is not None and standing.metadata.get("input_digest") != provenance.input_digest():
            self._note(table, provenance)

    def keep_settings(self, table: Table, provenance: Provenance) -> None:
        """Note a step's configuration where its table turned out as it was made under another one."""
        if not provenance.settings:
            return
        known = self.settings(table, provenance.asset_key)
        if known != Settings(provenance.config_digest, json.loads(provenance.settings)):
            self._note(table, provenance)

    def _note(self, table: Table, provenance: Provenance) -> None:
        """Commit metadata without data. Readers see no new version, so nothing is stale by it."""
        from deltalake import CommitProperties

        metadata = self._metadata(provenance, None, "", {}) | {
            "input_digest": provenance.input_digest(),
            "reads": json.dumps({r.label(): r.version for r in provenance.reads}, sort_keys=True),
        }
        delta = self._open(table)
        delta.create_write_transaction(
            [],
            "append",
            delta.schema(),
            list(table.partition_by),
            commit_properties=CommitProperties(custom_metadata=metadata),
        )

    def read(self, table: Table, version: int, partition: Partition | None = None) -> pl.LazyFrame:
        """Return a lazy frame of the table, or one partition of it, at a version."""
        frame = pl.scan_delta(self._open_to_read(table, version), storage_options=self._options)
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
        from grasp_pipeline.sketch.reader import data_files, file_batches

        delta = self._open_to_read(table, version)
        wanted = list(table.schema if columns is None else columns)
        stored = [name for name in wanted if name not in table.partition_by]
        for file in data_files(delta, partition):
            fixed = {name: pl.lit(file.partition[name]) for name in wanted if name in table.partition_by}
            for batch in file_batches(delta, file, stored, rows, buffered=True):
                frame = pl.DataFrame(batch).with_columns(**fixed)
                yield frame.select(pl.col(name).cast(table.schema[name]) for name in wanted)

    def sketches(self, version: int, kind: str, shards: Sequence[str] | None = None) -> SketchReader:
        """Return a reader of one kind's stored sketches at a version; see `SketchReader`."""
        from grasp_pipeline.sketch.reader import SketchReader

        return SketchReader(self._open_to_read(GRADIENT_SKETCHES, version), kind, shards)

    def pin(self, table: Table, partition: Partition | None = None) -> Read:
        """Return the version that a reader of (a partition of) the table sees now.

        Raises:
            StoreError: the table or the partition was never written.
        """
        commit = self.latest(table, partition)
        if commit is None:
            what = table.name + (f" ({partition_predicate(partition)})" if partition else "")
            raise StoreError(
                f"{what} has not been written to the store {self.root}; materialize the asset that writes it first"
            )
        return Read(table.name, commit.version, tuple(sorted((partition or {}).items())))

    def sketch_seconds(self, kind: str) -> float:
        """Return the seconds that one kind's current sketches took, over all shards."""
        newest: dict[str, float] = {}
        for commit in self.commits(GRADIENT_SKETCHES):
            partition = commit.partition or {}
            if partition.get("sketch_kind") == kind:
                newest.setdefault(partition["shard"], commit.statistics["seconds"])
        return sum(newest.values())

    def create(self, table: Table, provenance: Provenance) -> None:
        """Create the table where it does not exist yet; concurrent writers start after this."""
        from deltalake import CommitProperties, DeltaTable

        if self.exists(table):
            return
        metadata = self._metadata(replace(provenance, settings=""), None, "", {})
        with self._writing(table):
            DeltaTable.create(
                self._address(table),
                table.empty().to_arrow().schema,
                mode="ignore",
                partition_by=list(table.partition_by),
                name=table.name,
                description=table.description,
                storage_options=self._options,
                commit_properties=CommitProperties(custom_metadata=metadata),
            )

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
        from deltalake import WriterProperties, write_deltalake

        frame = table.conform(frame)
        self._check_partition(table, frame, partition)
        content = content_digest(frame)
        before = self._holding(table, content, partition)
        if before is not None and _says_the_same(before, provenance, statistics or {}):
            return before
        self.create(table, provenance)
        metadata = self._metadata(provenance, partition or {}, content, statistics or {})

        def commit(delta: Any, properties: Any) -> None:
            write_deltalake(
                delta,
                frame,
                mode="overwrite",
                predicate=partition_predicate(partition) if partition else None,
                commit_properties=properties,
                writer_properties=WriterProperties(compression="ZSTD", max_row_group_size=65_536),
            )

        return self._commit(table, metadata, commit)

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
        from deltalake import CommitProperties, Transaction

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
        if before is not None and _says_the_same(before, provenance, told):
            file.discard()
            return before
        writing = f"{table.name}/{partition_predicate(partition)}"
        metadata = self._metadata(provenance, partition, content, told)

        def commit(delta: Any, _: Any) -> None:
            # delta-rs sees no conflict between two writers that both found the partition empty; to have written the
            # same application transaction is one.
            delta.create_write_transaction(
                [action] if action is not None else [],
                "overwrite",
                delta.schema(),
                list(table.partition_by),
                [(key, "=", value) for key, value in partition.items()],
                commit_properties=CommitProperties(
                    custom_metadata=metadata, app_transactions=[Transaction(writing, delta.version() + 1)]
                ),
            )

        return self._commit(table, metadata, commit)

    def _checked(self, table: Table, frame: pl.DataFrame, partition: Partition) -> pl.DataFrame:
        frame = table.conform(frame)
        self._check_partition(table, frame, partition)
        return frame

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
        self._check_partition(table, frame, partition)
        self.create(table, provenance)
        metadata = self._metadata(provenance, partition or {}, content_digest(frame), statistics or {})
        on = " AND ".join(
            f't."{key}" = s."{key}"' for key in dict.fromkeys((*table.partition_by, *table.key))
        )

        def commit(delta: Any, properties: Any) -> None:
            merge = delta.merge(frame, on, source_alias="s", target_alias="t", commit_properties=properties)
            merge.when_matched_update_all().when_not_matched_insert_all().execute()

        return self._commit(table, metadata, commit)

    def _commit(self, table: Table, metadata: dict[str, str], action: Any) -> Commit:
        from deltalake import CommitProperties
        from deltalake.exceptions import CommitFailedError

        properties = CommitProperties(custom_metadata=metadata)
        for attempt in range(_RETRIES):
            try:
                with self._committing:  # threads of one process take turns; conflicts are other processes'
                    delta = self._open(table)
                    before = delta.version()
                    with self._writing(table, but=(CommitFailedError,)):
                        action(delta, properties)
            except CommitFailedError as error:
                if attempt == _RETRIES - 1:
                    raise StoreError(
                        f"another writer kept changing {table.name} while it was written ({_RETRIES} tries); "
                        "launch the step again when the other run has ended"
                    ) from error
                time.sleep(0.2 * 2**attempt)
                continue
            if delta.version() == before:
                delta.update_incremental()
            return next(
                c
                for c in self.commits(table)
                if all(c.metadata.get(key) == value for key, value in metadata.items())
            )
        raise AssertionError("unreachable")

    @staticmethod
    def _metadata(
        provenance: Provenance, partition: Partition | None, content: str, statistics: Mapping[str, Any]
    ) -> dict[str, str]:
        versions: dict[str, int] = {}
        for read in provenance.reads:
            versions[read.table] = max(read.version, versions.get(read.table, read.version))
        metadata = {
            "run_id": provenance.run_id,
            "asset_key": provenance.asset_key,
            "code_version": provenance.code_version,
            "config_digest": provenance.config_digest,
            "upstream": json.dumps(versions, sort_keys=True),
        }
        if provenance.settings:
            metadata["settings"] = provenance.settings
        if partition is None:
            return metadata
        return metadata | {
            "partition": json.dumps(dict(partition), sort_keys=True),
            "input_digest": provenance.input_digest(),
            "content_digest": content,
            "reads": json.dumps({r.label(): r.version for r in provenance.reads}, sort_keys=True),
            "statistics": json.dumps(dict(statistics), sort_keys=True),
        }

    @staticmethod
    def _check_partition(table: Table, frame: pl.DataFrame, partition: Partition | None) -> None:
        for key, value in (partition or {}).items():
            if key not in table.partition_by:
                raise ValueError(f"table {table.name} is not partitioned by {key}")
            if frame.filter(pl.col(key).ne_missing(value)).height:
                raise ValueError(f"rows for table {table.name} lie outside the partition {key}={value}")
