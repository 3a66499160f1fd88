"""A toy curation step by step, with a copy of everything before each step, and children that work on such copies."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import child
import pytest
from points import Fault
from workplace import Workplace

from assets.graph import APART, recurated
from assets.stages import STAGES

CHAIN = [list(stage.writes) for stage in STAGES.values() if stage.group not in APART]
"""The steps of `curate` in their order: the assets that each writes."""

AGAIN = [assets for assets in CHAIN if set(assets) <= recurated()]
"""Those of `recurate`."""


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit status (below zero: the signal) and what it said, None where it was killed."""

    status: int
    said: dict[str, Any] | None


class Nursery:
    """Children forked from a process that has loaded everything and done nothing: half a second instead of seven."""

    def __init__(self, told: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        assert isinstance(context, ForkServerContext)
        context.set_forkserver_preload(["loaded_child"])
        self._context, self._told = context, told

    def start(self, target: Any, *arguments: Any) -> BaseProcess:
        """Start a function of `child` in a child."""
        process = self._context.Process(target=target, args=arguments)
        process.start()
        return process

    def end(self, process: BaseProcess, seconds: float = 540) -> int:
        """Wait for a child; returns its exit status."""
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            pytest.fail(f"the child was still at work after {seconds:g} s")
        return process.exitcode

    def run(self, target: Any, *arguments: Any) -> int:
        """Run a function of `child` in a child; returns its exit status."""
        return self.end(self.start(target, *arguments))

    def work(self, folder: Path, assets: list[str], fault: str = "") -> Outcome:
        """Run some assets; `fault`: its name in `points.FAULTS`."""
        self._told.unlink(missing_ok=True)
        status = self.run(child.work, folder, assets, fault, self._told)
        return Outcome(status, json.loads(self._told.read_text()) if self._told.exists() else None)


@dataclass(frozen=True)
class Undisturbed:
    """A curation, and a second one of changed files, that nothing disturbed.

    snapshots: copies of the workplace, by series and number of the step before which they were taken, the last one
    after all.
    """

    snapshots: Path

    def before(self, fault: Fault) -> Path:
        """Return the copy from before a fault's step."""
        return self._of(fault, 0)

    def after(self, fault: Fault) -> Path:
        """Return the copy from after it."""
        return self._of(fault, 1)

    def _of(self, fault: Fault, further: int) -> Path:
        chain, series = (CHAIN, "first") if fault.first else (AGAIN, "again")
        return self.snapshots / series / str(chain.index(assets_of(fault)) + further)


def laid(copy: Path, folder: Path) -> Workplace:
    """Copy a workplace to a folder; returns the place."""
    shutil.copytree(copy, folder / "workplace")
    return child.place_of(folder / "workplace")


def assets_of(fault: Fault) -> list[str]:
    """Return the assets of a fault's step."""
    return next(assets for assets in CHAIN if fault.step in assets)
