"""Turns at a store: what one process at a time may do, told by locks of files that end with their process.

A step that two runs execute at once would mix what they read: the later commit may come from the earlier inputs, and
one run would sweep away scratch files that the other still reads. So a step waits until the other run has left it. A
killed process leaves no lock behind; on a file system without locks nothing waits.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from grasp_pipeline.errors import StoreError, boundary

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two tries."""

_HOLDER_BYTES = 200


@contextmanager
def turns(folder: Path, names: Sequence[str], holder: str, waits: Callable[[str], None]) -> Iterator[bool]:
    """Hold the turns of some names until the block ends; waits for those that others hold.

    The block is given whether there was any to wait for.

    Names are taken in their order, so that no two processes wait for each other.

    Args:
        folder: of the lock files; made where it is missing.
        names: of what one at a time may do.
        holder: who holds them, told to who waits.
        waits: told once, who holds the first turn that is waited for.

    Raises:
        StoreError: a lock file cannot be made.
    """
    with ExitStack() as held:
        for name in sorted(names):
            waits = _take(held, folder / name, holder, waits)
        yield waits is _silent


def _take(held: ExitStack, path: Path, holder: str, waits: Callable[[str], None]) -> Callable[[str], None]:
    """Lock a file; returns what is told of the next wait: nothing where one was told of."""
    remedy = "make the folder writable, or set GRASP_STORE to another"
    with boundary(StoreError, f"the lock {path} cannot be made", remedy):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = held.enter_context(path.open("a+b", buffering=0))
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause == _FIRST_PAUSE:
                file.seek(0)
                waits(file.read(_HOLDER_BYTES).decode(errors="replace"))
                waits = _silent
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        except OSError:
            return waits  # a file system that has no locks
        else:
            held.callback(
                fcntl.flock, file, fcntl.LOCK_UN
            )  # a child that inherited the file would keep the lock
            file.truncate(0)
            os.write(file.fileno(), holder.encode()[:_HOLDER_BYTES])
            return waits


def _silent(_: str) -> None:
    pass
