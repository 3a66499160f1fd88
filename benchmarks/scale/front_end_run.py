"""Some assets materialized in a process of its own, so that its peak memory is theirs; prints JSON.

python -m benchmarks.scale.front_end_run '{"paths": [...], "tasks": [...], "store": ..., "workers": 2, "assets": [...]}'
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_SAMPLED = 0.1
"""Seconds between two looks at the memory."""


class PeakMemory:
    """Watches the resident memory of this process and all below it, together, while it is a context.

    A child's `ru_maxrss` would count what its parent held when it was forked.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLED):
            self.bytes = max(self.bytes, resident(os.getpid()))


def resident(pid: int) -> int:
    """Return the resident bytes of a process and all below it; of one that has ended none."""
    total = 0
    with suppress(OSError):
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                total += sum(map(resident, map(int, (task / "children").read_text().split())))
    return total


def materialize(
    paths: list[str], tasks: list[str], store: str, workers: int, assets: list[str]
) -> dict[str, Any]:
    """Materialize assets over every shard.

    Args:
        paths: of the corpus; tasks: of the held-out documents; store: folder.
        workers: of the engine.
        assets: their names.

    Returns:
        seconds: of the whole, in the process; steps: seconds by asset; peak: bytes that this process and its workers
        held at most, together.
    """
    import dagster as dg

    from assets.partitions import WHOLE_RANGE
    from grasp_pipeline.definitions import defs

    config = {"manifest": {"paths": paths}, "task_documents": {"paths": tasks}}
    job = defs.resolve_implicit_global_asset_job_def()
    begun = time.perf_counter()
    with PeakMemory() as peak:
        done = job.execute_in_process(
            run_config={
                "ops": {step: {"config": fields} for step, fields in config.items() if step in assets},
                "resources": {
                    "store": {"config": {"root": store}},
                    "compute": {"config": {"device": "cpu", "workers": workers}},
                },
                "loggers": {"console": {"config": {"log_level": "ERROR"}}},
            },
            asset_selection=[dg.AssetKey(name) for name in assets],
            tags=WHOLE_RANGE if "tokenized_shards" in assets else {},
        )
    seconds = time.perf_counter() - begun
    steps = {
        event.asset_key.to_user_string(): event.materialization.metadata["seconds"].value
        for event in done.all_events
        if event.is_step_materialization and event.asset_key and "seconds" in event.materialization.metadata
    }
    return {"seconds": seconds, "steps": steps, "peak": peak.bytes}


if __name__ == "__main__":
    print(json.dumps(materialize(**json.loads(sys.argv[1]))))
