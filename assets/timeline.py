"""Runs of the terminal, recorded as of the code location that the web interface loads: its timeline shows no others."""

from __future__ import annotations

from functools import partial

import dagster as dg
from dagster._core.remote_origin import (
    ManagedGrpcPythonEnvCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

MODULE, LOCATION = "grasp_pipeline.definitions", "grasp_pipeline"
"""As in workspace.yaml."""

REPOSITORY = "__repository__"
"""Dagster's name for the definitions of a module."""


def show_in_timeline(instance: dg.DagsterInstance, job: str) -> dg.DagsterInstance:
    """Return the instance, whose next runs are told to be of a job of the code location.

    `execute_in_process` takes no origin, and without one a run is missing in the timeline and in the job's own history.
    """
    location = ManagedGrpcPythonEnvCodeLocationOrigin(LoadableTargetOrigin(module_name=MODULE), LOCATION)
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, REPOSITORY), job)
    create = partial(instance.create_run_for_job, remote_job_origin=origin)
    instance.create_run_for_job = create  # pyright: ignore[reportAttributeAccessIssue]
    return instance
