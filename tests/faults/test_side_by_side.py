"""Runs side by side on one store: every commit is whole, and they end as one run alone would have."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import child
import pytest
from holding import files, tables, undisturbed_tables
from nursery import AGAIN, CHAIN, Nursery, Undisturbed
from workplace import Workplace

from grasp_pipeline.tables import ALL

pytestmark = pytest.mark.faults


@pytest.fixture
def changed(undisturbed: Undisturbed, tmp_path: Path) -> Workplace:
    """A curated store whose inputs have changed since."""
    shutil.copytree(undisturbed.snapshots / "again" / "0", tmp_path / "workplace")
    return child.place_of(tmp_path / "workplace")


VERSIONED = {"README.md", "manifest.json", "curation.yaml", "report.html"}
"""Files that name versions of tables, as a row of `curations` does: they count the commits of others too."""


def assert_as_undisturbed(place: Workplace, wanted: Path) -> None:
    ended, after = tables(place.folder), undisturbed_tables(wanted)
    for told in (ended, after := dict(after)):
        told["curations"] = told["curations"].drop("versions")
    assert [name for name in ALL if not ended[name].equals(after[name])] == []
    found, expected = files(place.folder), files(wanted)
    assert found.keys() == expected.keys()
    differ = {Path(name).name for name in found if found[name] != expected[name]}
    assert differ <= VERSIONED


def test_two_runs_and_a_reader(
    nursery: Nursery, undisturbed: Undisturbed, changed: Workplace, tmp_path: Path
) -> None:
    told = [tmp_path / f"{number}.json" for number in range(3)]
    stop = tmp_path / "stop"
    names = ["documents", "tokenized_shards", "gradient_sketches", "finalists", "pruned_corpus"]
    reader = nursery.start(child.read_on, changed.folder, names, stop, told[2])
    runs = [nursery.start(child.run_job, changed.folder, "recurate", path) for path in told[:2]]
    for run in runs:
        assert nursery.end(run) == 0
    stop.touch()
    assert nursery.end(reader) == 0
    said = [json.loads(path.read_text()) for path in told]
    assert [each["error"] for each in said[:2]] == [None, None]
    assert any(each["waited"] for each in said[:2]), "they were not side by side"
    assert said[2]["faults"] == []
    assert said[2]["readings"] > 2 * len(names)
    assert_as_undisturbed(changed, undisturbed.snapshots / "again" / str(len(AGAIN)))
    assert changed.read(ALL["curations"])["curation"].to_list() == [1, 2]


def test_two_backfills(
    nursery: Nursery, undisturbed: Undisturbed, changed: Workplace, tmp_path: Path
) -> None:
    """Of all shards each, as Dagster launches them, on the chunks and sketches that changed."""
    stage = AGAIN.index(["tokenized_shards"])
    for assets in AGAIN[:stage]:
        assert nursery.work(changed.folder, assets).said == {"error": None}
    shards = sorted(changed.read(ALL["documents"])["shard"].unique())
    assert len(shards) >= 2
    told = [tmp_path / f"{shard}.json" for shard in (*shards, "all")]
    made = ["tokenized_shards", "gradient_sketches"]
    running = [
        nursery.start(child.work, changed.folder, made, "", path, shard)
        for path, shard in zip(told, [*shards, None], strict=True)
    ]
    for run in running:
        assert nursery.end(run) == 0
    assert [json.loads(path.read_text()) for path in told] == [{"error": None}] * len(told)
    for assets in AGAIN[stage:]:
        assert nursery.work(changed.folder, assets).said == {"error": None}
    assert_as_undisturbed(changed, undisturbed.snapshots / "again" / str(len(AGAIN)))


def test_who_waits_for_a_killed_run_goes_on(
    nursery: Nursery, undisturbed: Undisturbed, changed: Workplace, tmp_path: Path
) -> None:
    """The first is killed in the middle of a step, while the second waits for it."""
    told = tmp_path / "told.json"
    first = nursery.start(child.stand_still, changed.folder, CHAIN[1], tmp_path / "stands")
    while not (tmp_path / "stands").exists():
        assert first.is_alive()
        time.sleep(0.05)
    second = nursery.start(child.run_job, changed.folder, "recurate", told)
    while not (tmp_path / "told.waits").exists():
        assert second.is_alive()
        time.sleep(0.05)
    first.kill()
    assert nursery.end(second) == 0
    assert json.loads(told.read_text())["error"] is None
    assert_as_undisturbed(changed, undisturbed.snapshots / "again" / str(len(AGAIN)))
