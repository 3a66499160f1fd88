"""The logs of the tables: which commits there are, which one stands, and notes that hold no data."""

from __future__ import annotations

import json
from dataclasses import replace

from grasp_pipeline.errors import StoreError
from grasp_pipeline.tables import Table
from resources.delta.commits import Commit, Partition, Provenance, Read, Settings
from resources.delta.opening import TableFolders
from resources.delta.predicates import partition_predicate


class TableLogs(TableFolders):
    """What the logs of all tables below one root tell, and the notes that are added to them."""

    def _log(self, table: Table) -> list[Commit]:
        """Return every commit, newest first; those that hold no data too. Empty when there is no table."""
        if not self.exists(table):
            return []
        known = (
            *("run_id", "asset_key", "code_version", "config_digest", "upstream", "partition"),
            *("input_digest", "content_digest", "reads", "statistics", "settings", "operation"),
        )
        return [
            Commit(
                table.name, int(e["version"]), int(e["timestamp"]), {k: str(e[k]) for k in known if k in e}
            )
            for e in self._open(table).history()
        ]

    def commits(self, table: Table) -> list[Commit]:
        """Return the table's data commits, newest first; empty when there is no table."""
        return [commit for commit in self._log(table) if commit.partition is not None]

    def latest(self, table: Table, partition: Partition | None = None) -> Commit | None:
        """Return the newest commit that wrote (part of) a partition, or the table when none is given."""
        for commit in self.commits(table):
            if commit.touches(partition or {}):
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
            if not candidate.touches(partition or {}):
                continue
            if candidate.version == version or (version is None and candidate.timestamp <= commit.timestamp):
                return candidate
        return None

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

        metadata = provenance.metadata() | provenance.standing()
        delta = self._open(table)
        delta.create_write_transaction(
            [],
            "append",
            delta.schema(),
            list(table.partition_by),
            commit_properties=CommitProperties(custom_metadata=metadata),
        )
