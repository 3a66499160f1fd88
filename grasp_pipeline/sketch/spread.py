"""Work spread over devices: each takes the next job when it is done with its last one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

J = TypeVar("J")
R = TypeVar("R")


def spread(jobs: Sequence[J], workers: int, work: Callable[[J, int], R]) -> list[R]:
    """Return work(job, worker) of every job, in the order of the jobs.

    One worker does them in the calling thread; several have a thread each, so a worker's number is never used twice
    at once. After an error no job is begun: those under way are finished, and the error of the first job that failed is
    raised.
    """
    results: dict[int, R] = {}
    errors: dict[int, BaseException] = {}
    if workers == 1:
        return [work(job, 0) for job in jobs]
    waiting, lock = iter(enumerate(jobs)), threading.Lock()

    def run(worker: int) -> None:
        for number, job in _taken(waiting, lock):
            if errors:
                return
            try:
                results[number] = work(job, worker)
            except BaseException as error:
                errors[number] = error

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, range(workers)))
    if errors:
        raise errors[min(errors)]
    return [results[number] for number in range(len(jobs))]


def _taken(waiting: Iterator[tuple[int, J]], lock: threading.Lock) -> Iterator[tuple[int, J]]:
    """Yield what is left of an iterator that several threads take from."""
    while True:
        with lock:
            taken = next(waiting, None)
        if taken is None:
            return
        yield taken
