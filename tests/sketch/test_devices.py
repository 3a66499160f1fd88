"""Batch sizes chosen for a device, and work spread over several."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import tiny_model

from grasp_pipeline.config import SketchConfig
from grasp_pipeline.sketch.batch_size import (
    CPU_TOKENS,
    MOST_TOKENS,
    automatic_batch_tokens,
    fitting_tokens,
)
from grasp_pipeline.sketch.build import build_sketcher
from grasp_pipeline.sketch.spread import spread


@given(st.integers(0, 2**37), st.floats(1, 2**24))
def test_a_batch_needs_at_most_half_of_what_is_free(free: int, per_token: float) -> None:
    tokens = fitting_tokens(free, per_token)
    assert 64 <= tokens <= MOST_TOKENS
    assert tokens & (tokens - 1) == 0
    assert tokens == 64 or tokens * per_token <= free / 2
    assert tokens == MOST_TOKENS or 2 * tokens * per_token > free / 2


def test_without_cuda_the_batch_is_that_of_a_cpu() -> None:
    sketcher = build_sketcher("output", tiny_model(), SketchConfig())
    assert automatic_batch_tokens(sketcher, 12, "cpu") == CPU_TOKENS


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["output", "layers", "full"])
def test_on_cuda_the_batch_fits(kind: str) -> None:
    sketcher = build_sketcher(kind, tiny_model(), SketchConfig(), "cuda")
    tokens = automatic_batch_tokens(sketcher, 12, "cuda")
    assert CPU_TOKENS <= tokens <= MOST_TOKENS
    rows = torch.zeros(tokens // 12, 13, dtype=torch.int64, device="cuda")
    sizes = torch.full((tokens // 12,), 12, device="cuda")
    sketches, _ = sketcher.sketch(rows, sizes)
    assert torch.isfinite(sketches).all()


@given(st.lists(st.integers(), max_size=30), st.integers(1, 4))
def test_results_come_in_the_order_of_the_jobs(jobs: list[int], workers: int) -> None:
    assert spread(jobs, workers, lambda job, _: job * 2) == [job * 2 for job in jobs]


def test_a_worker_does_one_job_at_a_time_and_all_work() -> None:
    busy, seen, lock = set[int](), set[int](), threading.Lock()
    both = threading.Barrier(2, timeout=30)

    def work(job: int, worker: int) -> None:
        with lock:
            assert worker not in busy
            busy.add(worker)
            seen.add(worker)
        if job < 2:
            both.wait()  # passes only where two are under way at once
        with lock:
            busy.remove(worker)

    spread(range(20), 2, work)
    assert seen == {0, 1}


@pytest.mark.parametrize("workers", [1, 2])
def test_after_an_error_nothing_is_begun_and_the_error_is_told(workers: int) -> None:
    done: list[int] = []

    def work(job: int, _: int) -> None:
        done.append(job)
        if job == 3:
            raise ValueError("job 3 failed")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="job 3 failed"):
        spread(range(100), workers, work)
    assert set(done) >= {0, 1, 2, 3}
    assert len(done) < 20


def test_one_worker_works_in_the_calling_thread() -> None:
    here: list[bool] = []
    work: Callable[[int, int], None] = lambda *_: here.append(  # noqa: E731
        threading.current_thread() is threading.main_thread()
    )
    spread([1, 2], 1, work)
    assert here == [True, True]
