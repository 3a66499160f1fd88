"""Run a job in the terminal: stages and progress while it runs, the summary at its end.

    python -m assets.run curate --config config/demo.yaml
    python -m assets.run plan --config config/demo.yaml --workers 8
    python -m assets.run summary --json

The run is recorded in DAGSTER_HOME like any other, so the web interface shows it. Nothing here is needed by Dagster;
`dg launch` and `dagster job launch` run the same jobs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grasp_pipeline.errors import ConfigError, GraspError, nearest

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl
    from rich.console import Console

    from grasp_pipeline.report.inputs import ReportInputs
    from resources.store import DeltaStore

SUMMARY = "summary"
PLAN = "plan"
JOBS = ("curate", "recurate", "fidelity", "apply_filter", "curate_vision")

HOME = Path(__file__).resolve().parents[1] / ".dagster_home"
"""Where the Makefile keeps runs and logs."""

OF_THE_LOCATION = {".dagster/repository": "__repository__@grasp_pipeline"}
"""Run tag by which the web interface shows a run in the timeline of its job; the location is workspace.yaml's."""


def tell(console: Console, seconds: float, message: str, indent: int) -> None:
    """Print a message of a running step after the time: progress on one line, a long sentence on lines of its own."""
    from grasp_pipeline.progress import Line, duration

    head = f"{duration(seconds):>12}  {' ' * indent}"
    room = console.width - len(head)
    if isinstance(message, Line):
        lines = [message.within(room)]
    elif not console.is_terminal:  # in a pipe or a file a sentence is a line
        lines = [" ".join(message.split())]
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


def job_name(given: str) -> str:
    """Return the name of a job as it was given; of another name the parser tells the nearest job."""
    known = (*JOBS, SUMMARY, PLAN)
    if given not in known:
        raise argparse.ArgumentTypeError(f"there is no job {given!r}; {nearest(given, known)}")
    return given


def set_home() -> None:
    """Set DAGSTER_HOME, where it is not set, to the checkout's `.dagster_home`."""
    if HOME.is_dir():
        os.environ.setdefault("DAGSTER_HOME", str(HOME))


def this_instance() -> dg.DagsterInstance:
    """Return the Dagster instance of DAGSTER_HOME, without it that of the checkout's `.dagster_home`.

    Raises:
        ConfigError: DAGSTER_HOME is not a folder, or there is none.
    """
    import dagster as dg
    from dagster._core.errors import DagsterHomeNotSetError

    set_home()
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
        "job",
        metavar="JOB",
        type=job_name,
        help=f"{', '.join(JOBS)}; {SUMMARY} runs none and tells what the store holds; {PLAN} measures a sample and "
        "tells what curate will cost",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the answer as JSON; what happens meanwhile goes to stderr"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("config/demo.yaml"), help="run configuration (YAML)"
    )
    parser.add_argument(
        "--figures", type=Path, help="write seconds per stage and peak memory to this JSON file"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="of plan: tell the cost on so many workers too"
    )
    options = parser.parse_args(arguments)

    from rich.console import Console

    from assets.settings import read_config

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # a name from data that the terminal cannot show stops nothing
    console = Console(highlight=False, stderr=options.json)
    try:
        config = read_config(options.config)
        if options.job == SUMMARY:
            return _summary(config, console, options.json)
        if options.job == PLAN:
            from assets.planning import command

            with _store(config) as used:
                return command.main(config, used, run_small, options.workers, options.json, console)
        return _run(options.job, config, console, options.figures, options.json)
    except GraspError as error:
        console.print(f"Error: {error}", markup=False, soft_wrap=not console.is_terminal)
        return 1


def _summary(config: dict[str, Any], console: Console, as_json: bool) -> int:
    """Tell what the store holds, without a run."""
    from dataclasses import replace

    from assets.reporting import report_inputs, run_seconds

    with _store(config) as used:
        inputs = report_inputs(used.tables, views=False)
        if "DAGSTER_HOME" in os.environ:
            with this_instance() as instance:
                inputs = replace(inputs, timings=run_seconds(instance, inputs.run_id))
        _tell(inputs, used, console, as_json)
    return 0


@contextmanager
def _store(config: dict[str, Any]) -> Iterator[DeltaStore]:
    """Give the store that a run configuration names."""
    import dagster as dg

    from grasp_pipeline.definitions import store

    chosen = (config.get("resources") or {}).get("store")
    with dg.build_resources({"store": store}, resource_config={"store": chosen} if chosen else {}) as opened:
        yield opened.store


