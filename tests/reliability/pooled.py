"""A run with one step in the pool of the device: `python pooled.py HOME FILE`; adds when the step began and ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import dagster as dg

from assets.stages import GPU_POOL


@dg.asset(pool=GPU_POOL)
def sketch() -> None:
    begun = time.time()
    time.sleep(3)
    with Path(sys.argv[2]).open("a") as file:
        file.write(f"{begun} {time.time()}\n")


if __name__ == "__main__":
    defs = dg.Definitions(
        [sketch], jobs=[dg.define_asset_job("job", [sketch])], executor=dg.in_process_executor
    )
    with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
        assert defs.resolve_job_def("job").execute_in_process(instance=instance).success
