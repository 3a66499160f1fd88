"""What follows from how a run ended.

The failure hook: a run that failed, or whose process died under the daemon, is told to a command of yours, once. A run
that found nothing to do does not stay a success.
"""

import json
import os
import re
import shlex
import subprocess
from typing import Any

import dagster as dg

from assets.launches import STORE_TAG, end_as_skip
from grasp_pipeline.errors import ConfigError, GraspError

COMMAND = "GRASP_ON_FAILURE"
"""Environment variable with the command; without it the hook is off."""

PATIENCE = 30
"""Seconds that the command may take."""


def first_cause(failure: Any) -> str:
    """Return the sentence meant for the user, else the innermost message of a step's failure."""
    error = failure.step_failure_data.error
    known = {cls.__name__ for cls in GraspError.__subclasses__()}

    def ours() -> bool:
        return (error.cls_name or "").rpartition(".")[2] in known

    while error.cause is not None and not ours():
        error = error.cause
    message = error.message.strip()
    return re.sub(rf"^[\w.]*{error.cls_name}: ", "", message) if ours() else message


def failure_report(run: dg.DagsterRun, message: str, events: list[dg.DagsterEvent]) -> dict[str, str | None]:
    """Return what the command reads from its standard input, as JSON: run, job, store, step and the cause."""
    step = events[0] if events else None
    return {
        "run_id": run.run_id,
        "job": run.job_name,
        "store": run.tags.get(STORE_TAG),
        "step": None if step is None else step.step_key,
        "cause": message if step is None else first_cause(step),
    }


@dg.run_failure_sensor(
    name="failure_hook",
    default_status=dg.DefaultSensorStatus.RUNNING
    if os.environ.get(COMMAND)
    else dg.DefaultSensorStatus.STOPPED,
    description=f"Gives every failed run to the command in the environment variable {COMMAND}, which reads run, job, "
    "store, step and cause as JSON from its standard input. On where the variable is set when the code location loads.",
)
def failure_hook(context: dg.RunFailureSensorContext) -> None:
    """Run the command; it is split as a shell would, and no shell runs it.

    Raises:
        ConfigError: there is no command, or it cannot be run or fails; the tick then shows it.
    """
    command = shlex.split(os.environ.get(COMMAND, ""))
    if not command:
        raise ConfigError(
            f"{COMMAND} is not set; set it to a command that reads JSON, or switch the sensor off"
        )
    told = failure_report(
        context.dagster_run, context.failure_event.message or "", list(context.get_step_failure_events())
    )
    try:
        done = subprocess.run(
            command, input=json.dumps(told), text=True, capture_output=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"the command of {COMMAND} cannot be run ({error}); correct it") from error
    if done.returncode != 0:
        raise ConfigError(
            f"the command of {COMMAND} ended with status {done.returncode}: {done.stderr[-500:]}"
        )
    context.log.info(f"told of run {told['run_id']}")


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="nothing_to_do",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=10,
    description="Lists a run that found nothing to do as canceled, not as a success: its tag grasp/result and its log "
    "say so. The terminal does the same to the runs that it launches.",
)
def nothing_to_do(context: dg.RunStatusSensorContext) -> dg.SkipReason | None:
    """Look at every run that succeeded, once."""
    run = context.instance.get_run_by_id(context.dagster_run.run_id)
    if run is None or not end_as_skip(context.instance, run):
        return dg.SkipReason(f"run {context.dagster_run.run_id} did what it was launched for")
    return None
