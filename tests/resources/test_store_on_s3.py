"""The store in an S3-compatible object store: files, commits of many writers, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from table_toys import one_row

from benchmarks.scale.object_store import writers_lost_commits
from benchmarks.scale.s3_server import SECRET, s3_server
from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from resources.delta import opening
from resources.delta.commits import Provenance
from resources.delta.opening import LostRace
from resources.delta.tables import DeltaTables
from resources.store import DeltaStore

CALIBRATION = {"split": "calibration"}


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("lake") as uri:
        yield uri


@pytest.mark.slow
def test_a_folder_is_replaced_object_by_object(bucket: str) -> None:
    store = DeltaStore(root=f"{bucket}/store")
    assert not store.has_file("files/a/one")
    for content in ("one", "two"):
        with store.new_files("files/a") as folder:
            (folder / "deep").mkdir()
            for path in (folder / content, folder / "deep" / "always"):
                path.write_text(content)
    assert store.has_file("files/a/two")
    assert not store.has_file("files/a/one")
    with store.files("files/a") as folder:
        found = {
            path.relative_to(folder).as_posix(): path.read_text()
            for path in folder.rglob("*")
            if path.is_file()
        }
    assert found == {"two": "two", "deep/always": "two"}
    with pytest.raises(StoreError, match="files/b is missing from the store"), store.files("files/b"):
        pass


@pytest.mark.slow
def test_options_come_from_the_environment_by_name(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"AWS_SECRET_ACCESS_KEY": "OUR_SECRET", "AWS_ACCESS_KEY_ID": "OUR_KEY"}
    for option in named:
        monkeypatch.delenv(option)
    monkeypatch.setenv("OUR_SECRET", SECRET)
    monkeypatch.setenv("OUR_KEY", "writer")
    store = DeltaStore(root=f"{bucket}/named", storage_options_from_env=named)
    with store.new_files("files/a") as folder:
        (folder / "one").write_text("1")
    assert store.has_file("files/a/one")
    row = one_row(tables.SUBSET_UTILITIES, subset_id="s", split="calibration")
    store.tables.write(tables.SUBSET_UTILITIES, row, made_by("run"), CALIBRATION)
    read = store.tables.pin(tables.SUBSET_UTILITIES, CALIBRATION)
    assert store.tables.rows(read).collect().equals(row)


@pytest.mark.slow
@pytest.mark.parametrize("one_partition", [False, True])
def test_no_commit_of_many_writers_is_lost(one_partition: bool) -> None:
    figure = writers_lost_commits(writers=6, processes=1, one_partition=one_partition)
    assert figure.value == 0
    assert "6 were told that they had committed, 6 commits in the log" in figure.note


def made_by(run: str) -> Provenance:
    return Provenance(run, "test", "1", "")


@pytest.mark.parametrize("place", ["option", "environment"])
def test_commits_that_two_writers_can_both_win_are_refused(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"AWS_S3_ALLOW_UNSAFE_RENAME": "true"} if place == "option" else {}
    if place == "environment":
        monkeypatch.setenv("AWS_S3_ALLOW_UNSAFE_RENAME", "1")
    with pytest.raises(StoreError, match=r"UNSAFE_RENAME is set for the store s3://lake: .*unset it"):
        DeltaTables("s3://lake", options)
    DeltaTables("gs://lake", options)


@pytest.mark.parametrize(
    "options", [{}, {"conditional_put": "etag"}, {"AWS_S3_LOCKING_PROVIDER": "dynamodb"}]
)
def test_commits_are_conditional_puts_where_nothing_else_is_asked(options: dict[str, str]) -> None:
    asked = DeltaTables("s3://lake", options)._options or {}
    assert ("conditional_put" in asked) is (options.get("AWS_S3_LOCKING_PROVIDER") is None)


def test_a_writer_that_always_comes_second_gives_up(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "PATIENCE", 0.0)
    tried = []

    def attempt() -> None:
        tried.append(1)
        raise LostRace

    delta = DeltaTables(str(tmp_path_factory.mktemp("store")))
    with pytest.raises(StoreError, match=r"another writer kept changing documents .*launch the step again"):
        delta._persist(tables.DOCUMENTS, attempt)
    assert tried == [1]


def test_a_put_whose_answer_was_lost_is_found_in_the_log(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """delta-rs puts again, is told that the version exists, and takes that for another writer's."""
    from deltalake import write_deltalake
    from deltalake.exceptions import CommitFailedError

    def deaf(*arguments: object, **named: object) -> None:
        write_deltalake(*arguments, **named)  # type: ignore[arg-type]
        raise CommitFailedError("version exists")

    monkeypatch.setattr("deltalake.write_deltalake", deaf)
    delta = DeltaTables(str(tmp_path_factory.mktemp("store")))
    row = one_row(tables.SUBSET_UTILITIES, subset_id="s", split="calibration")
    commit = delta.write(tables.SUBSET_UTILITIES, row, made_by("run"), CALIBRATION)
    assert [each.version for each in delta.commits(tables.SUBSET_UTILITIES)] == [commit.version]


def test_a_lost_race_ends_its_try_and_the_next_one_aims_at_what_came_meanwhile(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one put more is made by delta-rs on its own, whichever partition the other writer wrote."""
    from deltalake import write_deltalake

    delta = DeltaTables(str(tmp_path_factory.mktemp("store")))
    delta.create(tables.SUBSET_UTILITIES, made_by("first"))
    aimed: list[int] = []

    def overtaken(opened: Any, *arguments: Any, **named: Any) -> None:
        aimed.append(opened.version() + 1)
        if len(aimed) in (1, 3):  # the second is the other writer's own
            row = one_row(tables.SUBSET_UTILITIES, subset_id=f"s{len(aimed)}", split="evaluation")
            DeltaTables(delta.root).write(
                tables.SUBSET_UTILITIES, row, made_by("other"), {"split": "evaluation"}
            )
        write_deltalake(opened, *arguments, **named)

    monkeypatch.setattr("deltalake.write_deltalake", overtaken)
    row = one_row(tables.SUBSET_UTILITIES, subset_id="s", split="calibration")
    commit = delta.write(tables.SUBSET_UTILITIES, row, made_by("mine"), CALIBRATION)
    assert aimed == [1, 1, 2, 2, 3]
    assert commit.version == 3
    assert [each.metadata["run_id"] for each in delta.commits(tables.SUBSET_UTILITIES)] == [
        "mine",
        "other",
        "other",
    ]
    assert commit == delta.latest(tables.SUBSET_UTILITIES, CALIBRATION)
