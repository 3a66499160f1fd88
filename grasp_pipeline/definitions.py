"""Everything that exists: assets, checks, jobs, schedule, sensor and resources, in one explicit Definitions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import dagster as dg

from assets import checks, failures, jobs, landing
from assets.graph import load_assets
from assets.launchpad import prefill_materialize, prefilled
from grasp_pipeline.progress import quiet_libraries
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore

quiet_libraries()

store = DeltaStore.configure_at_launch(root=os.environ.get("GRASP_STORE", "store"))
"""Left open until launch, so that `resources.store.config` of a run reaches `models` too."""


def define(
    chosen: Sequence[Any], schedules: Sequence[Any] = (), sensors: Sequence[Any] = ()
) -> dg.Definitions:
    """Return the definitions with some jobs, schedules and sensors."""
    return dg.Definitions(
        assets=_assets,
        asset_checks=_checks,
        jobs=chosen,
        schedules=schedules,
        sensors=sensors,
        resources={"store": store, "compute": Compute(), "models": Models(store=store)},
        executor=dg.in_process_executor,
    )


def _prefilled_jobs() -> list[dg.JobDefinition]:
    """Return the jobs with the configuration in use; with what a job may be configured is known once it is resolved."""
    plain = define(jobs.JOBS)
    return [prefilled(plain.resolve_job_def(job.name)) for job in jobs.JOBS]


_assets = load_assets()
_checks = dg.load_asset_checks_from_modules([checks])
_sensors = [landing.landing_folder, failures.failure_hook, failures.nothing_to_do]
defs = prefill_materialize(define(_prefilled_jobs(), jobs.SCHEDULES, _sensors))
