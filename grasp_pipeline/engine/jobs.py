"""Several jobs, each cut into blocks, through one engine: the workers need not wait where one job ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from grasp_pipeline.engine.protocol import Engine

J = TypeVar("J")
K = TypeVar("K")
B = TypeVar("B")
R = TypeVar("R")
T = TypeVar("T")


def map_jobs(
    engine: Engine,
    function: Callable[[B], R],
    jobs: Iterable[J],
    blocks_of: Callable[[J], Iterable[tuple[K, B]]],
) -> Iterator[tuple[J, Iterator[tuple[K, R]]]]:
    """Yield every job with the results of its blocks, in order; those of one job are taken before the next job is.

    Args:
        engine: maps the blocks.
        function: of a block; see `Engine.map_blocks`.
        jobs: what to do.
        blocks_of: a job's blocks, each with what stays here and is yielded beside its result. Begun on the blocks of
            later jobs while results of earlier ones are taken.
    """
    listed = list(jobs)
    ahead: deque[_Place[K]] = deque()

    def blocks() -> Iterator[B]:
        for number, job in enumerate(listed):
            for (kept, block), last in _with_last(blocks_of(job)):
                ahead.append(_Place(number, last, kept))
                yield block

    results = ((ahead.popleft(), result) for result in engine.map_blocks(function, blocks()))
    waiting: deque[tuple[_Place[K], R]] = deque()

    def of(number: int) -> Iterator[tuple[K, R]]:
        while True:
            if not waiting and (found := next(results, None)) is not None:
                waiting.append(found)
            if not waiting or waiting[0][0].job > number:
                return
            place, result = waiting.popleft()
            if place.job == number:
                yield place.kept, result
                if place.last:
                    return

    for number, job in enumerate(listed):
        yield job, of(number)


class _Place(NamedTuple, Generic[K]):
    """A block's job by its number, whether it is the last of it, and what is yielded beside its result."""

    job: int
    last: bool
    kept: K


def _with_last(items: Iterable[T]) -> Iterator[tuple[T, bool]]:
    """Yield items, each with whether it is the last; one is held."""
    held: list[T] = []
    for item in items:
        if held:
            yield held.pop(), False
        held.append(item)
    for item in held:
        yield item, True
