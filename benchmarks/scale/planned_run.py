"""A plan of `curate`, or the run itself, on one core in a process of its own; prints JSON.

python -m benchmarks.scale.planned_run plan|run '{"ops": ..., "resources": ...}'
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any


def planned(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return seconds and peak bytes by stage that the plan tells for one worker."""
    from assets.planning.measure import plan_run
    from assets.run import run_small

    rows = plan_run(config, [1], {}, run_small, None)[0][1]
    return {
        "seconds": {row.stage: row.seconds for row in rows},
        "peak": {row.stage: row.memory for row in rows},
    }


def happened(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return processor seconds and peak bytes by stage of the run."""
    from assets.planning.small_run import measured_run
    from assets.run import run_small

    used = measured_run(config, run_small)
    return {"seconds": used.seconds, "peak": used.peak}


if __name__ == "__main__":
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # one core: the engine starts no workers
    print(json.dumps({"plan": planned, "run": happened}[sys.argv[1]](json.loads(sys.argv[2]))))
