"""The plan of a run: per stage seconds, memory, bytes on disk and retrainings, on any number of workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.planning.costs import COSTS, WORK, Amounts, Line, fit

ALONE = 30.0
"""Seconds of one core below which no workers are started (`workers: 0`)."""


@dataclass(frozen=True)
class Pilot:
    """What a small run measured.

    Attributes:
        amounts: what it did.
        seconds: of one core, by stage.
        disk: bytes that it left, by stage.
        peak: bytes of memory that it held at most while a stage ran; growth: of them those that it did not hold before.
    """

    amounts: Amounts
    seconds: Mapping[str, float]
    disk: Mapping[str, float]
    peak: Mapping[str, float]
    growth: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One stage of a plan: seconds on so many workers, peak memory of all processes and disk in bytes."""

    stage: str
    seconds: float
    memory: float
    disk: float
    retrainings: int
    scales_with: str
    engine: bool


@dataclass(frozen=True)
class Model:
    """Costs fitted to two pilots: lines by stage, and the memory that the larger one held.

    loading: seconds that a stage takes once in a new process, to load its libraries and compile; worker: bytes that a
    worker holds before its first block.
    """

    loading: Mapping[str, float]
    seconds: Mapping[str, Line]
    disk: Mapping[str, Line]
    largest: Pilot
    worker: float

    @classmethod
    def of(cls, cold: Pilot, small: Pilot, large: Pilot, worker: float) -> Model:
        """Fit the lines; `cold` is the first run of a process, as small as `small`.

        Raises:
            KeyError: a stage that ran has no row in `COSTS`.
        """
        seconds, disk = {}, {}
        for stage in large.seconds:
            cost = COSTS[stage]
            for lines, name, measured in (
                (seconds, cost.seconds, (small.seconds, large.seconds)),
                (disk, cost.disk, (small.disk, large.disk)),
            ):
                points = [
                    (WORK[name](pilot.amounts), values.get(stage, 0.0))
                    for pilot, values in zip((small, large), measured, strict=True)
                ]
                lines[stage] = fit(*points)
        loading = {stage: max(0.0, cold.seconds[stage] - small.seconds[stage]) for stage in large.seconds}
        return cls(loading, seconds, disk, large, worker)

    def plan(self, amounts: Amounts, workers: int) -> list[Row]:
        """Return the rows of a run, in the order in which the stages ran."""
        return [self._row(stage, amounts, workers) for stage in self.seconds]

    def _row(self, stage: str, amounts: Amounts, workers: int) -> Row:
        cost, measured = COSTS[stage], self.largest
        core = self.seconds[stage].at(WORK[cost.seconds](amounts))
        shared = workers if cost.engine and core >= ALONE else 1
        more_chunks = max(0.0, amounts.chunks - measured.amounts.chunks)
        more_documents = max(0.0, amounts.documents - measured.amounts.documents)
        held = measured.peak[stage] + cost.per_chunk * more_chunks + cost.per_document * more_documents
        return Row(
            stage,
            self.loading[stage] + core / shared,
            held + (shared * (self.worker + measured.growth[stage]) if shared > 1 else 0.0),
            self.disk[stage].at(WORK[cost.disk](amounts)),
            cost.runs(amounts),
            cost.seconds,
            cost.engine,
        )


def totals(rows: Sequence[Row]) -> dict[str, float]:
    """Return seconds and disk of all stages together, the largest memory, and all retrainings."""
    return {
        "seconds": sum(row.seconds for row in rows),
        "memory": max(row.memory for row in rows),
        "disk": sum(row.disk for row in rows),
        "retrainings": sum(row.retrainings for row in rows),
    }


def refuse_small_disk(rows: Sequence[Row], free: float, place: str) -> None:
    """Refuse a run that the disk has no room for.

    Raises:
        ConfigError: names what is needed and what is free.
    """
    needed = totals(rows)["disk"]
    if needed > free:
        raise ConfigError(
            f"the run needs about {needed / 1e9:.1f} GB on disk and {place} has {free / 1e9:.1f} GB free; make room, "
            "or set GRASP_STORE to another disk"
        )


def plan_json(rows: Sequence[Row], workers: int) -> dict[str, Any]:
    """Return a plan for machines to read."""
    return {"workers": workers, "total": totals(rows), "stages": [asdict(row) for row in rows]}
