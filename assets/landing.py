"""The sensor on the corpus's own files: a change that has settled launches recurate once."""

import os
from collections.abc import Sequence

import dagster as dg

from assets.jobs import recurate, recurate_config, recurate_tags
from assets.launches import TRIES, corpus_paths, listing, request, state_of
from grasp_pipeline.errors import ConfigError, InputError


def seconds_between_ticks() -> int:
    """Return the least seconds between two looks at the files; `GRASP_SENSOR_SECONDS` sets them (default 60).

    Raises:
        ConfigError: GRASP_SENSOR_SECONDS is not a whole number from 1 to 86400.
    """
    text = os.environ.get("GRASP_SENSOR_SECONDS", "60")
    if not text.isdigit() or not 1 <= int(text) <= 86_400:
        raise ConfigError(f"GRASP_SENSOR_SECONDS is {text!r}; set it to whole seconds from 1 to 86400")
    return int(text)


@dg.sensor(
    name="landing_folder",
    job_name=recurate.name,
    minimum_interval_seconds=seconds_between_ticks(),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Watches the local files that `manifest.paths` names in the configuration GRASP_CONFIG, or those of "
    "them in the folder GRASP_LANDING, and launches recurate when they have changed and rest, or when the "
    f"configuration or the code has changed. A failed run is tried again, {TRIES} times in all. Object stores and "
    "Hugging Face datasets are not watched.",
)
def landing_folder(context: dg.SensorEvaluationContext) -> dg.SensorResult:
    """Launch one run per change; what was launched is read from the runs, the cursor holds the state last seen."""
    config = recurate_config()
    try:
        files, unseen = _watched(corpus_paths(config))
    except InputError as error:
        return dg.SensorResult(skip_reason=str(error))
    state = state_of(config, files)
    if state != context.cursor:
        return dg.SensorResult(skip_reason="the files have changed; waiting until they rest", cursor=state)
    asked = request(context.instance, config, recurate_tags(), state)
    if isinstance(asked, str):
        return dg.SensorResult(skip_reason=asked + unseen)
    return dg.SensorResult(run_requests=[asked], cursor=state)


def _watched(paths: Sequence[str]) -> tuple[dict[str, tuple[int | None, int | None]], str]:
    """Return the local files with size and time, and a clause on paths that are not watched.

    Raises:
        InputError: there is no local path, or one of them or GRASP_LANDING finds nothing.
        ConfigError: GRASP_LANDING holds a file that `manifest.paths` does not find: no run would read it.
    """
    local = [path for path in paths if "://" not in path or path.startswith("file://")]
    others = [path for path in paths if path not in local]
    unseen = f"; {', '.join(others)} cannot be watched" if others else ""
    if not local:
        raise InputError(
            f"manifest.paths names no local files to watch ({', '.join(others)}); launch recurate by the schedule "
            "weekly_recuration instead"
        )
    found = listing(local)
    landing = os.environ.get("GRASP_LANDING")
    if landing:
        inside = {os.path.realpath(uri) for uri in listing([landing])}
        known = {os.path.realpath(uri): uri for uri in found}
        if strange := sorted(inside - known.keys()):
            raise ConfigError(
                f"GRASP_LANDING is {landing}, but manifest.paths ({', '.join(paths)}) does not find {strange[0]}; "
                "add the folder to manifest.paths of the run configuration, or unset GRASP_LANDING"
            )
        found = {known[path]: found[known[path]] for path in inside}
    return found, unseen
