"""The audit of the sealed evaluation: one small store per way to cheat, each of which must be found."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from table_toys import one_row

from grasp_pipeline import tables
from grasp_pipeline.tables import Table
from resources.audit import (
    CALIBRATION,
    EVALUATION,
    documents_digest,
    sealed,
    sealed_now,
    short_ids,
)
from resources.delta.commits import Commit, Provenance, Read
from resources.delta.tables import DeltaTables
from resources.notes import SubsetsNote, TasksNote

Rows = dict[str, str]


def drew(subsets: list[str], documents: str) -> dict[str, Any]:
    """Return what a commit that drew these subsets leaves."""
    note = SubsetsNote(ids=short_ids(subsets), seeds=2, calibration_pool=None, evaluation_documents=documents)
    return note.to_json()


class Toy:
    """A store that goes through the protocol with one row per table; every stage can be told what it reads."""

    def __init__(self, folder: Path) -> None:
        self.delta = DeltaTables(str(folder))

    def pin(self, table: Table, rows: Rows | None = None) -> Read:
        return self.delta.pin(table, rows)

    def write(
        self, table: Table, *reads: Read, part: Rows | None = None, statistics: Any = None, **values: Any
    ) -> Commit:
        made = Provenance("run", table.name, "1", "config", reads)
        return self.delta.write(table, one_row(table, **values), made, part, statistics)

    def documents(self, text: int = 1, query: int = 1) -> None:
        self.write(tables.TASK_DOCUMENTS, split="evaluation", text=str(text))
        chunks = pl.concat(
            one_row(
                tables.TASKS, split=split, chunk_id=split, input_ids=[query if split == "query" else text]
            )
            for split in ("query", "judge", "calibration", "evaluation")
        )
        self.delta.write(
            tables.TASKS,
            chunks,
            Provenance("run", "tasks", "1", "config", (self.pin(tables.TASK_DOCUMENTS),)),
            statistics=TasksNote(
                evaluation_documents=documents_digest(chunks.filter(split="evaluation"))
            ).to_json(),
        )
        self.write(tables.DOCUMENTS, self.pin(tables.TASK_DOCUMENTS), part={"shard": "s"}, shard="s")

    def sketches(self, *more: Read) -> None:
        queries = self.pin(tables.TASKS, {"split": "query"})
        self.write(tables.TASK_SKETCHES, queries, *more, split="query")

    def grid(self, config: str = "g") -> None:
        self.write(tables.CANDIDATES, config_id=config)

    def draw(self, split: Rows, name: str | None = None, **values: Any) -> None:
        subset = name or split["split"]
        told = self.delta.latest(tables.TASKS)
        assert told is not None
        noted = drew([subset], TasksNote.of(told).evaluation_documents)
        read = self.pin(tables.TASK_SKETCHES)
        self.write(tables.SUBSETS, read, part=split, statistics=noted, subset_id=subset, **split, **values)

    def measure(self, split: Rows, *reads: Read, subset: str | None = None, seed: int = 0) -> None:
        made = Provenance("run", "subset_utilities", "1", "config", reads)
        row = one_row(tables.SUBSET_UTILITIES, subset_id=subset or split["split"], seed=seed, **split)
        self.delta.upsert(tables.SUBSET_UTILITIES, row, made, split)

    def calibrate(self, *reads: Read) -> None:
        reads = reads or (self.pin(tables.SUBSETS, CALIBRATION), self.pin(tables.TASKS, CALIBRATION))
        self.measure(CALIBRATION, *reads)

    def choose(self, *reads: Read, reason: str = "because") -> None:
        reads = reads or (
            self.pin(tables.SUBSETS, CALIBRATION),
            self.pin(tables.SUBSET_UTILITIES, CALIBRATION),
        )
        reads = (self.pin(tables.CANDIDATES), self.pin(tables.TASK_SKETCHES), *reads)
        self.write(tables.SELECTED_CONFIG, *reads, statistics=sealed_now(self.delta).to_json(), reason=reason)

    def certify(self, *more: Read) -> None:
        measured = self.pin(tables.SELECTED_CONFIG), self.pin(tables.TASKS, CALIBRATION)
        self.write(tables.DOCUMENT_LOSSES, *measured, part=CALIBRATION, **CALIBRATION)
        losses = self.pin(tables.DOCUMENT_LOSSES, CALIBRATION)
        self.write(tables.CERTIFICATES, losses, *more)
        self.write(tables.PRUNED_CORPUS, self.pin(tables.CERTIFICATES), *more, part={"shard": "s"}, shard="s")

    def opened(self) -> tuple[Read, ...]:
        return (
            self.pin(tables.SELECTED_CONFIG),
            self.pin(tables.SUBSETS, EVALUATION),
            self.pin(tables.TASKS, EVALUATION),
        )

    def evaluate(self, *reads: Read, subset: str | None = None, seed: int = 0) -> None:
        reads = reads or self.opened()
        self.measure(EVALUATION, *reads, subset=subset, seed=seed)
        self.write(tables.FIDELITY, *reads, part={"corpus": "text"}, corpus="text")
        self.write(tables.DOCUMENT_LOSSES, *reads, part=EVALUATION, **EVALUATION)
        self.write(tables.EVALUATION_LOSSES, *reads)

    def begin(self) -> Toy:
        """Go as far as the drawn subsets."""
        self.documents()
        self.sketches()
        self.grid()
        self.draw(CALIBRATION)
        self.draw(EVALUATION)
        return self

    def go(self) -> Toy:
        """Go through all of it honestly."""
        self.begin()
        self.calibrate()
        self.choose()
        self.certify()
        self.evaluate()
        return self

    def faults(self) -> list[str]:
        return sealed(self.delta).faults


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path / "store")


class TestHonest:
    def test_a_whole_protocol_passes_and_tells_its_order(self, toy: Toy) -> None:
        verdict = sealed(toy.go().delta)
        assert verdict.faults == []
        assert list(verdict.order) == [
            "candidates written",
            "evaluation subsets drawn",
            "choice stored",
            "calibration measured",
            "evaluation measured",
        ]
        times = verdict.order
        assert times["candidates written"] <= times["calibration measured"] <= times["choice stored"]
        assert times["choice stored"] <= times["evaluation measured"]

    def test_before_the_evaluation_it_passes_too(self, toy: Toy) -> None:
        toy.begin().calibrate()
        toy.choose()
        verdict = sealed(toy.delta)
        assert verdict.faults == []
        assert "evaluation measured" not in verdict.order

    def test_a_second_round_with_a_new_grid_and_fresh_subsets_passes(self, toy: Toy) -> None:
        """What the first round opened is not among the present subsets."""
        toy.go()
        toy.grid("h")
        toy.draw(CALIBRATION, "c2")
        toy.draw(EVALUATION, "e2")
        toy.measure(
            CALIBRATION, toy.pin(tables.SUBSETS, CALIBRATION), toy.pin(tables.TASKS, CALIBRATION), subset="c2"
        )
        toy.choose(reason="again")
        toy.certify()
        toy.evaluate(subset="e2")
        assert toy.faults() == []

    def test_measuring_the_sealed_subsets_again_after_the_choice_passes(self, toy: Toy) -> None:
        toy.go().evaluate(seed=1)
        assert toy.faults() == []

    def test_vacuumed_versions_are_told_by_the_log(self, toy: Toy) -> None:
        """Subsets of an earlier round, and the documents of this one, of which only the queries changed."""
        self.test_a_second_round_with_a_new_grid_and_fresh_subsets_passes(toy)
        toy.documents(query=2)
        for table in (tables.SUBSETS, tables.TASKS):
            delta = toy.delta._open(table)
            assert delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
        assert toy.faults() == []

    def test_a_shard_that_is_named_like_a_split_opens_nothing(self, toy: Toy) -> None:
        toy.go()
        named = {"shard": "x/split=evaluation"}
        toy.write(tables.TOKENIZED_SHARDS, part=named, **named)
        toy.write(tables.CONDITIONAL_LOSSES, toy.pin(tables.TOKENIZED_SHARDS, named), part=named, **named)
        assert toy.faults() == []


def whole(read: Read) -> Read:
    """Return a read as recorded without its split."""
    return Read(read.table, read.version)


def peek(toy: Toy) -> None:
    """The evaluation subsets are measured before the choice."""
    toy.begin().calibrate()
    toy.measure(EVALUATION, toy.pin(tables.SUBSETS, EVALUATION))
    toy.choose()


def peek_recorded_as_the_whole_table(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.measure(EVALUATION, whole(toy.pin(tables.SUBSETS)))
    toy.choose()


def peek_that_records_nothing(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.measure(EVALUATION)
    toy.choose()


def peek_of_a_rewritten_partition(toy: Toy) -> None:
    """The subsets that were seen are written once more, so that the version which was read is an old one."""
    toy.begin().calibrate()
    toy.measure(EVALUATION, toy.pin(tables.SUBSETS, EVALUATION))
    toy.draw(EVALUATION, stratum="rewritten")
    toy.choose()


def peek_of_a_redrawn_partition_that_was_put_back(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.measure(EVALUATION, toy.pin(tables.SUBSETS, EVALUATION))
    toy.draw(EVALUATION, "other")
    toy.draw(EVALUATION)
    toy.choose()


def peek_with_the_grid_written_again(toy: Toy) -> None:
    """A new choice after the evaluation, on the same subsets."""
    toy.go().choose(reason="better now")


def choice_from_all_subsets(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.choose(whole(toy.pin(tables.SUBSETS)), toy.pin(tables.SUBSET_UTILITIES, CALIBRATION))


def choice_from_all_utilities(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.choose(toy.pin(tables.SUBSETS, CALIBRATION), whole(toy.pin(tables.SUBSET_UTILITIES)))


def choice_from_evaluation_utilities(toy: Toy) -> None:
    toy.go()
    toy.grid("h")
    toy.draw(CALIBRATION, "c2")
    toy.draw(EVALUATION, "e2")
    toy.measure(CALIBRATION, toy.pin(tables.SUBSETS, CALIBRATION), subset="c2")
    toy.choose(
        toy.pin(tables.SUBSETS, CALIBRATION),
        toy.pin(tables.SUBSET_UTILITIES, CALIBRATION),
        toy.pin(tables.SUBSET_UTILITIES, EVALUATION),
    )


def choice_from_the_fidelity_of_an_earlier_round(toy: Toy) -> None:
    toy.go()
    toy.grid("h")
    toy.draw(CALIBRATION, "c2")
    toy.draw(EVALUATION, "e2")
    toy.measure(CALIBRATION, toy.pin(tables.SUBSETS, CALIBRATION), subset="c2")
    toy.choose(
        toy.pin(tables.SUBSETS, CALIBRATION),
        toy.pin(tables.SUBSET_UTILITIES, CALIBRATION),
        toy.pin(tables.FIDELITY),
    )


def calibration_on_evaluation_documents(toy: Toy) -> None:
    toy.begin().calibrate(toy.pin(tables.SUBSETS, CALIBRATION), toy.pin(tables.TASKS, EVALUATION))
    toy.choose()


def calibration_on_all_documents(toy: Toy) -> None:
    toy.begin().calibrate(toy.pin(tables.SUBSETS, CALIBRATION), whole(toy.pin(tables.TASKS)))
    toy.choose()


def sketches_of_evaluation_documents(toy: Toy) -> None:
    """Far upstream of the choice."""
    toy.documents()
    toy.sketches(toy.pin(tables.TASKS, EVALUATION))
    toy.grid()
    toy.draw(CALIBRATION)
    toy.draw(EVALUATION)
    toy.calibrate()
    toy.choose()


def sketches_that_were_written_again_since(toy: Toy) -> None:
    """The choice still rests on those that had seen the evaluation documents."""
    sketches_of_evaluation_documents(toy)
    toy.sketches()


def sketches_of_the_raw_task_documents(toy: Toy) -> None:
    toy.documents()
    toy.sketches(toy.pin(tables.TASK_DOCUMENTS))
    toy.grid()
    toy.draw(CALIBRATION)
    toy.draw(EVALUATION)
    toy.calibrate()
    toy.choose()


def certificate_from_the_evaluation_losses(toy: Toy) -> None:
    """After the choice, but what ships was picked by what the seal protects."""
    toy.go().certify(toy.pin(tables.EVALUATION_LOSSES))


def certificate_from_evaluation_document_losses(toy: Toy) -> None:
    toy.go().certify(toy.pin(tables.DOCUMENT_LOSSES, EVALUATION))


def evaluation_subsets_redrawn_after_the_choice(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.choose()
    toy.draw(EVALUATION, "easier")
    toy.evaluate(subset="easier")


def evaluation_documents_exchanged_after_the_choice(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.choose()
    toy.documents(text=2)
    toy.evaluate()


def evaluation_of_other_subsets(toy: Toy) -> None:
    """Easier ones stood in their place for a moment, and were measured."""
    toy.begin().calibrate()
    toy.draw(EVALUATION, "easier")
    easier = toy.pin(tables.SUBSETS, EVALUATION)
    toy.draw(EVALUATION)
    toy.choose()
    toy.evaluate(toy.pin(tables.SELECTED_CONFIG), easier, toy.pin(tables.TASKS, EVALUATION), subset="easier")


def evaluation_on_other_documents(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.choose()
    toy.documents(text=2)
    easier = toy.pin(tables.TASKS, EVALUATION)
    toy.documents()
    toy.evaluate(toy.pin(tables.SELECTED_CONFIG), toy.pin(tables.SUBSETS, EVALUATION), easier)


def evaluation_on_other_documents_that_were_vacuumed(toy: Toy) -> None:
    evaluation_on_other_documents(toy)
    delta = toy.delta._open(tables.TASKS)
    assert delta.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)


def evaluation_that_names_no_choice(toy: Toy) -> None:
    toy.begin().calibrate()
    toy.choose()
    toy.evaluate(*toy.opened()[1:])


def late_grid(toy: Toy) -> None:
    toy.documents()
    toy.sketches()
    toy.draw(CALIBRATION)
    toy.draw(EVALUATION)
    toy.calibrate()
    toy.grid()
    toy.choose()


def late_grid_and_a_rewritten_calibration(toy: Toy) -> None:
    """The utilities were measured on a version of the subsets that is not the newest, before the grid."""
    toy.documents()
    toy.sketches()
    toy.draw(CALIBRATION)
    toy.draw(EVALUATION)
    toy.calibrate()
    toy.grid()
    toy.draw(CALIBRATION, stratum="rewritten")
    toy.choose()


def late_grid_and_reads_of_the_whole_table(toy: Toy) -> None:
    toy.documents()
    toy.sketches()
    toy.draw(CALIBRATION)
    toy.draw(EVALUATION)
    toy.calibrate(whole(toy.pin(tables.SUBSETS)))
    toy.grid()
    toy.choose()


def choice_from_an_older_grid(toy: Toy) -> None:
    toy.go().grid("h")


def choice_without_measurements(toy: Toy) -> None:
    toy.begin()
    toy.choose(toy.pin(tables.SUBSETS, CALIBRATION))


def history_that_was_lost(toy: Toy) -> None:
    """The table that the choice rests on was deleted and written again."""
    toy.go()
    toy.sketches(toy.pin(tables.TASKS, {"split": "judge"}))
    toy.draw(CALIBRATION)
    toy.draw(EVALUATION)
    toy.calibrate()
    toy.choose(reason="again")
    shutil.rmtree(toy.delta.uri(tables.TASK_SKETCHES))
    toy.sketches()


CHEATS: dict[Callable[[Toy], None], str] = {
    peek: "before the choice was stored",
    peek_recorded_as_the_whole_table: "before the choice was stored",
    peek_that_records_nothing: "before the choice was stored",
    peek_of_a_rewritten_partition: "before the choice was stored",
    peek_of_a_redrawn_partition_that_was_put_back: "before the choice was stored",
    peek_with_the_grid_written_again: "before the choice was stored",
    choice_from_all_subsets: "selected_config version 1 read subsets and names no split",
    choice_from_all_utilities: "selected_config version 1 read subset_utilities and names no split",
    choice_from_evaluation_utilities: "read subset_utilities/split=evaluation",
    choice_from_the_fidelity_of_an_earlier_round: "read fidelity",
    calibration_on_evaluation_documents: "subset_utilities version 1 read tasks/split=evaluation",
    calibration_on_all_documents: "subset_utilities version 1 read tasks and names no split",
    sketches_of_evaluation_documents: "task_sketches version 1 read tasks/split=evaluation",
    sketches_that_were_written_again_since: "task_sketches version 1 read tasks/split=evaluation",
    sketches_of_the_raw_task_documents: "task_sketches version 1 read task_documents",
    certificate_from_the_evaluation_losses: "read evaluation_losses",
    certificate_from_evaluation_document_losses: "read document_losses/split=evaluation",
    evaluation_subsets_redrawn_after_the_choice: "were drawn after the choice",
    evaluation_documents_exchanged_after_the_choice: "the evaluation documents are not those",
    evaluation_of_other_subsets: "measured other subsets or documents",
    evaluation_on_other_documents: "measured other subsets or documents",
    evaluation_on_other_documents_that_were_vacuumed: "measured other subsets or documents",
    evaluation_that_names_no_choice: "before the choice was stored",
    late_grid: "before the candidates were written",
    late_grid_and_a_rewritten_calibration: "before the candidates were written",
    late_grid_and_reads_of_the_whole_table: "before the candidates were written",
    choice_from_an_older_grid: "older grid",
    choice_without_measurements: "no commit measured the calibration subsets",
    history_that_was_lost: "which is not in its log",
}


@pytest.mark.parametrize(("cheat", "fault"), CHEATS.items(), ids=lambda it: getattr(it, "__name__", None))
def test_every_way_to_cheat_is_found(toy: Toy, cheat: Callable[[Toy], None], fault: str) -> None:
    cheat(toy)
    found = toy.faults()
    assert [one for one in found if fault in one], found


def test_subsets_rewritten_behind_the_log_are_found(toy: Toy) -> None:
    """A commit that says it drew other subsets than it holds."""
    toy.begin().calibrate()
    toy.write(tables.SUBSETS, part=EVALUATION, statistics=drew(["drawn"], ""), subset_id="held", **EVALUATION)
    toy.choose()
    assert any("are not those that were drawn" in fault for fault in toy.faults())


def test_an_incomplete_protocol_is_not_called_sealed(toy: Toy) -> None:
    assert "incomplete" in toy.faults()[0]
    toy.begin()
    assert "incomplete" in toy.faults()[0]
