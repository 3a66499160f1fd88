"""What every asset function does: pin what it reads, skip what is current, write, and say what happened."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets import terminal
from assets.launches import tell_written
from assets.preflight import check
from assets.samples import sample_rows
from assets.settings import told_values
from assets.stages import STAGES, Stage, column_schema
from grasp_pipeline.config import Section
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.lineage.columns import column_sources
from grasp_pipeline.tables import Table
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from resources.delta.commits import Commit, Provenance, Read
    from resources.notes import MadeNote


class Step:
    """One execution of a stage: its pinned reads, its provenance and its clock.

    What the stage declares to read, and nothing else, is read: whole tables and splits are pinned when the step
    begins, the parts that it names itself when it asks for them, each at the version of the newest commit of the part.
    `provenance` freezes the step: everything that it writes names all its reads, so none may come after. `current`
    compares them, the configuration and the code version with the last commit. A run that must fail later is refused
    here: see `assets.preflight`.
    """

    def __init__(
        self,
        context: dg.AssetExecutionContext,
        store: DeltaStore,
        config: Section | None = None,
        stage: Stage | None = None,
        beside: str = "",
    ) -> None:
        """Pin what the stage declares; beside: digest of what it is made from that no table and no setting tells."""
        self.context, self.store, self.tables = context, store, store.tables
        self._config_digest = (config.digest() if config is not None else "") + beside
        self._settings = json.dumps(told_values(config), sort_keys=True) if config is not None else ""
        self._asset_key = context.op_execution_context.op.name
        self.stage = stage or STAGES[self._asset_key]
        self._reads: dict[str, Read] = {}
        self._named = False
        self._started = time.perf_counter()
        terminal.tell(self._asset_key, 0)
        check(context, self._asset_key, store)
        self._refuse_wrong_order()
        for each in self.stage.reads:
            if not each.by and not each.optional and not each.carried:
                self.pin(each.table, each.partition)

    def pin(self, table: Table, partition: Mapping[str, str] | None = None) -> Read:
        """Return the pinned read of a table, or of the rows of it that have some values.

        Raises:
            ValueError: the stage does not declare the read, or what is written does not name it.
        """
        from resources.delta.commits import Read

        label = Read(table.name, 0, tuple(sorted((partition or {}).items()))).label()
        if label in self._reads:
            return self._reads[label]
        self._check(table, partition or {})
        return self._record(self.tables.pin(table, partition))

    def part(self, table: Table, partition: Mapping[str, str]) -> Read:
        """Pin a part that only some of what is written follows from, such as one shard: for `provenance`.

        Raises:
            ValueError: the stage does not declare the read.
        """
        self._check(table, partition)
        return self.tables.pin(table, partition)

    def carried(self, table: Table, version: int | None) -> tuple[Read, ...]:
        """Return the read of a table at a version that an earlier run left, for `provenance`; none where there is none.

        Raises:
            ValueError: the stage does not declare it.
        """
        from resources.delta.commits import Read

        if not any(each.carried and each.table.name == table.name for each in self.stage.reads):
            raise ValueError(f"{self._asset_key} does not declare that it carries {table.name}")
        return () if version is None else (Read(table.name, version),)

    def _refuse_wrong_order(self) -> None:
        """Refuse a run that picked steps without those between, so that Dagster does not know their order."""
        chosen = {node.name for node in self.context.job_def.nodes}
        makers = {
            name for asset in self.stage.upstream() for name, each in STAGES.items() if asset in each.writes
        }
        if waiting := chosen.intersection(makers):
            run = self.context.run.run_id
            done = {
                each.step_key
                for each in self.context.instance.get_run_step_stats(run, sorted(waiting))
                if each.status is not None and each.status.value == "SUCCESS"
            }
            if late := sorted(waiting - done):
                raise ConfigError(
                    f"{self._asset_key} began before {late[0]}, which it reads, had ended: the selection leaves out "
                    "what lies between them. Select that too, or launch them one after the other"
                )

    def _check(self, table: Table, partition: Mapping[str, str]) -> None:
        if self.stage.reading(table.name, partition) is None:
            of = "".join(f"/{key}={value}" for key, value in partition.items())
            raise ValueError(f"{self._asset_key} reads {table.name}{of}, which its stage does not declare")

    def _record(self, read: Read) -> Read:
        if self._named:
            raise ValueError(
                f"{self._asset_key} reads {read.label()} after its provenance was taken; pin it before"
            )
        self._reads[read.label()] = read
        return read

    def read(self, table: Table, partition: Mapping[str, str] | None = None) -> pl.LazyFrame:
        """Pin and read exactly what was pinned."""
        return self.tables.rows(self.pin(table, partition))

    def read_splits(self, table: Table, splits: Sequence[str]) -> pl.LazyFrame:
        """Pin and read several splits, each of them recorded."""
        import polars as pl

        return pl.concat([self.read(table, {"split": split}) for split in splits])

    def read_beside(self, commit: Commit, table: Table) -> pl.LazyFrame:
        """Pin and read a table as another commit saw it, so that what is told of it belongs to what it holds."""
        from resources.delta.commits import Read

        seen = self.tables.beside(commit, table)
        if seen is None:
            return self.read(table)
        self._check(table, {})
        return self.tables.rows(self._record(Read(table.name, seen.version)))

    def provenance(self, *more: Read) -> Provenance:
        """Return the provenance of what this step writes; `more` are reads of one shard alone."""
        from resources.delta.commits import Provenance

        if not self._named:
            read = {each.table for each in (*self._reads.values(), *more)}
            late = [each.table.name for each in self.stage.reads if each.by and not each.optional]
            if missing := sorted(set(late) - read):
                raise ValueError(
                    f"{self._asset_key} takes its provenance before it reads {missing[0]}; pin it before"
                )
        self._named = True
        return Provenance(
            run_id=self.context.run.run_id,
            asset_key=self._asset_key,
            code_version=self.stage.code_version,
            config_digest=self._config_digest,
            reads=(*self._reads.values(), *more),
            settings=self._settings,
        )

    def upstream(self) -> dict[str, int]:
        """Return what was read so far: label -> version."""
        return {label: read.version for label, read in self._reads.items()}

    def current(
        self, table: Table, provenance: Provenance, partition: Mapping[str, str] | None = None
    ) -> Commit | None:
        """Return the last commit of the partition if it was made from exactly these inputs, else None."""
        commit = self.tables.latest(table, partition)
        if commit is not None and commit.metadata.get("input_digest") == provenance.input_digest():
            return commit
        return None

    def unmoved(
        self,
        table: Table,
        provenance: Provenance,
        partition: Mapping[str, str],
        note: type[MadeNote],
        made_from: Callable[[], str],
    ) -> Commit | None:
        """Return the last commit of the partition if it was made from the same things, else None.

        Versions decide first, since they cost nothing. Where they moved, the content does: tables upstream may be
        written anew with what they held before. Nothing is committed then, so nothing downstream is stale either; the
        old commit names the versions that it was really made from.

        Args:
            table: whose partitions are current by what they are made from.
            provenance: what a new commit would carry.
            partition: of the table.
            note: what its commits carry.
            made_from: digest of all that the rows depend on; asked only where versions moved.
        """
        if (commit := self.current(table, provenance, partition)) is not None:
            return commit
        last = self.tables.latest(table, partition)
        if last is None or last.metadata["code_version"] != provenance.code_version:
            return None
        if set(last.reads) != provenance.labels():
            return None
        return last if note.of(last).made_from == made_from() else None

    def rows(self, table: Table, commit: Commit) -> int:
        """Count the rows of a table as of a commit; Delta's log knows, so no data is read."""
        return self.tables.count(table, commit.version)

    def say(self, message: str) -> None:
        """Log a progress message; the listener for `Progress`."""
        self.context.log.info(message)
        terminal.tell(message, 2)

    def warn(self, message: str) -> None:
        """Log what the user should know though the run goes on."""
        self.context.log.warning(message)
        terminal.tell(f"Warning: {message}", 2)

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.perf_counter() - self._started

    def result(
        self,
        table: Table,
        commit: Commit,
        rows: int,
        extra: Mapping[str, Any] | None = None,
        tokens: int | None = None,
        up_to_date: bool = False,
    ) -> dg.MaterializeResult:
        """Return what Dagster shows of a materialization: row count, version, URI, schema, seconds, rate and `extra`.

        The log of the table that the asset is named after then tells the settings it holds under.
        """
        own = table.name in self.stage.writes
        if own:
            self.tables.keep_settings(table, self.provenance())
        seconds = self.seconds
        metadata: dict[str, Any] = {
            "dagster/uri": self.tables.uri(table),
            "dagster/table_name": table.name,
            "dagster/column_schema": column_schema(table),
            "dagster/row_count": rows,
            "delta_version": commit.version,
            "upstream": dg.MetadataValue.json(self.upstream()),
            "seconds": round(seconds, 2),
            "up_to_date": up_to_date,
            "sample_rows": dg.MetadataValue.md(
                sample_rows(self.tables, table, commit.version, self.store.sample_text)
            ),
        }
        if sources := column_sources(table.name):
            metadata["dagster/column_lineage"] = dg.TableColumnLineage(
                {
                    column: [dg.TableColumnDep(dg.AssetKey(name), part) for name, part in found]
                    for column, found in sources.items()
                }
            )
        if commit.metadata.get("run_id") == self.context.run.run_id:
            tell_written(self.context)
        if tokens is not None:
            metadata["tokens"] = tokens
            if not up_to_date:
                metadata["tokens_per_second"] = round(tokens / max(seconds, 1e-9))
        return dg.MaterializeResult(
            asset_key=dg.AssetKey(table.name) if own else None,
            metadata=metadata | dict(extra or {}),
            data_version=dg.DataVersion(commit.metadata.get("content_digest") or str(commit.version)),
        )

    def unchanged(self, table: Table, commit: Commit) -> dg.MaterializeResult:
        """Return the result of a step that found its table current and wrote nothing."""
        self.say(f"{table.name} is up to date at version {commit.version}; nothing was written")
        return self.result(table, commit, self.rows(table, commit), up_to_date=True)
