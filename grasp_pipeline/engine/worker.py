"""What runs inside a worker process. Nothing here imports numpy or torch: threads are set before they load."""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

_THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
_KEPT = 4
"""Functions that a worker remembers: those of the maps that run at the same time."""
_PARENT_ASKED = 1.0
"""Seconds between two looks at whether the parent lives."""

_functions: dict[str, Callable[[Any], Any]] = {}


class Answer(Enum):
    """What a worker answers in place of a result."""

    UNKNOWN_FUNCTION = "the worker was not sent the function yet"


def environment(threads: int) -> dict[str, str]:
    """Return the environment variables by which numerical libraries take so many threads."""
    return {name: str(threads) for name in _THREADS} | {"TOKENIZERS_PARALLELISM": "false"}


def begin(parent: int, memory: int) -> None:
    """Set up a worker: it ends with its parent, and holds at most `memory` bytes of data (0: no limit)."""
    limit_memory(memory)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def limit_memory(memory: int) -> None:
    """Let this process hold at most so many bytes of data; 0: as many as it likes."""
    if memory and resource.getrlimit(resource.RLIMIT_DATA)[0] != memory:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))


def knows(name: str) -> bool:
    """Return whether this worker was sent a function before."""
    return name in _functions


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_ASKED)
    os._exit(1)


def call(name: str, function: Callable[[Any], Any] | None, block: Any) -> Any:
    """Return a function's value of a block; function: None where the worker may know it by its name.

    Returns:
        The value, or `Answer.UNKNOWN_FUNCTION`.
    """
    if function is not None and name not in _functions:
        while len(_functions) >= _KEPT:
            del _functions[next(iter(_functions))]
        _functions[name] = function
    if name not in _functions:
        return Answer.UNKNOWN_FUNCTION
    return _functions[name](block)
