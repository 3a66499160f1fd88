"""The benchmark of the front end: what it runs and how it counts memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from toys import toy_texts

from benchmarks.scale import front_end
from benchmarks.scale.front_end_run import PeakMemory, resident


def test_memory_counts_the_process_and_what_it_started() -> None:
    held = "import sys; data = bytearray(80_000_000); print(1, flush=True); sys.stdin.read()"
    before = resident(os.getpid())
    with PeakMemory() as peak:
        child = subprocess.Popen(
            [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        child.stdout.readline()
        assert resident(os.getpid()) > before + 80_000_000
        assert resident(child.pid) > 80_000_000
        for _ in range(600):
            if peak.bytes > before + 80_000_000:
                break
            time.sleep(0.05)
        child.communicate("")
    assert peak.bytes > before + 80_000_000
    assert resident(child.pid) == 0


@pytest.mark.slow
def test_the_front_end_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = tmp_path / "large"
    for name in ("corpus", "tasks"):
        (large / name).mkdir(parents=True)
    texts = [text for source in ("news", "code") for text in toy_texts(source, 60)]
    rows = {"id": [str(number) for number in range(len(texts))], "source": "s", "text": texts}
    pl.DataFrame(rows).write_parquet(large / "corpus" / "01-s.parquet")
    tasks = {"task": "french", "text": toy_texts("french", 160)}
    pl.DataFrame(tasks).write_parquet(large / "tasks" / "french.parquet")
    monkeypatch.setattr(front_end, "LARGE", large)
    done = front_end.run(tmp_path / "store", [str(large / "corpus")], 2, front_end.CLEANED)
    assert set(done["steps"]) == set(front_end.CLEANED)
    assert done["peak"] > 50e6
    assert done["seconds"] >= done["steps"]["documents"]
    size = front_end.rewritten(tmp_path / "more", times=2)
    assert 1.5 < size / sum(map(len, texts)) < 2.5
    front_end.join_files(tmp_path / "more", tmp_path / "one.parquet")
    assert pl.read_parquet(tmp_path / "one.parquet").height == 2 * len(texts)
