"""Processor time and memory of this process and all below it, while it is watched."""

from __future__ import annotations

import os
import resource
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

_EVERY = 0.05
"""Seconds between two looks."""


class Usage:
    """As a context: looks at the processes until it is left. Without /proc it sees this process alone."""

    def __init__(self) -> None:
        self._looks: list[tuple[float, float, int]] = []
        self._below: dict[int, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Usage:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def between(self, begin: float, end: float) -> tuple[float, int]:
        """Return processor seconds and the most resident bytes between two times (`time.time`)."""
        times, processor, held = zip(*self._looks, strict=True)
        first, last = np.interp([begin, end], times, processor)
        during = [
            size for when, size in zip(times, held, strict=True) if begin - _EVERY <= when <= end + _EVERY
        ]
        return float(last - first), max(during, default=0)

    def held_at(self, when: float) -> int:
        """Return the bytes that were resident at a time."""
        return int(np.interp(when, [look[0] for look in self._looks], [look[2] for look in self._looks]))

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY):
            self._look()

    def _look(self) -> None:
        self._looks.append((time.time(), *self._now()))

    def _now(self) -> tuple[float, int]:
        held = resident(os.getpid(), self._below)
        if not held:
            held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return time.process_time() + sum(self._below.values()), held


def resident(pid: int, below: dict[int, float] | None = None) -> int:
    """Return the resident bytes of a process and all below it; of one that has ended none.

    below: processor seconds by process below, filled in; those of one that has ended stay.
    """
    total = 0
    with suppress(OSError):
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                for child in map(int, (task / "children").read_text().split()):
                    if below is not None:
                        told = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
                        below[child] = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
                    total += resident(child, below)
    return total
