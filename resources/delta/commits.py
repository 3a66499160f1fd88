"""What a commit of a table says: what was read, under what code and configuration, and what was left for readers.

Every commit carries `run_id`, `asset_key`, `code_version`, `config_digest` and `upstream` (JSON: table -> version
read) and, for our own bookkeeping, `partition` (JSON), `input_digest`, `content_digest`, `reads` (JSON: partitions
of upstream tables that were read), `statistics` (JSON) and, where the step has a configuration, `settings` (JSON: its
values). Those decide what is current: nothing else does, `settings` aside, which only tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grasp_pipeline.seeds import digest

Partition = Mapping[str, str]


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

    def metadata(self) -> dict[str, str]:
        """Return what every commit says, those without data too."""
        versions: dict[str, int] = {}
        for read in self.reads:
            versions[read.table] = max(read.version, versions.get(read.table, read.version))
        told = {
            "run_id": self.run_id,
            "asset_key": self.asset_key,
            "code_version": self.code_version,
            "config_digest": self.config_digest,
            "upstream": json.dumps(versions, sort_keys=True),
        }
        return told | ({"settings": self.settings} if self.settings else {})

    def standing(self) -> dict[str, str]:
        """Return what says that content follows from these reads."""
        reads = {read.label(): read.version for read in self.reads}
        return {"input_digest": self.input_digest(), "reads": json.dumps(reads, sort_keys=True)}

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

    table: str
    version: int
    timestamp: int
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def holds_data(self) -> bool:
        """Whether it wrote rows, and is not the table's creation or a note."""
        return "partition" in self.metadata

    @property
    def partition(self) -> dict[str, str] | None:
        """Partition written: {} for the whole table, None for the commit that created it."""
        label = self.metadata.get("partition")
        return None if label is None else json.loads(label)

    @property
    def statistics(self) -> dict[str, Any]:
        """What the writing asset left (seconds, tokens...); `resources.notes` has it typed."""
        return json.loads(self.metadata.get("statistics", "{}"))

    @property
    def reads(self) -> dict[str, int]:
        """Labels of what was read -> version."""
        return json.loads(self.metadata.get("reads", "{}"))

    def touches(self, partition: Partition) -> bool:
        """Return whether it wrote (part of) a partition: a value that it does not name agrees with any."""
        return all(partition.get(key, value) == value for key, value in (self.partition or {}).items())

    def says(self, provenance: Provenance, statistics: Mapping[str, Any]) -> bool:
        """Return whether a commit of equal content would tell nothing new of what was read and what was left.

        What was left for readers counts without the time it took.
        """
        before, now = ({**each, "seconds": None} for each in (self.statistics, statistics))
        return set(self.reads) == provenance.labels() and before == now


def data_metadata(
    provenance: Provenance, partition: Partition, content: str, statistics: Mapping[str, Any]
) -> dict[str, str]:
    """Return the metadata of a commit that writes (a partition of) a table; `content` is the digest of its rows."""
    return {
        **provenance.metadata(),
        **provenance.standing(),
        "partition": json.dumps(dict(partition), sort_keys=True),
        "content_digest": content,
        "statistics": json.dumps(dict(statistics), sort_keys=True),
    }


def commit_of(table: str, version: int, told: Mapping[str, Any]) -> Commit:
    """Return a commit from what its entry in the log says of it."""
    known = (
        *("run_id", "asset_key", "code_version", "config_digest", "upstream", "partition"),
        *("input_digest", "content_digest", "reads", "statistics", "settings", "operation", "curation"),
    )
    metadata = {key: str(told[key]) for key in known if key in told}
    return Commit(table, version, int(told.get("timestamp", 0)), metadata)
