"""Task documents: splits and folds by hash, leaks between splits, and tasks that are too small."""

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grasp_pipeline.config import TasksConfig
from grasp_pipeline.corpus.normalize import document_id
from grasp_pipeline.corpus.tasks import SHARES, Tasks, fold_of, read_tasks, split_of
from grasp_pipeline.errors import InputError
from grasp_pipeline.tables import TASK_DOCUMENTS


def read(folder: Path, rows: list[dict], **config: object) -> Tasks:
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_tasks(TasksConfig(paths=[str(folder / "*.jsonl")], **config))


def full(task: str, per_place: int = 4, mark: str = "") -> list[dict]:
    """Enough documents with explicit split and fold."""
    places = [(split, fold) for split in SHARES for fold in (0, 1)]
    return [
        {
            "task": task,
            "document": f"{split}{fold}-{n}",
            "split": split,
            "fold": fold,
            "text": f"{mark}{task}{split}{fold}{n}",
        }
        for split, fold in places
        for n in range(per_place)
    ]


def test_splits_follow_from_the_hash_in_about_their_shares(tmp_path: Path) -> None:
    rows = [{"task": "fr", "text": f"document number {n}"} for n in range(2_000)]
    documents = read(tmp_path, rows).documents
    assert documents.schema == TASK_DOCUMENTS.schema
    sizes = dict(documents.group_by("split").len().iter_rows())
    for split, share in SHARES.items():
        assert sizes[split] / 2_000 == pytest.approx(share, abs=0.03)
    assert documents["fold"].mean() == pytest.approx(0.5, abs=0.04)
    for document, split, fold, text in documents.select("document", "split", "fold", "text").iter_rows():
        assert (document, split, fold) == (document_id(text), split_of(document), fold_of(document))
    more = read(tmp_path, [*rows[::-1], {"task": "fr", "text": "another"}]).documents
    assert more.join(documents, on=list(TASK_DOCUMENTS.schema), how="semi").height == 2_000


def test_given_splits_folds_and_ids_are_kept(tmp_path: Path) -> None:
    tasks = read(tmp_path, full("it's/a task"), min_documents=4)
    assert tasks.documents.height == 32
    assert tasks.leaks.is_empty()
    assert set(tasks.documents.filter(pl.col("document").str.contains("judge1"))["split"]) == {"judge"}
    assert (
        tasks.documents["fold"].cast(pl.String) == tasks.documents["document"].str.extract(r"(\d)-")
    ).all()


def test_parquet_with_other_column_names_and_folds_with_gaps(tmp_path: Path) -> None:
    rows = [{**row, "fold": None if row["split"] == "query" else float(row["fold"])} for row in full("a")]
    frame = pl.DataFrame(rows).rename({"task": "skill", "text": "body", "document": "name"})
    frame.write_parquet(tmp_path / "tasks.parquet")
    config = TasksConfig(
        paths=[str(tmp_path)],
        text_column="body",
        task_column="skill",
        document_column="name",
        min_documents=4,
    )
    documents = read_tasks(config).documents
    assert documents.height == 32
    assert documents.filter(pl.col("split") == "query")["fold"].to_list() == [
        fold_of(name) for name in documents.filter(pl.col("split") == "query")["document"]
    ]


def test_rows_of_one_document_are_joined(tmp_path: Path) -> None:
    part = {"task": "a", "document": "query0-0", "split": "query", "fold": 0, "text": " second\r\npart "}
    documents = read(tmp_path, [*full("a"), part, part], min_documents=4).documents
    text = documents.filter(pl.col("document") == "query0-0")["text"].item()
    assert text == "aquery00\n\nsecond\npart"


