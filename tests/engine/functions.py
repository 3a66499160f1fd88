"""Functions that workers run: of a module, as engines ask for."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grasp_pipeline.errors import TrainingError


def square(block: int) -> int:
    return block * block


def where(block: int) -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("OMP_NUM_THREADS")


def late_first(block: int) -> int:
    """The first block is a straggler."""
    time.sleep(1.0 if block == 0 else 0.0)
    return block


def refuse_three(block: int) -> int:
    if block == 3:
        raise TrainingError("the loss is not finite")
    return block


def allocate(gib: float) -> int:
    return len(bytearray(int(gib * 1024**3)))


@dataclass(frozen=True)
class Killed:
    """Kills its own worker at some block, the first `times` times; notes every block that it finishes."""

    folder: Path
    at: int
    times: int

    def __call__(self, block: int) -> int:
        if block == self.at and len(list(self.folder.glob("death-*"))) < self.times:
            (self.folder / f"death-{time.time_ns()}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block * block


@dataclass(frozen=True)
class Slow:
    """Makes its function slowly and notes every time that it does."""

    folder: Path

    def __call__(self) -> Callable[[int], tuple[int, int]]:
        (self.folder / f"made-{os.getpid()}-{time.time_ns()}").touch()
        made = time.time_ns()
        return lambda block: (made, block)


def device(block: int) -> str | None:
    """Which GPUs the worker was given."""
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True)
class Noted:
    """Takes its time, more of it on one node, and notes where every block was worked on."""

    folder: Path
    seconds: float
    slow_node: str
    slow_seconds: float

    def __call__(self, block: int) -> int:
        import ray

        node = ray.get_runtime_context().get_node_id()
        (self.folder / f"{node}-{block}-{time.time_ns()}").touch()
        time.sleep(self.slow_seconds if node == self.slow_node else self.seconds)
        return block * block
