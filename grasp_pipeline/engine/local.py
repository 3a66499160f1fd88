"""Blocks mapped by processes of this machine.

Built on loky, the process pool behind joblib. `concurrent.futures` alone sets no environment for its workers, so their
threads could only be limited after numpy and torch had counted the cores; it runs the main module again in every
worker, does not say how a worker died, and cannot end workers that are in the middle of a block. joblib itself adds
batching and a disk cache on top of loky, and keeps results of a call together.
"""

from __future__ import annotations

import os
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from grasp_pipeline.engine.protocol import name_block
from grasp_pipeline.engine.worker import Answer, begin, call, environment
from grasp_pipeline.errors import EngineError, reason_in

if TYPE_CHECKING:
    from loky import ProcessPoolExecutor

B = TypeVar("B")
R = TypeVar("R")

IDLE_SECONDS = 60
"""A worker without work for so long ends; the next block starts another."""
GIB = 1024**3
_EXIT_CODES = re.compile(r"exit codes of the workers are \{(.*)\}")


def automatic_workers(threads: int, memory: int = 0) -> int:
    """Return how many workers of so many threads, and bytes of memory, this machine has room for; one at least.

    Cores are those that the process may use, by affinity and the container's quota.
    """
    from loky import cpu_count

    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // memory if memory else cpu_count()
    return max(1, min(cpu_count() // threads, room))


@dataclass
class _Flight(Generic[B]):
    """A block that was handed to a worker."""

    number: int
    block: B
    future: Future[Any]


class LocalEngine:
    """Worker processes that each compute with few threads, so that none waits for another's.

    Workers start with the first block, end with `close`, with this process, or idle for a minute. Where one dies
    (killed, out of memory) the blocks that were under way are done again in a fresh pool, one at a time, so that a
    second death names the block. Several maps may run at a time and share the workers.
    """

    def __init__(self, workers: int, threads: int = 1, memory: int = 0) -> None:
        """Take the settings; no process starts yet.

        workers: processes; threads: of each; memory: most bytes of data that a worker may hold, 0 for no limit.
        """
        self._workers, self._threads, self._memory = workers, threads, memory
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def workers(self) -> int:
        """Processes."""
        return self._workers

    def map_blocks(self, function: Callable[[B], R], blocks: Iterable[B]) -> Iterator[R]:
        """Yield the function's value of every block; see `Engine.map_blocks`. Two blocks per worker are under way."""
        name = uuid.uuid4().hex
        source = enumerate(blocks)
        window: deque[_Flight[B]] = deque()
        sent = 0
        try:
            while True:
                for number, block in islice(source, 2 * self._workers - len(window)):
                    known = function if sent < self._workers else None
                    window.append(_Flight(number, block, self._submit(name, known, block)))
                    sent += 1
                if not window:
                    return
                result = self._result(name, function, window)
                window.popleft()
                yield result
        finally:
            for flight in window:
                flight.future.cancel()

    def _submit(self, name: str, function: Callable[[B], R] | None, block: B) -> Future[Any]:
        """Hand a block to the pool, to a new one where a worker of the last has died."""
        from loky import ProcessPoolExecutor
        from loky.process_executor import ShutdownExecutorError

        while True:
            with self._lock:
                if self._pool is None:
                    self._pool = ProcessPoolExecutor(
                        self._workers,
                        timeout=IDLE_SECONDS,
                        initializer=begin,
                        initargs=(os.getpid(), self._memory),
                        env=environment(self._threads),
                    )
                pool = self._pool
            try:
                return pool.submit(call, name, function, block)
            except (BrokenProcessPool, ShutdownExecutorError):
                self._end(pool)

    def _result(self, name: str, function: Callable[[B], R], window: deque[_Flight[B]]) -> R:
        """Wait for the first block of the window."""
        first = window[0]
        while True:
            if _lost(first.future) is not None:
                self._again(name, function, window)
            try:
                result = first.future.result()
            except MemoryError as error:
                raise EngineError(
                    f"block {first.number} needs more memory than a worker has"
                    f"{f' ({self._memory / GIB:.3g} GiB)' if self._memory else ''}; raise memory_per_worker_gib, or "
                    "take fewer workers (resources.compute.config)"
                ) from error
            except Exception as error:
                name_block(error, first.number)
                raise
            else:
                if result is not Answer.UNKNOWN_FUNCTION:
                    return result
                first.future = self._submit(name, function, first.block)

    def _again(self, name: str, function: Callable[[B], R], window: deque[_Flight[B]]) -> None:
        """Do again, one at a time, what was under way when a worker died."""
        self.close()
        for flight in window:
            if flight.future.done() and not _lost(flight.future):
                continue
            flight.future = self._submit(name, function, flight.block)
            if (death := _lost(flight.future)) is not None:
                raise EngineError(
                    f"a worker died twice at block {flight.number} ({_reason(death)}); where memory ran out, take "
                    "fewer workers, or set memory_per_worker_gib, so that the error says what was too large "
                    "(resources.compute.config), then run the step again"
                ) from death

    def _end(self, pool: ProcessPoolExecutor) -> None:
        """End a pool's workers, whatever they do."""
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=True, kill_workers=True)

    def close(self) -> None:
        """End the workers; blocks under way are dropped."""
        if (pool := self._pool) is not None:
            self._end(pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _reason(death: BaseException) -> str:
    """Return how the workers ended, SIGKILL(-9), where loky says so at the end of its long message."""
    codes = _EXIT_CODES.search(str(death))
    return codes[1] if codes else reason_in(death)


def _lost(future: Future[Any]) -> BaseException | None:
    """Wait for a block and return why its worker died, None where it gave a result or an error of its own."""
    from loky.process_executor import ShutdownExecutorError

    error = future.exception()
    return error if isinstance(error, BrokenProcessPool | ShutdownExecutorError) else None
