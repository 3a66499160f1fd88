"""The sketching step: what a killed run leaves, what the next one does, and what Dagster is told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from workplace import Workplace, changed, event_log, materialized, steps_up_to_date

from grasp_pipeline import tables
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.sketch.run import SketchEngine

KINDS = ("full", "output", "output_early")
SHARDS = ("shard-0000", "shard-0001")
OTHER = {"sketchers": {"full_dim": 32, "seed": 1}}
ORDER = [f"{shard}/{kind}" for shard in SHARDS for kind in KINDS]
"""Partitions in the order in which they are written: shard by shard, kinds by name."""


def sketches_of(place: Workplace) -> Any:
    return place.read(tables.GRADIENT_SKETCHES).sort("sketch_kind", "chunk_id")


def test_a_killed_run_resumes_at_the_first_missing_partition(
    copied: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = copied.run(changes=OTHER, only=["sketchers"])
    described = materialized(result, "sketchers")["sketchers"]
    assert set(described) == set(KINDS)
    assert described["full"]["d"] == 32
    assert described["full"]["bytes_per_chunk"] == 64
    assert json.dumps(described)

    sketch, groups = SketchEngine.sketch, []

    def dies(engine: SketchEngine, *given: Any) -> Any:
        groups.append(engine.sketcher.kind)
        if len(groups) == 5:
            raise KeyboardInterrupt
        return sketch(engine, *given)

    start = copied.versions()
    with monkeypatch.context() as patch:
        patch.setattr(SketchEngine, "sketch", dies)
        with pytest.raises(KeyboardInterrupt):
            copied.run(changes=OTHER, only=["gradient_sketches"])
    killed = copied.versions()
    done = {partition for _, partition in changed(start, killed)}
    assert done == set(ORDER[:4])

    result = copied.run(changes=OTHER, only=["gradient_sketches"])
    assert {partition for _, partition in changed(killed, copied.versions())} == set(ORDER[4:])
    assert steps_up_to_date(result) == {"gradient_sketches": False}
    again = copied.run(changes=OTHER, only=["gradient_sketches"])
    assert steps_up_to_date(again) == {"gradient_sketches": True}
    chunks = copied.read(tables.TOKENIZED_SHARDS)
    full = sketches_of(copied).filter(sketch_kind="full")
    assert full["chunk_id"].to_list() == chunks["chunk_id"].sort().to_list()
    assert full["d"].unique().to_list() == [32]


def test_a_lack_of_memory_is_told_and_changes_no_sketch(
    copied: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.run(changes=OTHER, only=["sketchers"])
    compute, tight = SketchEngine._compute, []

    def scarce(engine: SketchEngine, batch: Any) -> bool:
        fits = batch.stop - batch.start <= 8
        tight.append(fits)
        return fits and compute(engine, batch)

    with monkeypatch.context() as patch:
        patch.setattr(SketchEngine, "_compute", scarce)
        result = copied.run(changes=OTHER, only=["gradient_sketches"])
    assert not all(tight)
    assert "memory ran out on cpu at a batch of" in event_log(copied, result.run_id)
    chunks = copied.read(tables.TOKENIZED_SHARDS)
    assert (
        sketches_of(copied).filter(sketch_kind="full")["chunk_id"].to_list()
        == chunks["chunk_id"].sort().to_list()
    )


def test_an_error_in_a_shard_leaves_its_last_sketches(
    copied: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied.run(changes=OTHER, only=["sketchers"])
    before, rows = copied.versions(), sketches_of(copied)

    def fails(*_: Any) -> Any:
        raise TrainingError("the sketch of chunk c is not finite")

    with monkeypatch.context() as patch:
        patch.setattr(SketchEngine, "sketch", fails)
        copied.run(changes=OTHER, only=["gradient_sketches"], fails=True)
    assert copied.versions() == before
    assert sketches_of(copied).equals(rows)
