"""Everything that exists: assets, checks, jobs, schedule, sensor and resources, in one explicit Definitions."""

from __future__ import annotations

import os

import dagster as dg

from assets import (
    checks,
    conditional,
    corpus,
    evidence,
    filtering,
    jobs,
    landing,
    protocol,
    proxy,
    publishing,
    selection,
    sketches,
    tokens,
    vision,
)
from grasp_pipeline.progress import quiet_libraries
from resources.compute import Compute
from resources.models import Models
from resources.store import DeltaStore

quiet_libraries()

store = DeltaStore.configure_at_launch(root=os.environ.get("GRASP_STORE", "store"))
"""Left open until launch, so that `resources.store.config` of a run reaches `models` too."""

defs = dg.Definitions(
    assets=dg.load_assets_from_modules(
        [
            corpus,
            tokens,
            proxy,
            sketches,
            protocol,
            conditional,
            selection,
            publishing,
            filtering,
            evidence,
            vision,
        ]
    ),
    asset_checks=dg.load_asset_checks_from_modules([checks]),
    jobs=jobs.JOBS,
    schedules=jobs.SCHEDULES,
    sensors=[landing.landing_folder],
    resources={"store": store, "compute": Compute(), "models": Models(store=store)},
    executor=dg.in_process_executor,
)
