"""What a workplace holds: rows of its tables and digests of its files, as two workplaces can be compared."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import polars as pl

from grasp_pipeline.tables import ALL, Table
from resources.delta.tables import DeltaTables

OF_THE_RUN = (
    rb"[^\s<>\"']*/workplace/store",
    rb'<div class="scroll"[^>]*aria-label="Time per stage">.*?</div>',
    rb"[0-9][^<>;]* in all, most of it [^;]*; ",
    rb'"cost":\[.*?(?="samples")',
)
"""What the report says of the store's place and of the time that steps took."""

TIMED = ("seconds", "time", "run_id")


def rows(delta: DeltaTables, table: Table) -> pl.DataFrame:
    """Return all that a table holds, by key, without what was timed and which run it was; reads every file of it."""
    commit = delta.latest(table)
    if commit is None:
        return table.empty()
    frame = delta.read(table, commit.version).collect()
    assert frame.select(table.key).is_duplicated().sum() == 0, f"{table.name}: a row is doubled"
    told = [name for name in frame.columns if not any(name.endswith(part) for part in TIMED)]
    return frame.select(told).sort(table.key)


@cache
def undisturbed_tables(folder: Path) -> dict[str, pl.DataFrame]:
    return tables(folder)


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    """Return all tables of a workplace; a table that cannot be read raises."""
    delta = DeltaTables(str(folder / "store"))
    return {name: rows(delta, table) for name, table in ALL.items()}


def files(folder: Path) -> dict[str, str]:
    """Return the digest of every file that is published or loaded again."""
    found = {}
    for room in ("export", "report", "files"):
        for path in sorted((folder / "store" / room).rglob("*")):
            if path.is_file() and not any(part.startswith(".") for part in path.parts[-4:]):
                content = path.read_bytes()
                for told in OF_THE_RUN:
                    content = re.sub(told, b"", content, flags=re.DOTALL)
                found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found
