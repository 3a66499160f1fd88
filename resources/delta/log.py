"""The logs of the tables: which commits there are, which one stands, and notes that hold no data."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from grasp_pipeline.errors import StoreError
from grasp_pipeline.tables import CERTIFICATES, Table
from resources.delta.commits import Commit, Partition, Provenance, Read, Settings
from resources.delta.opening import LostRace, TableFolders
from resources.delta.predicates import partition_predicate


class TableLogs(TableFolders):
    """What the logs of all tables below one root tell, and how commits and notes are added to them."""

    def __init__(self, root: str, storage_options: dict[str, str] | None = None) -> None:
        super().__init__(root, storage_options)
        self._committing = threading.Lock()

    def _log(self, table: Table) -> Iterable[Commit]:
        """Return every commit, newest first; those that hold no data too. Empty when there is no table."""
        return self.history(table) if self.exists(table) else ()

    def at(self, table: Table, version: int) -> Commit | None:
        """Return the data commit of a version; None where there is none."""
        commit = self.history(table).at(version) if self.exists(table) else None
        return commit if commit is not None and commit.holds_data else None

    def commits(self, table: Table) -> list[Commit]:
        """Return the table's data commits, newest first; empty when there is no table."""
        return [commit for commit in self._log(table) if commit.holds_data]

    def latest(self, table: Table, partition: Partition | None = None) -> Commit | None:
        """Return the newest commit that wrote (part of) a partition, or the table when none is given."""
        for commit in self._log(table):
            if commit.holds_data and commit.touches(partition or {}):
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
            if same and not note.holds_data and "reads" in note.metadata:
                return replace(note, version=newest.version)
        return newest

    def beside(self, commit: Commit, table: Table, partition: Partition | None = None) -> Commit | None:
        """Return the commit of (a partition of) a table as another commit saw it.

        That is the version that it read or, where it did not read the table, the newest of its time.
        """
        label = Read(table.name, 0, tuple(sorted((partition or {}).items()))).label()
        version = commit.reads.get(label)
        for candidate in self._log(table):
            if not candidate.holds_data or not candidate.touches(partition or {}):
                continue
            if candidate.version == version or (version is None and candidate.timestamp <= commit.timestamp):
                return candidate
        return None

    def within(
        self, versions: Mapping[str, int], table: Table, partition: Partition | None = None
    ) -> Commit | None:
        """Return the commit of (a partition of) a table that belongs to a curation, by the versions that it names.

        Of a table that is not named it is the newest of the time of the curation's certificate.
        """
        for commit in self.commits(CERTIFICATES):
            if commit.version == versions.get(CERTIFICATES.name):
                told = commit.metadata | {"reads": json.dumps(dict(versions))}
                return self.beside(replace(commit, metadata=told), table, partition)
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

    def number(self, table: Table, curation: int, provenance: Provenance) -> None:
        """Note the number of the curation that a table's content was published as."""
        self._commit_metadata(table, provenance.metadata() | {"curation": str(curation)})

    def curation(self, table: Table) -> int | None:
        """Return the number of the curation that the newest content of a table was published as, None without one."""
        newest = self.latest(table)
        for note in self._log(table):
            if newest is None or note.version < newest.version:
                break
            if "curation" in note.metadata:
                return int(note.metadata["curation"])
        return None

    def _note(self, table: Table, provenance: Provenance) -> None:
        """Commit metadata without data. Readers see no new version, so nothing is stale by it."""
        self._commit_metadata(table, provenance.metadata() | provenance.standing())

    def _commit_metadata(self, table: Table, metadata: dict[str, str]) -> None:
        def commit(delta: Any, properties: Any) -> None:
            delta.create_write_transaction(
                [], "append", delta.schema(), list(table.partition_by), commit_properties=properties
            )

        self._commit(table, metadata, commit)

    def _commit(self, table: Table, metadata: dict[str, str], action: Callable[[Any, Any], None]) -> Commit:
        """Commit what `action` does to an open table under given commit properties; a lost race does it again.

        Every try aims at one version, the next after the newest. delta-rs would try fifteen times more without a pause,
        reading the log each time: with 64 writers those tries keep the store busier than the commits do. It also sees
        no conflict between two writers that both found a partition empty.
        """
        from deltalake import CommitProperties

        properties = CommitProperties(custom_metadata=metadata, max_commit_retries=0)
        opened: list[Any] = []

        def attempt() -> Commit:
            with self._committing:  # threads of one process take turns; conflicts are other processes'
                if opened:
                    with self._reading(table):
                        opened[0].update_incremental()
                else:
                    opened.append(self._open(table))
                version = opened[0].version() + 1
                lost = None
                try:
                    with self._racing(table):
                        action(opened[0], properties)
                except LostRace as race:
                    lost = race
                # Where the answer to a put was lost, it is there though it seems lost.
                made = self._commit_at(table, opened[0], version)
            if made is None or not metadata.items() <= made.metadata.items():
                raise lost or StoreError(
                    f"version {version} of {table.name} was committed, and its log does not tell it; check that "
                    f"nothing else writes to {self.uri(table)}"
                )
            return made

        return self._persist(table, attempt)
