"""What `python -m assets.run plan` prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.planning.measure import plan_run

if TYPE_CHECKING:
    from rich.console import Console

    from assets.planning.small_run import Launch
    from grasp_pipeline.planning.plan import Row
    from resources.store import DeltaStore


def tell_plan(plans: list[tuple[int, list[Row]]], console: Console) -> None:
    """Print the plans side by side: the first is this machine's."""
    from rich.table import Table

    from grasp_pipeline.planning.plan import totals
    from grasp_pipeline.progress import duration

    table = Table("stage", "grows with", box=None, pad_edge=False)
    for workers, _ in plans:
        table.add_column(f"time, {workers} worker{'s' * (workers != 1)}", justify="right")
        table.add_column("peak GiB", justify="right")
    table.add_column("disk MB", justify="right")
    table.add_column("retrainings", justify="right")
    for rows in zip(*(rows for _, rows in plans), strict=True):
        cells = [cell for row in rows for cell in (duration(row.seconds), f"{row.memory / 2**30:.2f}")]
        row = rows[0]
        table.add_row(
            row.stage, row.scales_with, *cells, f"{row.disk / 1e6:,.1f}", str(row.retrainings or "")
        )
    sums = [totals(rows) for _, rows in plans]
    cells = [cell for each in sums for cell in (duration(each["seconds"]), f"{each['memory'] / 2**30:.2f}")]
    last = sums[0]
    table.add_row(
        "in all", "", *cells, f"{last['disk'] / 1e6:,.1f}", f"{last['retrainings']:.0f}", style="bold"
    )
    console.print(table)


def free_bytes(place: str) -> float | None:
    """Return the bytes free where a store lies, None for an object store."""
    from grasp_pipeline.locations import is_local

    if not is_local(place):
        return None
    above = Path(place).absolute()
    while not above.exists():
        above = above.parent
    return float(shutil.disk_usage(above).free)


def main(
    config: Mapping[str, Any],
    store: DeltaStore,
    launch: Launch,
    workers: int,
    as_json: bool,
    console: Console,
) -> int:
    """Print the plan of a run here and on so many workers (0: here alone); returns the exit status.

    Raises:
        ConfigError: the disk is too small, or as `plan_run`.
    """
    from grasp_pipeline.engine.local import automatic_workers
    from grasp_pipeline.planning.plan import plan_json, refuse_small_disk

    given = ((config.get("resources") or {}).get("compute") or {}).get("config") or {}
    here = given.get("workers") or automatic_workers(given.get("threads_per_worker", 1))
    plans = plan_run(
        config, list(dict.fromkeys([here, workers or here])), store.storage_options, launch, console
    )
    if as_json:
        print(json.dumps([plan_json(rows, number) for number, rows in plans], indent=2))
    else:
        tell_plan(plans, console)
    free = free_bytes(store.place)
    if free is not None:
        refuse_small_disk(plans[0][1], free, store.place)
    return 0
