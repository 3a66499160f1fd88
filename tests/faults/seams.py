"""Where a child process fails: seams of the product, patched by name. Nothing in the product knows of them."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

CHOSEN = "GRASP_FAULT"
"""Environment variable: name of the fault at which a child fails; unset or empty: none."""

Action = Callable[[], Any]


def kill() -> None:
    """End this process as a power cut would: nothing is flushed, nothing is tidied."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def disk_full() -> None:
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def out_of_memory() -> None:
    """Fail as torch does where memory runs out."""
    raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")


def lost_race() -> None:
    """Fail as delta-rs does where another process was faster."""
    from deltalake.exceptions import CommitFailedError

    raise CommitFailedError("a concurrent transaction changed the same partition")


@dataclass(frozen=True)
class Seam:
    """A function of the product, before or after whose nth call something happens.

    where: module and name, such as `resources.delta.tables:DeltaTables._commit`; every: from the nth call on.
    """

    where: str
    action: Action = kill
    nth: int = 1
    after: bool = False
    every: bool = False

    def arm(self) -> None:
        """Patch it in this process."""
        module, _, name = self.where.partition(":")
        owner: Any = import_module(module)
        *parents, last = name.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        original, calls = getattr(owner, last), [0]

        @wraps(original)
        def patched(*arguments: Any, **named: Any) -> Any:
            calls[0] += 1
            now = calls[0] == self.nth or (self.every and calls[0] > self.nth)
            if now and not self.after:
                self.action()
            result = original(*arguments, **named)
            if now and self.after:
                self.action()
            return result

        setattr(owner, last, patched)


@dataclass(frozen=True)
class NewDataFile:
    """Killed as soon as a data file of a table appears: before, in most runs, the commit that names it."""

    table: str

    def arm(self) -> None:
        """Watch the table's folder from a thread."""
        folder = Path(os.environ["GRASP_STORE"], self.table)
        before = set(folder.rglob("*.parquet"))

        def watch() -> None:
            while True:
                if {path for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts} - before:
                    kill()
                time.sleep(0.0002)

        threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class HalfCheckpoint:
    """Killed while weights are saved: half of the file is there."""

    def arm(self) -> None:
        """Patch the writing of safetensors."""
        from transformers import PreTrainedModel

        saved = PreTrainedModel.save_pretrained

        def half(model: Any, folder: str, **named: Any) -> None:
            saved(model, folder, **named)
            file = Path(folder, "model.safetensors")
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            kill()

        PreTrainedModel.save_pretrained = half  # type: ignore[method-assign]


@dataclass(frozen=True)
class NotANumber:
    """The first batch of sketches comes out as NaN."""

    def arm(self) -> None:
        """Patch the collection of results."""
        from grasp_pipeline.sketch.run import SketchEngine

        compute = SketchEngine._compute

        def spoiled(engine: Any, batch: Any) -> bool:
            done = compute(engine, batch)
            engine._sketches[batch.start : batch.stop] = float("nan")
            return done

        SketchEngine._compute = spoiled  # type: ignore[method-assign]


@dataclass(frozen=True)
class Setting:
    """A constant of a module of the product has another value."""

    module: str
    name: str
    value: float

    def arm(self) -> None:
        """Set it in this process."""
        setattr(import_module(self.module), self.name, self.value)


@dataclass(frozen=True)
class Together:
    """Several at once."""

    parts: tuple[Any, ...]

    def arm(self) -> None:
        """Arm them all."""
        for part in self.parts:
            part.arm()