def test_the_same_text_stays_in_its_most_protected_place(tmp_path: Path) -> None:
    def row(task: str, document: str, split: str, fold: int, text: str) -> dict:
        return {"task": task, "document": document, "split": split, "fold": fold, "text": text}

    rows = (
        full("a")
        + full("b")
        + [
            row("a", "q", "query", 0, "leak one"),
            row("b", "e", "evaluation", 0, "leak  one".replace("  ", " ")),
            row("a", "c0", "calibration", 0, "leak two"),
            row("b", "c1", "calibration", 1, "leak two"),
            row("a", "j", "judge", 1, "leak two"),
            row("a", "twice", "evaluation", 1, "shared"),
            row("a", "again", "evaluation", 0, "shared"),
            row("b", "shared", "evaluation", 1, "shared"),
        ]
    )
    tasks = read(tmp_path, rows, min_documents=4)
    kept = tasks.documents.filter(pl.col("text").str.contains("leak|shared"))
    assert sorted(kept.select("task", "document").rows()) == [
        ("a", "again"),
        ("a", "c0"),
        ("b", "e"),
        ("b", "shared"),
    ]
    assert tasks.leaks.select("task", "document", "kept_task", "kept_document").rows() == [
        ("a", "j", "a", "c0"),
        ("a", "q", "b", "e"),
        ("a", "twice", "a", "again"),
        ("b", "c1", "a", "c0"),
    ]


PLACES = st.tuples(
    st.sampled_from("ab"),
    st.integers(0, 30),
    st.sampled_from(list(SHARES)),
    st.integers(0, 1),
    st.integers(0, 6),
)


@given(st.lists(PLACES, max_size=40, unique_by=lambda one: one[:2]))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_is_in_two_splits_or_calibration_folds(tmp_path: Path, places: list[tuple]) -> None:
    rows = [
        {"task": task, "document": f"d{number}", "split": split, "fold": fold, "text": f"text {text}"}
        for task, number, split, fold, text in places
    ]
    tasks = read(tmp_path, full("a", 4, "x") + full("b", 4, "y") + rows, min_documents=4)
    for _, group in tasks.documents.group_by("text"):
        assert group["split"].n_unique() == 1
        assert group["split"][0] != "calibration" or group["fold"].n_unique() == 1
        assert group["task"].is_duplicated().sum() == 0
    assert tasks.documents.height + tasks.leaks.height == 64 + len(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "mean"}, "row 0 of .* is named 'mean', which stands for the mean of all tasks"),
        ({"task": ""}, "has no name"),
        ({"task": None}, "has no name"),
        ({"text": " \n"}, r"text in row 0 of the task file '.*tasks.jsonl' cannot be used \(it is empty\)"),
        ({"text": None}, "missing_text: line 1: the text is null"),
        ({"split": "test"}, "split 'test' in row 0 .* is not one of query, judge, calibration, evaluation"),
        ({"fold": 2}, "fold '2' in row 0 .* is not 0 or 1"),
        (
            {"split": "query", "document": "judge0-0", "fold": 0},
            "'judge0-0' of the task 'a' is in the splits judge and query; put",
        ),
        (
            {"split": "judge", "document": "judge0-0", "fold": 1},
            "'judge0-0' of the task 'a' is in the folds 0 and 1; put",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict, message: str) -> None:
    row = {"task": "a", "text": "extra", "document": "extra", **change}
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path, [row, *full("a")], min_documents=4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (lambda row: row["split"] == "judge", "task 'b' has 0 documents in the split 'judge' and needs 4"),
        (
            lambda row: row["split"] == "calibration" and row["fold"] == 1,
            "task 'b' has 0 documents in the split 'calibration', fold 1, and needs 4; add documents",
        ),
    ],
)
def test_a_small_task_is_named_with_split_and_number(tmp_path: Path, drop, message: str) -> None:
    rows = full("a") + [row for row in full("b") if not drop(row)]
    with pytest.raises(InputError, match=message):
        read(tmp_path, rows, min_documents=4)


def test_a_task_lost_to_leaks_is_still_named(tmp_path: Path) -> None:
    lost = [{**row, "task": "b", "split": "query"} for row in full("a") if row["split"] == "evaluation"]
    with pytest.raises(InputError, match="task 'b' has 0 documents in the split 'query'"):
        read(tmp_path, full("a") + lost, min_documents=4)


def test_empty_and_wrong_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task files have no rows"):
        read(tmp_path, [])
    with pytest.raises(InputError, match="no column 'task'; its columns are 'text'"):
        read(tmp_path, [{"text": "a"}])
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="has no columns"):
        read_tasks(TasksConfig(paths=[str(tmp_path / "a.txt")]))
