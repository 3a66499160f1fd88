"""Every engine gives what the slow one gives, whatever happens to its workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from engine import functions

from grasp_pipeline.engine import BuiltOnce, Engine, LocalEngine, RayEngine, SerialEngine, map_jobs
from grasp_pipeline.engine.local import automatic_workers
from grasp_pipeline.errors import EngineError, TrainingError
from resources.compute import Compute

MAKERS: dict[str, Callable[[], Engine]] = {
    "serial": SerialEngine,
    "one worker": lambda: LocalEngine(1),
    "two workers": lambda: LocalEngine(2),
    "four workers": lambda: LocalEngine(4),
}


@pytest.fixture(params=[*MAKERS, pytest.param("ray", marks=pytest.mark.ray)], scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    with MAKERS.get(request.param, lambda: RayEngine(3))() as made:
        yield made


@pytest.fixture(scope="module")
def two() -> Iterator[LocalEngine]:
    with LocalEngine(2) as made:
        yield made


@pytest.mark.parametrize("blocks", [0, 1, 3, 40])
def test_results_come_in_the_order_of_the_blocks(engine: Engine, blocks: int) -> None:
    assert list(engine.map_blocks(functions.square, range(blocks))) == [n * n for n in range(blocks)]


def test_a_straggler_keeps_its_place(engine: Engine) -> None:
    assert list(engine.map_blocks(functions.late_first, range(12))) == list(range(12))


def test_blocks_are_taken_as_results_are_taken(engine: Engine) -> None:
    taken: list[int] = []

    def blocks() -> Iterator[int]:
        for number in range(10_000):
            taken.append(number)
            yield number

    results = engine.map_blocks(functions.square, blocks())
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert 5 <= len(taken) <= 5 + 2 * engine.workers
    results.close()  # type: ignore[attr-defined]
    assert list(engine.map_blocks(functions.square, range(3))) == [0, 1, 4]


def test_an_error_keeps_its_type_and_names_its_block(engine: Engine) -> None:
    done = []
    with pytest.raises(TrainingError, match="not finite") as caught:
        done.extend(engine.map_blocks(functions.refuse_three, range(20)))
    assert done == [0, 1, 2]
    assert "in block 3" in caught.value.__notes__


def test_an_error_of_the_blocks_themselves_comes_through(engine: Engine) -> None:
    def blocks() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(engine.map_blocks(functions.square, blocks()))


def test_what_is_built_once_is_built_once_a_worker(engine: Engine, tmp_path: Path) -> None:
    built: BuiltOnce[int, tuple[int, int]] = BuiltOnce(functions.Slow(tmp_path))
    results = list(engine.map_blocks(built, range(30)))
    assert [block for _, block in results] == list(range(30))
    assert len(list(tmp_path.iterdir())) <= engine.workers


def test_two_maps_share_the_workers(engine: Engine) -> None:
    squares, same = (
        engine.map_blocks(functions.square, range(9)),
        engine.map_blocks(functions.late_first, range(9)),
    )
    assert list(zip(squares, same, strict=True)) == [(n * n, n) for n in range(9)]


def test_workers_are_other_processes_with_few_threads(two: LocalEngine) -> None:
    found = set(two.map_blocks(functions.where, range(20)))
    assert os.getpid() not in {pid for pid, _ in found}
    assert {threads for _, threads in found} == {"1"}
    with LocalEngine(1, threads=3) as three:
        assert [threads for _, threads in three.map_blocks(functions.where, [0])] == ["3"]


@pytest.mark.parametrize("at", [0, 5, 19])
def test_a_killed_worker_costs_nothing_but_time(two: LocalEngine, tmp_path: Path, at: int) -> None:
    killed = functions.Killed(tmp_path, at, times=1)
    assert list(two.map_blocks(killed, range(20))) == [n * n for n in range(20)]
    assert len(list(tmp_path.iterdir())) == 1


def test_a_block_that_kills_its_worker_again_is_named(two: LocalEngine, tmp_path: Path) -> None:
    done = []
    with pytest.raises(EngineError, match=r"died twice at block 7 .*SIGKILL.*workers"):
        done.extend(two.map_blocks(functions.Killed(tmp_path, 7, times=9), range(20)))
    assert done == [n * n for n in range(7)]
    assert len(list(tmp_path.iterdir())) == 2
    assert list(two.map_blocks(functions.square, range(3))) == [0, 1, 4]


def test_a_block_that_needs_more_memory_than_allowed_is_named() -> None:
    with LocalEngine(1, memory=1024**3) as small:
        assert list(small.map_blocks(functions.allocate, [0.25])) == [2**28]
        with pytest.raises(
            EngineError, match=r"block 1 needs more memory .*\(1 GiB\).*memory_per_worker_gib"
        ):
            list(small.map_blocks(functions.allocate, [0.1, 2.0]))


def test_workers_end_with_the_engine() -> None:
    with LocalEngine(2) as engine:
        pids = {pid for pid, _ in engine.map_blocks(functions.where, range(8))}
    deadline = time.monotonic() + 20
    while alive := {pid for pid in pids if Path(f"/proc/{pid}").exists()}:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


def test_automatic_workers_fit_the_cores_and_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loky.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 4 * 1024**2}.__getitem__)
    assert [automatic_workers(threads) for threads in (1, 3, 16)] == [8, 2, 1]
    assert [automatic_workers(1, gib * 1024**3) for gib in (1, 5, 32)] == [8, 3, 1]


@pytest.mark.parametrize(
    ("settings", "core_seconds", "workers"),
    [({}, 1.0, 1), ({}, 1e6, 8), ({"workers": 3}, 1.0, 3), ({"threads_per_worker": 4}, 1e6, 2)],
)
def test_small_work_starts_no_worker(
    settings: dict[str, int], core_seconds: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loky.cpu_count", lambda: 8)
    engine = Compute(**settings).map_engine(core_seconds)
    assert engine.workers == workers
    assert isinstance(engine, SerialEngine) == (workers == 1)


@pytest.mark.parametrize("sizes", [[], [0], [0, 0], [3, 0, 2, 0], [1, 1, 40, 0, 1]])
def test_jobs_have_the_results_of_their_blocks(engine: Engine, sizes: list[int]) -> None:
    def blocks_of(job: int) -> list[tuple[str, int]]:
        return [(f"{job}/{n}", 100 * job + n) for n in range(sizes[job])]

    mapped = map_jobs(engine, functions.square, range(len(sizes)), blocks_of)
    found = [(job, list(results)) for job, results in mapped]
    assert found == [(job, [(name, n * n) for name, n in blocks_of(job)]) for job in range(len(sizes))]


def test_a_job_whose_results_are_left_leaves_the_next_its_own() -> None:
    mapped = map_jobs(SerialEngine(), functions.square, range(3), lambda job: [("", job)] * 3)
    assert [(job, next(results)) for job, results in mapped] == [(0, ("", 0)), (1, ("", 1)), (2, ("", 4))]


def test_a_job_ends_before_the_next_is_worked_on() -> None:
    worked: list[int] = []
    mapped = map_jobs(SerialEngine(), worked.append, range(3), lambda job: [("", job)] * 2)
    for job, results in mapped:
        list(results)
        assert worked == [n for n in range(job + 1) for _ in range(2)]
