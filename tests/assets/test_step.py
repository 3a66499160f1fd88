"""What a step reads is what its commits name: pinned once, before the provenance, and split by split."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from assets.common import Step
from grasp_pipeline import tables
from resources.delta.commits import Provenance
from resources.notes import MadeNote
from resources.store import DeltaStore

SPLITS = ("query", "judge", "calibration", "evaluation")


def chunks(splits: tuple[str, ...] = SPLITS) -> pl.DataFrame:
    rows = [("t", split, 0, "d", split, [1], 1) for split in splits]
    return pl.DataFrame(rows, schema=tables.TASKS.schema, orient="row")


@pytest.fixture
def step(tmp_path: Path) -> Step:
    store = DeltaStore(root=str(tmp_path / "store"))
    store.tables.write(tables.TASKS, chunks(), Provenance("run", "tasks", "1", ""))
    named = SimpleNamespace(op=SimpleNamespace(name="reader"))
    run = SimpleNamespace(run_id="run", job_name="reader", tags={}, run_config={})
    job = SimpleNamespace(nodes=[], all_node_defs=[])
    context: Any = SimpleNamespace(op_execution_context=named, run=run, job_def=job)
    return Step(context, store, None, "1")


@pytest.mark.parametrize("name", sorted(tables.BY_SPLIT))
def test_a_table_with_a_sealed_split_is_not_read_whole(step: Step, name: str) -> None:
    with pytest.raises(ValueError, match=f"reader reads {name} whole; name the split"):
        step.pin(tables.ALL[name])


def test_the_split_that_is_recorded_is_the_split_that_is_read(step: Step) -> None:
    for split in SPLITS:
        assert step.read(tables.TASKS, {"split": split}).collect()["chunk_id"].to_list() == [split]
    assert step.upstream() == {f"tasks/split={split}": 1 for split in SPLITS}
    both = step.read_splits(tables.TASKS, ["query", "judge"]).collect()
    assert sorted(both["chunk_id"]) == ["judge", "query"]
    assert step.provenance().labels() == {f"tasks/split={split}" for split in SPLITS}


def test_nothing_new_is_read_once_the_provenance_was_taken(step: Step) -> None:
    step.pin(tables.TASKS, {"split": "query"})
    step.provenance()
    assert step.read(tables.TASKS, {"split": "query"}).collect().height == 1
    with pytest.raises(ValueError, match="tasks/split=judge after its provenance was taken"):
        step.read(tables.TASKS, {"split": "judge"})


def test_a_pinned_table_stays_at_its_version(step: Step) -> None:
    first = step.pin(tables.TASKS, {"split": "query"})
    step.tables.write(tables.TASKS, chunks(("judge",)), Provenance("run", "tasks", "1", ""))
    assert step.pin(tables.TASKS, {"split": "query"}) == first
    assert step.read(tables.TASKS, {"split": "query"}).collect().height == 1


def test_equal_content_that_was_made_from_other_reads_is_not_called_unmoved(step: Step) -> None:
    part = {"shard": "s"}
    old = step.provenance()
    step.tables.write(
        tables.CONDITIONAL_LOSSES, tables.CONDITIONAL_LOSSES.empty(), old, part, {"made_from": "same"}
    )
    assert step.unmoved(tables.CONDITIONAL_LOSSES, old, part, MadeNote, lambda: "same") is not None
    again = Step(cast(Any, step.context), step.store, None, "1")
    again.pin(tables.TASKS, {"split": "query"})
    assert (
        again.unmoved(tables.CONDITIONAL_LOSSES, again.provenance(), part, MadeNote, lambda: "same") is None
    )


def test_assets_read_tables_with_a_sealed_split_through_the_step_or_by_partition() -> None:
    """`DeltaTables.read` records nothing: an asset gives it a partition that it writes itself, or a pinned read."""
    names = "|".join(name.upper() for name in sorted(tables.BY_SPLIT))
    whole = re.compile(rf"(tables|lake)\.(read|batches)\(\s*tables\.({names}),\s*[\w.]+\s*\)")
    found = [
        f"{path.name}: {match.group()}"
        for path in sorted(Path("assets").glob("*.py"))
        for match in whole.finditer(path.read_text())
    ]
    assert found == []
