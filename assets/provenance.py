"""Whether evidence is of the corpus that ships, told by the versions that the commits read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from grasp_pipeline import tables

if TYPE_CHECKING:
    from grasp_pipeline.lineage.curation import Curation
    from grasp_pipeline.tables import Table
    from resources.delta.commits import Commit
    from resources.delta.tables import DeltaTables


def measured_elsewhere(
    delta: DeltaTables, table: Table, shipped: Commit, partition: Mapping[str, str] | None = None
) -> str | None:
    """Return what corpus a table was measured on, in words; None where it is the one that ships or nothing is measured.

    Two things make it another: the chunks that it was measured among, and the certificate whose pick it is about.

    Args:
        lake: the tables.
        table: with the evidence. partition: of it.
        shipped: the standing commit of `pruned_corpus`.
    """
    found = delta.standing(table, partition)
    if found is None:
        return None
    for upstream, what in ((tables.TOKENIZED_SHARDS, "corpus"), (tables.CERTIFICATES, "pick")):
        then, now = (commit.reads.get(upstream.name) for commit in (found, shipped))
        if then is not None and now is not None and then != now:
            job = "curate" if what == "corpus" else "fidelity"
            of = curation_of(delta, upstream, then)
            head = "Measured for an earlier" if of is None else f"Measured on curation {of}, for an earlier"
            return (
                f"{head} {what}, not for the one that ships: {described(delta, upstream, then)}; what "
                f"ships is of {described(delta, upstream, now)}. The job {job} measures it again."
            )
    return None


def measured_on(
    delta: DeltaTables, table: Table, curation: Curation, partition: Mapping[str, str] | None = None
) -> Commit | None:
    """Return the newest commit of sealed evidence as measured on a curation's corpus and pick; None where none was."""
    names = (tables.CERTIFICATES.name, tables.TOKENIZED_SHARDS.name)
    wanted = {name: curation.versions.get(name) for name in names}
    standing = delta.standing(table, partition)
    for commit in [*([] if standing is None else [standing]), *delta.commits(table)]:
        same = all(commit.reads.get(name, version) == version for name, version in wanted.items())
        if same and commit.touches(partition or {}):
            return commit
    return None


def curation_of(delta: DeltaTables, table: Table, version: int) -> int | None:
    """Return the number of the newest published curation that read a version of a table; None where none is known."""
    import polars as pl

    commit = delta.latest(tables.CURATIONS)
    if commit is None:
        return None
    rows = delta.read(tables.CURATIONS, commit.version).filter(pl.col("published"))
    told = rows.select("curation", "versions").sort("curation", descending=True).collect()
    return next(
        (number for number, versions in told.iter_rows() if json.loads(versions).get(table.name) == version),
        None,
    )


def described(delta: DeltaTables, table: Table, version: int) -> str:
    """Return a version of the chunks or of the certificates with its size or pick and its time."""
    import polars as pl

    commit = delta.at(table, version)
    time = (
        ""
        if commit is None
        else f", {datetime.fromtimestamp(commit.timestamp / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    )
    frame = delta.read(table, version)
    if table is tables.CERTIFICATES:
        about = frame.select(pl.col("arm").first()).collect().item()
    else:
        about = f"{frame.select(pl.col('n_tokens').sum()).collect().item():,} tokens"
    number = curation_of(delta, table, version)
    of = "" if number is None else f"curation {number}, "
    return f"version {version} of {table.name} ({of}{about}{time})"
