"""Care of old versions: which must stay, and removing the files that no other needs."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import polars as pl

from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.locations import is_local
from grasp_pipeline.tables import ALL, Table
from resources.delta.files import data_files
from resources.delta.history import compaction_after
from resources.delta.tables import KEEP_LOG, DeltaTables


@dataclass(frozen=True)
class Vacuumed:
    """What was, or would be, removed from a table: files, and bytes of the table before and after.

    compacted: files that were, or would be, rewritten as fewer.
    """

    table: str
    compacted: int
    files: int
    bytes_before: int
    bytes_after: int
    kept_versions: int


def named_versions(delta: DeltaTables) -> dict[str, set[int]]:
    """Return table -> versions that must stay.

    These are the newest of every partition, those that a curation names or shows, those that the newest commits read
    (their content is looked up there again), and the chunks that stored subsets are numbered in.
    """
    kept: defaultdict[str, set[int]] = defaultdict(set)
    for table in ALL.values():
        seen: set[str] = set()
        for commit in delta.commits(table):
            label = json.dumps(commit.partition, sort_keys=True)
            if label in seen:
                continue
            seen.add(label)
            standing = delta.standing(table, commit.partition)
            for each in (commit, standing):
                if each is None:
                    continue
                kept[table.name].add(each.version)
                for read, version in each.reads.items():
                    kept[read.split("/")[0]].add(version)
        kept[table.name] |= {commit.version for commit in delta.commits(table)[:1]}
    for told in _stored(delta, tables.CURATIONS, "versions"):
        versions = json.loads(told)
        for name, number in versions.items():
            kept[name].add(number)
        for table in (tables.SURROGATES, tables.DOCUMENT_LOSSES):  # written beside what a curation reads
            beside = delta.within(versions, table)
            if beside is not None:
                kept[table.name].add(beside.version)
    for table in (tables.SUBSETS, tables.CALIBRATION_POOL):
        kept[tables.TOKENIZED_SHARDS.name] |= set(_stored(delta, table, "pool_version"))
    return {name: versions for name, versions in kept.items() if name in ALL}


def _stored(delta: DeltaTables, table: Table, column: str) -> Iterator:
    newest = delta.latest(table)
    if newest is not None:
        frame = delta.read(table, newest.version).select(pl.col(column).drop_nulls().unique())
        yield from frame.collect()[column]


def vacuum(delta: DeltaTables, horizon_days: int, dry_run: bool, compact: bool = False) -> list[Vacuumed]:
    """Remove files that were replaced before the horizon and that no version to stay needs.

    A version of which a compaction holds the rows needs its own files no more; it is read through the compaction then.

    Args:
        delta: the tables.
        horizon_days: versions younger than this stay, whoever names them; 0 only while nothing else reads or writes.
        dry_run: only tell what would be removed.
        compact: first rewrite the files of every partition that has more than one as fewer, within the partition.

    Raises:
        ConfigError: the store is not a local folder, or the horizon is negative.
    """
    if horizon_days < 0:
        raise ConfigError(f"the horizon is {horizon_days} days; give 0 or more")
    if not is_local(delta.root):
        raise ConfigError(f"the store {delta.root} is an object store; vacuum works on local folders alone")
    named = named_versions(delta)
    told = []
    for table in ALL.values():
        if not delta.exists(table):
            continue
        folder = Path(delta.uri(table))
        before = _size(folder)
        opened = delta.open_to_care(table)
        doubled = _doubled(opened) if compact else 0
        if doubled and not dry_run:
            opened.optimize.compact()
            opened = delta.open_to_care(table)
        history = list(delta.history(table))
        kept = {version for version in named.get(table.name, ()) if version <= opened.version()}
        keep = sorted({compaction_after(version, history) or version for version in kept})
        given = {
            "retention_hours": 24 * horizon_days,
            "enforce_retention_duration": False,
            "keep_versions": keep,
        }
        found = (folder / unquote(path) for path in opened.vacuum(dry_run=True, **given))
        doomed = [file for file in found if file.is_file()]  # the log lists what went before too
        freed = sum(file.stat().st_size for file in doomed)
        if not dry_run:
            properties = opened.metadata().configuration
            if any(properties.get(key) != value for key, value in KEEP_LOG.items()):
                opened.alter.set_table_properties(KEEP_LOG)
            if doomed:
                opened.vacuum(dry_run=False, **given)
            opened.create_checkpoint()
        after = before - freed if dry_run else _size(folder)
        told.append(Vacuumed(table.name, doubled, len(doomed), before, after, len(keep)))
    return told


def _doubled(opened: Any) -> int:
    """Count the files of partitions that have more than one."""
    per_partition = Counter(tuple(file.partition.items()) for file in data_files(opened))
    return sum(count for count in per_partition.values() if count > 1)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
