"""A fault at every stage: every table can be read, no row is lost or doubled, and the rerun ends as if nothing was."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest
from holding import files, tables, undisturbed_tables
from nursery import Nursery, Undisturbed, assets_of, laid
from points import FAULTS, Fault

from grasp_pipeline.tables import ALL, Table

pytestmark = pytest.mark.faults

RECORD = "GRASP_FAULT_RECORD"
"""Environment variable: a file that gets a line for every fault, for the benchmark."""

KILLED = -9


def keys(frame: pl.DataFrame, table: Table) -> set[tuple]:
    return set(frame.select(list(dict.fromkeys((*table.partition_by, *table.key)))).rows())


def lost(before: pl.DataFrame, now: pl.DataFrame, after: pl.DataFrame, table: Table) -> int:
    """Return how many rows are gone that belong there before and afterwards, or are there and belong nowhere."""
    was, has, will = (keys(frame, table) for frame in (before, now, after))
    return len((was & will) - has) + len(has - (was | will))


def record(name: str, fault: Fault, event: str, rows_lost: int = 0) -> None:
    """Leave what happened for the benchmark, if it asks."""
    if path := os.environ.get(RECORD):
        with open(path, "a", encoding="utf-8") as file:
            told = {"name": name, "step": fault.step, "event": event, "rows_lost": rows_lost}
            file.write(json.dumps(told) + "\n")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_loses_nothing(name: str, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path) -> None:
    fault = FAULTS[name]
    assets = assets_of(fault)
    record(name, fault, "injected")
    copies = undisturbed.before(fault), undisturbed.after(fault)
    before, after = map(undisturbed_tables, copies)
    place = laid(copies[0], tmp_path)
    result = nursery.work(place.folder, assets, name)

    if fault.outcome == "killed":
        assert (result.status, result.said) == (KILLED, None)
    else:
        assert result.status == 0
        assert result.said is not None
        assert (result.said["error"] is not None) is (fault.outcome == "refused"), result.said
        assert not result.said.get("bare"), result.said
    now = tables(place.folder)
    gone = sum(lost(before[table], now[table], after[table], ALL[table]) for table in ALL)
    record(name, fault, "counted", gone)
    assert gone == 0, "rows were lost"

    again = nursery.work(place.folder, assets)
    assert again.said == {"error": None}
    ended = tables(place.folder)
    assert [table for table in ALL if not ended[table].equals(after[table])] == []
    assert files(place.folder) == files(undisturbed.after(fault))
    record(name, fault, "survived")


def test_the_faults_are_of_all_stages() -> None:
    assert len(FAULTS) >= 25
    assert {fault.step for fault in FAULTS.values()} >= {
        "manifest",
        "documents",
        "tokenized_shards",
        "proxy_checkpoints",
        "gradient_sketches",
        "subset_utilities",
        "certificates",
        "pruned_corpus",
        "export",
        "report",
    }
