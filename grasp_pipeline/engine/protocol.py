"""The `Engine` protocol, and the engine that a reader can check by eye: one block after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, Self, TypeVar

B = TypeVar("B")
R = TypeVar("R")


class Engine(Protocol):
    """Maps a function over blocks of work; a context manager that ends its workers on leaving."""

    @property
    def workers(self) -> int:
        """Blocks that are worked on at the same time."""
        ...

    def map_blocks(self, function: Callable[[B], R], blocks: Iterable[B]) -> Iterator[R]:
        """Yield the function's value of every block, in the order of the blocks.

        Blocks are taken from their iterator as workers become free, a bounded number ahead of what was yielded. The
        function is sent to a worker once, blocks and results travel every time: functions are of modules, or small
        frozen dataclasses with `__call__`; what is dear to make goes into a `BuiltOnce`, what is large into a file
        that the worker reads.

        Raises:
            EngineError: a worker died at the same block twice, or a block needs more memory than a worker has.
            Exception: what the function raised, with a note that names the block; blocks behind it are dropped.
        """
        ...

    def close(self) -> None:
        """End the workers."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class BuiltOnce(Generic[B, R]):
    """A function that a worker makes on its first block and keeps: a model read from a file, a tokenizer.

    make: returns the function; what is sent to the workers, so it holds paths and settings rather than weights.
    """

    def __init__(self, make: Callable[[], Callable[[B], R]]) -> None:
        self._make = make
        self._function: Callable[[B], R] | None = None

    def __call__(self, block: B) -> R:
        """Return the function's value of a block."""
        if self._function is None:
            self._function = self._make()
        return self._function(block)

    def __reduce__(self) -> tuple[type[BuiltOnce[B, R]], tuple[Callable[[], Callable[[B], R]]]]:
        return type(self), (self._make,)


class SerialEngine:
    """One block after the other in this process, with all its threads."""

    workers = 1

    def map_blocks(self, function: Callable[[B], R], blocks: Iterable[B]) -> Iterator[R]:
        """Yield the function's value of every block; see `Engine.map_blocks`."""
        for number, block in enumerate(blocks):
            try:
                result = function(block)
            except Exception as error:
                name_block(error, number)
                raise
            yield result

    def close(self) -> None:
        """Do nothing: there are no workers."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def name_block(error: BaseException, number: int) -> None:
    """Note on an error in which block, counted from 0, it was raised."""
    error.add_note(f"in block {number}")
