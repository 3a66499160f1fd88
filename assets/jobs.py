"""Jobs, the recuration schedule and the sensor on a landing folder; both are off until switched on in the UI."""

import os
from pathlib import Path

import dagster as dg

from assets.partitions import WHOLE_RANGE

FROZEN = ("tokenizer", "task_documents", "tasks", "proxy_checkpoints", "sketchers", "task_sketches")
PROTOCOL = ("candidates", "subsets", "subset_utilities", "surrogates", "selected_config")

curate = dg.define_asset_job(
    "curate",
    dg.AssetSelection.all(),
    description="Everything: from raw documents to a certified pruned corpus, its evidence, export and report.",
    tags=WHOLE_RANGE,
)

recurate = dg.define_asset_job(
    "recurate",
    dg.AssetSelection.all() - dg.AssetSelection.assets(*FROZEN, *PROTOCOL, "fidelity", "evaluation_losses"),
    description="New or changed documents only: their shards are tokenized and sketched with the stored tokenizer and "
    "proxy, and the corpus is selected and certified again under the stored choice.",
    tags=WHOLE_RANGE,
)

fidelity = dg.define_asset_job(
    "fidelity",
    dg.AssetSelection.assets("fidelity", "evaluation_losses"),
    description="The sealed evaluation alone: retrain the evaluation subsets and compare every method with them.",
)

weekly_recuration = dg.ScheduleDefinition(
    name="weekly_recuration",
    job=recurate,
    cron_schedule="0 3 * * 1",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Mondays at 03:00: look for new or changed inputs and curate them.",
)


@dg.sensor(
    name="landing_folder",
    job=recurate,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Watches the folder GRASP_LANDING (default data/landing) and launches recurate when its files change.",
)
def landing_folder(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Launch one run per state of the landing folder."""
    folder = Path(os.environ.get("GRASP_LANDING", "data/landing"))
    if not folder.is_dir():
        return dg.SkipReason(f"{folder} is not a folder; create it or set GRASP_LANDING")
    from grasp_pipeline.seeds import digest

    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not files:
        return dg.SkipReason(f"{folder} is empty")
    state = digest(
        [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    )
    if state == context.cursor:
        return dg.SkipReason(f"{folder} has not changed")
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=state, tags=WHOLE_RANGE)], cursor=state)


JOBS = [curate, recurate, fidelity]
SCHEDULES = [weekly_recuration]
SENSORS = [landing_folder]
