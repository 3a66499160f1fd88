"""Run a job in the terminal: stages and progress while it runs, the summary at its end.

    python -m assets.run curate --config config/demo.yaml

The run is recorded in DAGSTER_HOME like any other, so the web interface shows it. Nothing here is needed by Dagster;
`dagster job execute` and `dagster job launch` run the same jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_pipeline.errors import ConfigError, GraspError, nearest

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl
    from rich.console import Console


def first_cause(failure: Any) -> str:
    """Return the sentence meant for the user, else the innermost message of a step's failure."""
    error = failure.step_failure_data.error
    known = {cls.__name__ for cls in GraspError.__subclasses__()}

    def ours() -> bool:
        return (error.cls_name or "").rpartition(".")[2] in known

    while error.cause is not None and not ours():
        error = error.cause
    message = error.message.strip()
    return message.partition(": ")[2] if ours() else message


def tell(console: Console, seconds: float, message: str, indent: int) -> None:
    """Print a message of a running step after the time: progress on one line, a long sentence on lines of its own."""
    from grasp_pipeline.progress import Line, duration

    head = f"{duration(seconds):>12}  {' ' * indent}"
    room = console.width - len(head)
    if isinstance(message, Line):
        lines = [message.within(room)]
    else:
        lines = textwrap.wrap(message, max(room, 20), break_long_words=False) or [""]
    for number, line in enumerate(lines):
        console.print(f"{head if number == 0 else ' ' * len(head)}{line}", markup=False, soft_wrap=True)


def config_faults(error: dg.DagsterInvalidConfigError, job: dg.JobDefinition) -> str:
    """Return what Dagster says of a job's run configuration, with the nearest name for every unknown one."""
    told = []
    for fault in error.errors:
        said = fault.message.partition(" Expected:")[0].strip(" .")
        if unknown := getattr(fault.error_data, "field_name", None):
            fields: Any = job.run_config_schema.config_type
            for entry in fault.stack.entries:
                fields = fields.fields[getattr(entry, "field_name")].config_type  # noqa: B009
            if unknown not in fields.fields:
                said += f"; {nearest(unknown, fields.fields)}"
        told.append(said)
    return "; ".join(told)


def this_instance() -> dg.DagsterInstance:
    """Return the Dagster instance of DAGSTER_HOME.

    Raises:
        ConfigError: DAGSTER_HOME is not set or is not a folder.
    """
    import dagster as dg
    from dagster._core.errors import DagsterHomeNotSetError

    try:
        return dg.DagsterInstance.get()
    except (DagsterHomeNotSetError, dg.DagsterInvariantViolationError) as error:
        home = os.environ.get("DAGSTER_HOME")
        raise ConfigError(
            f"DAGSTER_HOME is {home!r}; set it to the absolute path of an existing folder, such as .dagster_home here"
        ) from error


def stage_seconds(result: dg.ExecuteInProcessResult, shown: set[str]) -> pl.DataFrame:
    """Return seconds per stage of a run, in order."""
    import polars as pl

    rows = [
        (event.step_key, event.event_specific_data.duration_ms / 1000)  # type: ignore[union-attr]
        for event in result.all_events
        if event.event_type_value == "STEP_SUCCESS" and event.step_key in shown
    ]
    return pl.DataFrame(rows, schema={"stage": pl.String, "seconds": pl.Float64}, orient="row")


