"""The sensor on the corpus's own files: a change that has settled launches recurate once."""

import os

import dagster as dg
from dagster._core.storage.tags import SENSOR_NAME_TAG

from assets.jobs import recurate, recurate_config, recurate_tags
from grasp_pipeline.errors import ConfigError, InputError

STATE_TAG = "grasp/files"
"""Tag of the sensor's runs: digest of the names, sizes and times of the files that the run was launched for."""

TRIES = 3
"""Runs that are launched for one state of the files while they fail."""


@dg.sensor(
    name="landing_folder",
    job=recurate,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Watches the local files that `manifest.paths` names in the configuration GRASP_CONFIG, or those of "
    "them in the folder GRASP_LANDING, and launches recurate when they have changed and rest. A failed run is tried "
    f"again, {TRIES} times in all. Object stores and Hugging Face datasets are not watched.",
)
def landing_folder(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Launch one run per change; what was launched is read from the runs, the cursor holds the state last seen.

    The key names the run before, so that a state which comes back is a change of its own, and a tick that is repeated
    launches nothing twice.
    """
    config = recurate_config()
    try:
        state, unseen = _state(_paths(config))
    except InputError as error:
        return dg.SensorResult(skip_reason=str(error))
    if state != context.cursor:
        return dg.SensorResult(skip_reason="the files have changed; waiting until they rest", cursor=state)
    own = dg.RunsFilter(job_name=recurate.name, tags={SENSOR_NAME_TAG: "landing_folder"})
    runs = context.instance.get_runs(own, limit=TRIES)
    if runs and not runs[0].is_finished:
        return dg.SensorResult(skip_reason=f"run {runs[0].run_id} is still at it")
    if runs and runs[0].tags.get(STATE_TAG) == state:
        failed = [run.tags.get(STATE_TAG) == state and run.is_failure for run in runs]
        if runs[0].status is dg.DagsterRunStatus.CANCELED:
            return dg.SensorResult(
                skip_reason=f"run {runs[0].run_id} was canceled; launch recurate by hand{unseen}"
            )
        if not failed[0]:
            return dg.SensorResult(skip_reason=f"the files have not changed{unseen}")
        if len(failed) == TRIES and all(failed):
            return dg.SensorResult(
                skip_reason=f"{TRIES} runs failed on these files, the last is {runs[0].run_id}; mend what it names and "
                "launch recurate by hand"
            )
    request = dg.RunRequest(
        run_key=f"{state}-after-{runs[0].run_id if runs else 'none'}",
        run_config=config,
        tags={**recurate_tags(), STATE_TAG: state},
    )
    return dg.SensorResult(run_requests=[request], cursor=state)


def _paths(config: dict) -> list[str]:
    """Return `manifest.paths` of a run configuration, or its default."""
    from grasp_pipeline.config import InputConfig

    section = (config["ops"].get("manifest") or {}).get("config") or {}
    return section.get("paths") or InputConfig().paths


def _state(paths: list[str]) -> tuple[str, str]:
    """Return a digest of the local files' names, sizes and times, and a clause on paths that are not watched.

    Raises:
        InputError: there is no local path, or one of them or GRASP_LANDING finds nothing.
        ConfigError: GRASP_LANDING holds a file that `manifest.paths` does not find: no run would read it.
    """
    from grasp_pipeline.corpus.files import list_files
    from grasp_pipeline.seeds import digest

    local = [path for path in paths if "://" not in path or path.startswith("file://")]
    others = [path for path in paths if path not in local]
    unseen = f"; {', '.join(others)} cannot be watched" if others else ""
    if not local:
        raise InputError(
            f"manifest.paths names no local files to watch ({', '.join(others)}); launch recurate by the schedule "
            "weekly_recuration instead"
        )
    found = {uri: (info.size, info.mtime_ns) for uri, info, _ in list_files(local)}
    landing = os.environ.get("GRASP_LANDING")
    if landing:
        inside = {os.path.realpath(uri) for uri, _, _ in list_files([landing])}
        known = {os.path.realpath(uri): uri for uri in found}
        if strange := sorted(inside - known.keys()):
            raise ConfigError(
                f"GRASP_LANDING is {landing}, but manifest.paths ({', '.join(paths)}) does not find {strange[0]}; "
                "add the folder to manifest.paths of the run configuration, or unset GRASP_LANDING"
            )
        found = {known[path]: found[known[path]] for path in inside}
    return digest(sorted(found.items())), unseen
