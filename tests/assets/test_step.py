"""What a step reads is what its commits name: pinned once, before the provenance, and split by split."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import polars as pl
import pytest

from assets import graph as _graph  # noqa: F401  declares every stage
from assets.stages import STAGES, Reading, Stage, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError
from resources.delta.commits import Provenance
from resources.notes import MadeNote
from resources.store import DeltaStore

SPLITS = ("query", "judge", "calibration", "evaluation")
READER = Stage("reader", "1", tuple(Reading(tables.TASKS, split, optional=True) for split in SPLITS))


def chunks(splits: tuple[str, ...] = SPLITS) -> pl.DataFrame:
    rows = [("t", split, 0, "d", split, [1], 1) for split in splits]
    return pl.DataFrame(rows, schema=tables.TASKS.schema, orient="row")


def job_of(*steps: str) -> SimpleNamespace:
    """Return as much of a job as a step asks for: no asset of it is made by shards."""
    nodes, layer = [SimpleNamespace(name=name) for name in steps], SimpleNamespace(selected_asset_keys=())
    return SimpleNamespace(nodes=nodes, all_node_defs=[], config_mapping=None, asset_layer=layer)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    store = DeltaStore(root=str(tmp_path / "store"))
    store.tables.write(tables.TASKS, chunks(), Provenance("run", "tasks", "1", ""))
    named = SimpleNamespace(op=SimpleNamespace(name="reader"))
    run = SimpleNamespace(run_id="run", job_name="reader", tags={}, run_config={})
    job = job_of()
    instance = SimpleNamespace(add_run_tags=lambda *given: None)
    context: Any = SimpleNamespace(op_execution_context=named, run=run, job_def=job, instance=instance)
    return Step(context, store, stage=READER)


@pytest.mark.parametrize("name", sorted(tables.BY_SPLIT))
def test_a_table_with_a_sealed_split_is_not_read_whole(step: Step, name: str) -> None:
    with pytest.raises(ValueError, match=f"reader reads {name}, which its stage does not declare"):
        step.pin(tables.ALL[name])

    def reader(context: Any, store: Any) -> None: ...

    declare = stage(group="g", kinds={"k"}, code_version="1", writes="Nothing.", reads=[tables.ALL[name]])
    with pytest.raises(ValueError, match=f"reader reads {name} whole; name the split"):
        declare(reader)
    assert "reader" not in STAGES


def test_only_what_is_declared_is_read(step: Step) -> None:
    with pytest.raises(ValueError, match="reader reads documents, which its stage does not declare"):
        step.read(tables.DOCUMENTS)
    with pytest.raises(ValueError, match="reads tasks/split=nonsense, which"):
        step.part(tables.TASKS, {"split": "nonsense"})
    with pytest.raises(ValueError, match="does not declare that it carries calibration_pool"):
        step.carried(tables.CALIBRATION_POOL, 3)
    assert step.upstream() == {}


def test_what_is_declared_is_read_before_the_provenance(step: Step) -> None:
    whole = Stage(
        "reader", "1", (Reading(tables.TASKS, "query"), Reading(tables.GRADIENT_SKETCHES, by="shard"))
    )
    begun = Step(cast(Any, step.context), step.store, stage=whole)
    assert begun.upstream() == {"tasks/split=query": 1}, "pinned when the step begins"
    with pytest.raises(ValueError, match="provenance before it reads gradient_sketches"):
        begun.provenance()


def test_a_step_that_begins_before_what_it_reads_is_refused(step: Step) -> None:
    """Edges that a path says are not in the graph: a selection without the path has no order."""
    context = cast(Any, step.context)
    done: list[Any] = []
    context.job_def = job_of("reader", "tasks")
    context.instance = SimpleNamespace(get_run_step_stats=lambda run, steps: done)
    reads = Stage("reader", "1", (Reading(tables.TASKS, "query"),))
    with pytest.raises(
        ConfigError, match=r"reader began before tasks, which it reads, had ended.*Select that too"
    ):
        Step(context, step.store, stage=reads)
    done.append(SimpleNamespace(step_key="tasks", status=SimpleNamespace(value="SUCCESS")))
    assert Step(context, step.store, stage=reads).upstream() == {"tasks/split=query": 1}


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
    again = Step(cast(Any, step.context), step.store, stage=READER)
    again.pin(tables.TASKS, {"split": "query"})
    assert (
        again.unmoved(tables.CONDITIONAL_LOSSES, again.provenance(), part, MadeNote, lambda: "same") is None
    )


def test_assets_read_tables_with_a_sealed_split_through_the_step_or_by_partition() -> None:
    """`DeltaTables.read` records nothing: an asset gives it a partition that it writes itself, or a pinned read."""
    names = "|".join(name.upper() for name in sorted(tables.BY_SPLIT))
    whole = re.compile(rf"(tables|delta)\.(read|batches)\(\s*tables\.({names}),\s*[\w.]+\s*\)")
    found = [
        f"{path.name}: {match.group()}"
        for path in sorted(Path("assets").glob("*.py"))
        for match in whole.finditer(path.read_text())
    ]
    assert found == []