def main(arguments: list[str] | None = None) -> int:
    """Run a job; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m assets.run", description="Run a job in the terminal.")
    parser.add_argument(
        "job", choices=["curate", "recurate", "fidelity", "apply_filter", "curate_vision"], help="which job"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config/demo.yaml"), help="run configuration (YAML)"
    )
    parser.add_argument(
        "--figures", type=Path, help="write seconds per stage and peak memory to this JSON file"
    )
    options = parser.parse_args(arguments)

    from rich.console import Console

    from assets.settings import read_config

    console = Console(highlight=False)
    try:
        return _run(options.job, read_config(options.config), console, options.figures)
    except GraspError as error:
        console.print(f"Error: {error}", markup=False)
        return 1


def _run(job: str, config: dict[str, Any], console: Console, figures: Path | None) -> int:
    import dagster as dg

    from assets import partitions, step
    from assets.reporting import report_inputs, vision_inputs
    from assets.settings import kept_settings
    from assets.stages import STAGES, check_run_config
    from grasp_pipeline.config import VisionConfigSection
    from grasp_pipeline.definitions import defs, store
    from grasp_pipeline.progress import duration
    from grasp_pipeline.report.summary import print_summary, print_vision_summary

    check_run_config(config["ops"])
    begun = time.monotonic()
    definition = defs.resolve_job_def(job)
    known = {node.name for node in definition.graph.nodes}
    given = {name: value for name, value in config["ops"].items() if name in known}
    every = ("curate", "apply_filter", "curate_vision")
    steps = {node.name for name in every for node in defs.resolve_job_def(name).graph.nodes}
    if unknown := sorted(set(config["ops"]) - steps):
        names = "; ".join(f"no step is named {name!r}, {nearest(name, steps)}" for name in unknown)
        raise ConfigError(f"the configuration names what does not exist: {names}")
    run_config = {**config, "ops": given, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    tags = partitions.WHOLE_RANGE if job in ("curate", "recurate") else {}
    tags = tags | kept_settings(config["ops"], known)
    step.TERMINAL = lambda message, indent: tell(console, time.monotonic() - begun, message, indent)
    try:
        result = definition.execute_in_process(
            run_config=run_config, instance=this_instance(), raise_on_error=False, tags=tags
        )
    except dg.DagsterInvalidConfigError as error:
        raise ConfigError(
            f"The run configuration cannot be used: {config_faults(error, definition)}. Correct it and launch again."
        ) from error
    finally:
        step.TERMINAL = None
    failed = _tell_checks(result, console)
    failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    told: set[str] = set()
    for failure in failures:
        error = failure.step_failure_data.error
        if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
            continue  # those are told above
        if (cause := first_cause(failure)) not in told:  # what a run is refused for is told by every step
            console.print(f"{failure.step_key} failed: {cause}", markup=False)
        told.add(cause)
    if failures:
        console.print(f"Run {result.run_id}; see it with `make ui`.", markup=False)
        return 1
    timings = stage_seconds(result, set(STAGES))
    chosen = (config.get("resources") or {}).get("store")
    with dg.build_resources({"store": store}, resource_config={"store": chosen} if chosen else {}) as opened:
        used = opened.store
        if job == "curate_vision":
            settings = (given.get("vision_fidelity") or {}).get("config") or {}
            from grasp_pipeline.evaluation.experiment import SELECTED

            data_set = VisionConfigSection.model_validate(settings).data_set
            rows, reason = vision_inputs(used.tables, data_set)
            print_vision_summary(rows, SELECTED, reason, console)
        elif job == "apply_filter":
            _tell_filter(result, console, used.place)
        else:
            print_summary(report_inputs(used.tables, timings), console, f"{used.place}/report/report.html")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.monotonic() - begun
    console.print(f"{duration(seconds)} in all, peak memory {peak:.2f} GiB.", markup=False)
    if figures is not None:
        content = {"stages": dict(timings.iter_rows()), "seconds": seconds, "peak_gib": peak}
        figures.write_text(json.dumps(content, indent=2))
    return 1 if failed else 0


def _tell_filter(result: dg.ExecuteInProcessResult, console: Console, root: str) -> None:
    """Print what the residual filter kept of the files that it was given."""
    from grasp_pipeline.report.formats import count, share

    (event, *_) = result.asset_materializations_for_node("filtered_shards")
    found: dict[str, Any] = {name: value.value for name, value in event.metadata.items()}
    console.print(
        f"{count(found['files'])} files: {count(found['documents'])} documents scored, {count(found['rejected'])} rows "
        f"rejected. Kept {count(found['kept_chunks'])} of {count(found['chunks'])} chunks, "
        f"{count(found['kept_tokens'])} tokens ({share(found['kept_tokens'], found['tokens'])}).",
        markup=False,
    )
    console.print(f"Values and kept text: {root}/filtered_shards", markup=False, soft_wrap=True)


def _tell_checks(result: dg.ExecuteInProcessResult, console: Console) -> int:
    """Print the checks that did not pass; returns how many of them are errors, not warnings."""
    failed = 0
    for check in result.get_asset_check_evaluations():
        if not check.passed:
            stern = check.severity.value == "ERROR"
            failed += stern
            name = f"Check {check.check_name} of {check.asset_key.to_user_string()}"
            verdict = "failed" if stern else "warns"
            reason = f": {check.description}" if check.description else ""
            console.print(f"{name} {verdict}{reason}", markup=False)
    return failed


if __name__ == "__main__":
    sys.exit(main())
