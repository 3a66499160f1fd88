"""Everything that exists: assets, checks, jobs, schedule, sensor and resources, in one explicit Definitions."""

from __future__ import annotations

import os

import dagster as dg

from assets import checks, jobs, landing
from assets.graph import load_assets
from grasp_pipeline.progress import quiet_libraries
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore

quiet_libraries()

store = DeltaStore.configure_at_launch(root=os.environ.get("GRASP_STORE", "store"))
"""Left open until launch, so that `resources.store.config` of a run reaches `models` too."""

defs = dg.Definitions(
    assets=load_assets(),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=jobs.JOBS,
    schedules=jobs.SCHEDULES,
    sensors=[landing.landing_folder],
    resources={"store": store, "compute": Compute(), "models": Models(store=store)},
    executor=dg.in_process_executor,
)