def _tell(inputs: ReportInputs, store: DeltaStore, console: Console, as_json: bool) -> None:
    """Print the summary, or the answer as JSON to stdout."""
    from grasp_pipeline.report.answer import answer
    from grasp_pipeline.report.formats import public_location
    from grasp_pipeline.report.summary import print_summary

    report = f"{store.place}/report/report.html"
    if store.is_local:
        report = Path(report).absolute().as_uri()
    if as_json:
        places = {"store": public_location(inputs.store), "report": public_location(report)}
        print(json.dumps(answer(inputs) | places, indent=2))
    else:
        print_summary(inputs, console, report)


def run_small(run_config: Mapping[str, Any], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """Run `curate` for a plan.

    Raises:
        ConfigError: it failed; names the step and the cause.
    """
    from dagster._core.errors import DagsterUserCodeProcessError

    from assets import partitions
    from assets.failures import first_cause
    from grasp_pipeline.definitions import defs

    try:
        result = defs.resolve_job_def("curate").execute_in_process(
            run_config=run_config, instance=instance, tags=partitions.WHOLE_RANGE, raise_on_error=False
        )
    except DagsterUserCodeProcessError as error:  # refused before it was a run
        raise ConfigError(error) from error
    for event in result.all_events:
        if event.event_type_value == "STEP_FAILURE":
            raise ConfigError(
                f"a small run on a sample of the corpus failed at {event.step_key}: {first_cause(event)}"
            )
    return result


def _run(
    job: str, config: dict[str, Any], console: Console, figures: Path | None, as_json: bool = False
) -> int:
    import dagster as dg
    from dagster._core.errors import DagsterUserCodeProcessError

    from assets import partitions, terminal
    from assets.failures import first_cause
    from assets.launches import DID_NOTHING, RESULT_TAG, end_as_skip
    from assets.reporting import report_inputs, vision_inputs
    from assets.settings import kept_settings
    from assets.stages import STAGES, check_run_config
    from assets.timeline import show_in_timeline
    from grasp_pipeline.config import VisionConfigSection
    from grasp_pipeline.definitions import defs
    from grasp_pipeline.progress import duration
    from grasp_pipeline.report.summary import print_vision_summary

    every = ("curate", "apply_filter", "curate_vision")
    steps = {node.name for name in every for node in defs.resolve_job_def(name).graph.nodes}
    check_run_config(config["ops"], steps)
    begun = time.monotonic()
    definition = defs.resolve_job_def(job)
    known = {node.name for node in definition.graph.nodes}
    given = {name: value for name, value in config["ops"].items() if name in known}
    run_config = {
        "resources": {},
        **config,
        "ops": given,
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    tags = partitions.WHOLE_RANGE if job in ("curate", "recurate") else {}
    tags = tags | kept_settings(config["ops"], known) | OF_THE_LOCATION
    terminal.LISTENER = lambda message, indent: tell(console, time.monotonic() - begun, message, indent)
    instance = show_in_timeline(this_instance(), job)
    try:
        result = definition.execute_in_process(
            run_config=run_config, instance=instance, raise_on_error=False, tags=tags
        )
    except dg.DagsterInvalidConfigError as error:
        raise ConfigError(
            f"The run configuration cannot be used: {config_faults(error, definition)}. Correct it and launch again."
        ) from error
    except DagsterUserCodeProcessError as error:  # refused before it was a run
        raise ConfigError(error) from error
    finally:
        terminal.LISTENER = None
    failed = _tell_checks(result, console)
    failures = [event for event in result.all_events if event.event_type_value == "STEP_FAILURE"]
    told: set[str] = set()
    for failure in failures:
        error = failure.step_failure_data.error
        if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
            continue  # those are told above
        if (cause := first_cause(failure)) not in told:  # what a run is refused for is told by every step
            console.print(
                f"{failure.step_key} failed: {cause}", markup=False, soft_wrap=not console.is_terminal
            )
        told.add(cause)
    if failures:
        console.print(
            f"Run {result.run_id}; see it with `make ui`.", markup=False, soft_wrap=not console.is_terminal
        )
        return 1
    timings = stage_seconds(result, set(STAGES))
    with _store(config) as used:
        if job == "curate_vision":
            settings = (given.get("vision_fidelity") or {}).get("config") or {}
            from grasp_pipeline.evaluation.experiment import SELECTED

            data_set = VisionConfigSection.model_validate(settings).data_set
            rows, reason = vision_inputs(used.tables, data_set)
            print_vision_summary(rows, SELECTED, reason, console)
        elif job == "apply_filter":
            _tell_filter(result, console, used.place)
        else:
            _tell(report_inputs(used.tables, timings, views=False), used, console, as_json)
    record = instance.get_run_by_id(result.run_id)
    if record is not None and end_as_skip(instance, record):
        console.print(f"{DID_NOTHING} Dagster lists the run as canceled, with the tag {RESULT_TAG}.")
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
