"""The sketching step: what a killed run leaves, what the next one does, and what Dagster is told."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import polars as pl
import pytest
from workplace import Workplace, changed, event_log, materialized, steps_up_to_date

from grasp_pipeline import tables
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.seeds import digest
from grasp_pipeline.sketch.pca import Projection
from grasp_pipeline.sketch.run import SketchEngine
from grasp_pipeline.sketch.storage import decode
from grasp_pipeline.tables import Table
from resources.delta.commits import Commit, Provenance
from resources.sketches import SketchReader

KINDS = ("full", "output")
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
        if len(groups) == 4:
            raise KeyboardInterrupt
        return sketch(engine, *given)

    start = copied.versions()
    with monkeypatch.context() as patch:
        patch.setattr(SketchEngine, "sketch", dies)
        with pytest.raises(KeyboardInterrupt):
            copied.run(changes=OTHER, only=["gradient_sketches"])
    killed = copied.versions()
    done = {partition for _, partition in changed(start, killed)}
    assert done == set(ORDER[:3])

    result = copied.run(changes=OTHER, only=["gradient_sketches"])
    assert {partition for _, partition in changed(killed, copied.versions())} == set(ORDER[3:])
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


def rewrite(
    place: Workplace, table: Table, frame: pl.DataFrame, partition: dict[str, str] | None = None
) -> None:
    """Write a table, or a partition of it, in a commit of its own, whatever it held."""
    place.delta.write(
        table, frame, Provenance("test", "test", "1", ""), partition, {"again": digest(frame.rows())[:8]}
    )


def newest(place: Workplace, kind: str, shard: str) -> Commit:
    commit = place.delta.latest(tables.GRADIENT_SKETCHES, {"sketch_kind": kind, "shard": shard})
    assert commit is not None
    return commit


class TestUpstream:
    def test_tables_written_anew_with_the_same_content_touch_nothing(self, copied: Workplace) -> None:
        for table in (tables.PROXY_CHECKPOINTS, tables.SKETCHERS, tables.TOKENIZER):
            rewrite(copied, table, copied.read(table))
        for shard in SHARDS:
            chunks = copied.read(tables.TOKENIZED_SHARDS).filter(shard=shard)
            rewrite(copied, tables.TOKENIZED_SHARDS, chunks.reverse(), {"shard": shard})
        before = copied.delta_versions()
        result = copied.run(only=["gradient_sketches"])
        assert copied.delta_versions() == before
        assert steps_up_to_date(result) == {"gradient_sketches": True}
        upstream = materialized(result, "gradient_sketches")["upstream"]
        assert upstream["proxy_checkpoints"] == copied.delta.pin(tables.PROXY_CHECKPOINTS).version
        read = newest(copied, "output", SHARDS[0]).reads
        assert read[f"tokenized_shards/shard={SHARDS[0]}"] < copied.delta.pin(tables.TOKENIZED_SHARDS).version

    def test_only_the_shard_whose_tokens_changed_is_sketched(self, copied: Workplace) -> None:
        rewrite(copied, tables.PROXY_CHECKPOINTS, copied.read(tables.PROXY_CHECKPOINTS))
        chunks = copied.read(tables.TOKENIZED_SHARDS).filter(shard=SHARDS[1]).sort("chunk_id")
        swapped = chunks.with_columns(
            input_ids=pl.when(pl.int_range(pl.len()) == 3)
            .then(pl.col("input_ids").list.reverse())
            .otherwise("input_ids")
        )
        rewrite(copied, tables.TOKENIZED_SHARDS, swapped, {"shard": SHARDS[1]})
        before, rows = copied.versions(), sketches_of(copied).filter(sketch_kind="output")
        copied.run(only=["gradient_sketches"])
        touched = {partition for _, partition in changed(before, copied.versions())}
        assert f"{SHARDS[1]}/output" in touched
        assert touched <= {f"{SHARDS[1]}/{kind}" for kind in KINDS}
        after = sketches_of(copied).filter(sketch_kind="output")
        moved = [a != b for a, b in zip(rows["sketch"], after["sketch"], strict=True)]
        assert after["chunk_id"].filter(pl.Series(moved)).to_list() == [swapped["chunk_id"][3]]

    def test_settings_of_one_kind_leave_the_others(self, copied: Workplace) -> None:
        copied.run(changes={"sketchers": {"full_dim": 32}}, only=["sketchers"])
        before = copied.versions()
        copied.run(only=["gradient_sketches"])
        assert {partition for _, partition in changed(before, copied.versions())} == {
            f"{shard}/full" for shard in SHARDS
        }

    @pytest.mark.parametrize("table", [tables.PROXY_CHECKPOINTS, tables.SKETCHERS])
    def test_another_checkpoint_is_another_content(self, copied: Workplace, table: Table) -> None:
        column = "checkpoint_id" if table is tables.SKETCHERS else "train_loss"
        changes = pl.lit("other") if table is tables.SKETCHERS else pl.col("train_loss") + 1
        rewrite(copied, table, copied.read(table).with_columns(changes.alias(column)))
        before = copied.versions()
        copied.run(only=["gradient_sketches"])
        touched = {partition for _, partition in changed(before, copied.versions())}
        assert touched == (set(ORDER) if table is tables.SKETCHERS else set())


def test_any_number_of_devices_writes_the_same_bits(copied: Workplace) -> None:
    copied.run(changes=OTHER, only=["sketchers"])
    written = []
    for devices in ("cpu", "cpu,cpu,cpu"):
        shutil.rmtree(copied.store / tables.GRADIENT_SKETCHES.name)
        copied.compute["device"] = devices
        result = copied.run(changes=OTHER, only=["gradient_sketches"])
        told = materialized(result, "gradient_sketches")
        assert told["compute"]["device"] == devices.replace(",", ", ")
        assert len(copied.delta.commits(tables.GRADIENT_SKETCHES)) == len(ORDER)
        written.append(sketches_of(copied))
    assert written[0].equals(written[1])


REDUCED = {"sketchers": {"pca_dim": 10}}


def test_sketches_are_reduced_by_one_stored_projection(copied: Workplace) -> None:
    whole = {kind: sketches_of(copied).filter(sketch_kind=kind) for kind in KINDS}
    tasks = copied.read(tables.TASK_SKETCHES)
    result = copied.run(changes=REDUCED, only=["sketchers"])
    described = materialized(result, "sketchers")["sketchers"]
    copied.run(changes=REDUCED, only=["gradient_sketches", "task_sketches"])
    reduced, reduced_tasks = sketches_of(copied), copied.read(tables.TASK_SKETCHES)
    for row in copied.read(tables.SKETCHERS).iter_rows(named=True):
        kind, d = row["sketch_kind"], 64
        settings = json.loads(row["settings"])
        path = copied.store / settings["projection"]
        assert described[kind]["pca"]["from"] == d
        assert 0.2 < described[kind]["pca"]["kept"] <= 1
        basis = Projection.load(path).basis
        assert row["d"] == basis.shape[1] == 10
        stored = reduced.filter(sketch_kind=kind)
        expected = decode(whole[kind]["sketch"], d, whole[kind]["scale"][0]) @ basis
        found = decode(stored["sketch"], 10, row["scale"])
        np.testing.assert_allclose(found, expected, atol=3e-3 * np.abs(expected).max())
        one, other = (t.filter(sketch_kind=kind).sort("task", "split") for t in (tasks, reduced_tasks))
        before = np.stack([np.frombuffer(b, "<f4") for b in one["sketch"]]) @ basis
        after = np.stack([np.frombuffer(b, "<f4") for b in other["sketch"]])
        np.testing.assert_allclose(after, before, atol=1e-4 * np.abs(before).max())
    reader = SketchReader(copied.delta, copied.delta.pin(tables.GRADIENT_SKETCHES).version, "output")
    assert reader.d == 10
    versions = copied.delta_versions()
    again = copied.run(changes=REDUCED, only=["sketchers", "gradient_sketches", "task_sketches"])
    assert copied.delta_versions() == versions
    assert set(steps_up_to_date(again).values()) == {True}


def test_a_damaged_projection_is_refused(copied: Workplace) -> None:
    copied.run(changes=REDUCED, only=["sketchers"])
    settings = json.loads(copied.read(tables.SKETCHERS)["settings"][0])
    (file,) = (copied.store / settings["projection"]).iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    result = copied.run(changes=REDUCED, only=["gradient_sketches"], fails=True)
    assert "differs from the digest in the table sketchers" in event_log(copied, result.run_id)
