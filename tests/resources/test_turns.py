"""Turns at a store: one process at a time, also where another one is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from grasp_pipeline.errors import StoreError
from resources.turns import turns


def silent(_: str) -> None:
    pass


def hold(folder: Path, names: list[str], told: Connection) -> None:
    """Hold turns until killed."""
    with turns(folder, names, "run abc", silent):
        told.send("held")
        time.sleep(600)


def count(folder: Path, file: Path, times: int) -> None:
    """Add one to the number in a file, read and written apart, several times."""
    for _ in range(times):
        with turns(folder, ["counter"], "", silent):
            number = int(file.read_text())
            time.sleep(0.001)
            file.write_text(str(number + 1))


def test_one_process_at_a_time(tmp_path: Path) -> None:
    file, context = tmp_path / "number", multiprocessing.get_context("spawn")
    file.write_text("0")
    running = [context.Process(target=count, args=(tmp_path / "turns", file, 20)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert file.read_text() == "60"


def test_who_waits_is_told_and_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    holder = context.Process(target=hold, args=(tmp_path, ["b", "c"], there))
    holder.start()
    assert here.recv() == "held"
    with turns(tmp_path, ["a", "d"], "run def", silent):
        pass  # other names are free
    told: list[str] = []

    def waits(who: str) -> None:
        told.append(who)
        assert holder.pid is not None
        os.kill(holder.pid, signal.SIGKILL)

    with turns(tmp_path, ["c", "b"], "run def", waits):
        holder.join()
        assert told == ["run abc"]
    assert (tmp_path / "b").read_text() == "run def"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StoreError, match=r"the lock .* cannot be made .* GRASP_STORE"),
        turns(tmp_path / "file", ["a"], "", silent),
    ):
        pass
