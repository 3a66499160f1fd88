"""What a run is launched for, told in its tags: the store, the state of all that it would read, and what came of it.

Sensor and schedule read the tags of earlier runs of the same store, so several stores on one Dagster instance keep
their histories apart, and nothing is launched twice for one state.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.tags import BACKFILL_ID_TAG, RUN_KEY_TAG

from assets.stages import APART, STAGES
from grasp_pipeline.locations import is_local, tidy_root
from grasp_pipeline.report.formats import public_location
from grasp_pipeline.seeds import digest

if TYPE_CHECKING:
    from dagster._core.storage.dagster_run import DagsterRun

STORE_TAG = "grasp/store"
"""The store of a run: the whole path of its folder, or its URI without credentials."""

STATE_TAG = "grasp/state"
"""Digest of what the run was to read: names, sizes and times of the files, configuration, code versions."""

RESULT_TAG = "grasp/result"
"""Whether a run made a table, or files that are published, anew; without it one that found nothing to do would look
like any other."""

WRITTEN, NOTHING = "written", "nothing to do"

DID_NOTHING = "Nothing to do: what the job reads has not changed, and no table was written."
"""Last line of the log of such a run."""

CURATING = ("curate", "recurate")
"""Jobs that read the corpus's files."""

TRIES = 3
"""Runs that are launched for one state while they fail."""

RECENT = 50
"""Newest runs of a store that are looked at."""


def store_place(run_config: Mapping[str, Any]) -> str:
    """Return the value of `STORE_TAG` under a run configuration."""
    resource = (run_config.get("resources") or {}).get("store") or {}
    root = (resource.get("config") or {}).get("root") or os.environ.get("GRASP_STORE", "store")
    if isinstance(root, dict):
        root = os.environ.get(root["env"], "store")
    place = tidy_root(root)
    return os.path.abspath(place) if is_local(place) else public_location(place)


def corpus_paths(run_config: Mapping[str, Any]) -> list[str]:
    """Return `manifest.paths` of a run configuration, or its default."""
    from grasp_pipeline.config import InputConfig

    section = ((run_config.get("ops") or {}).get("manifest") or {}).get("config") or {}
    return section.get("paths") or InputConfig().paths


def listing(paths: Iterable[str]) -> dict[str, tuple[int | None, int | None]]:
    """Return file -> size and time of the last write, of local paths and object stores that need no options.

    Raises:
        InputError: a path finds nothing or cannot be listed.
    """
    from grasp_pipeline.corpus.files import list_files

    return {uri: (info.size, info.mtime_ns) for uri, info, _ in list_files(list(paths))}


def state_of(run_config: Mapping[str, Any], files: Mapping[str, tuple[int | None, int | None]]) -> str:
    """Return the value of `STATE_TAG`: equal for `curate` and `recurate` where they would read the same."""
    ops = run_config.get("ops") or {}
    read = {name: each for name, each in STAGES.items() if not each.kept and each.group not in APART}
    settings = {
        name: each.section.model_validate((ops.get(name) or {}).get("config") or {}).digest()
        for name, each in read.items()
        if each.section is not None
    }
    codes = {name: each.code_version for name, each in read.items()}
    return digest(sorted(files.items()), settings, codes)


def about(run: DagsterRun, run_config: Mapping[str, Any], steps: Iterable[str]) -> dict[str, str]:
    """Return the tags that a run is given when it begins, those of its launch apart."""
    from grasp_pipeline.errors import GraspError

    told = {RESULT_TAG: NOTHING, STORE_TAG: store_place(run_config)}
    paths = corpus_paths(run_config)
    if "manifest" in steps and not any("://" in path for path in paths):
        with suppress(GraspError):  # the step says it, with what to do
            told[STATE_TAG] = state_of(run_config, listing(paths))
    return {name: value for name, value in told.items() if name not in run.tags}


def end_as_skip(instance: dg.DagsterInstance, run: DagsterRun) -> bool:
    """Let a run that succeeded and found nothing to do end as one that did nothing; returns whether it was one.

    Dagster has no status for that. Of those that it has, "canceled" is grey in the list of runs and neither a success
    nor a failure; the tag and the last line of the run's log say what it means. Runs of a backfill stay as they are:
    Dagster counts them.
    """
    did_nothing = run.tags.get(RESULT_TAG) == NOTHING and BACKFILL_ID_TAG not in run.tags
    if run.status is not dg.DagsterRunStatus.SUCCESS or not did_nothing:
        return False
    instance.report_run_canceled(run, DID_NOTHING)
    return True


def tell_written(context: dg.AssetExecutionContext) -> None:
    """Note in the run's tags that it made a table anew."""
    run = context.run.run_id
    if run not in _wrote:
        context.instance.add_run_tags(run, {RESULT_TAG: WRITTEN})
        _wrote.add(run)


_wrote: set[str] = set()


def request(
    instance: dg.DagsterInstance, run_config: Mapping[str, Any], tags: Mapping[str, str], state: str | None
) -> dg.RunRequest | str:
    """Return the run that a state asks for, or why there is none.

    The key names the run before, so that a state which comes back is a change of its own, and a tick that is repeated
    launches nothing twice.

    Args:
        instance: whose runs are looked at.
        run_config, tags: of the run.
        state: see `state_of`; None where it cannot be told without reading: then only a run under way is waited for.
    """
    store = store_place(run_config)
    found = instance.get_runs(dg.RunsFilter(tags={STORE_TAG: store}), limit=RECENT)
    # A run of a terminal that was killed stays unfinished for ever; those that the daemon launched are watched by it.
    runs = [run for run in found if run.job_name in CURATING and (run.is_finished or RUN_KEY_TAG in run.tags)]
    if runs and not runs[0].is_finished:
        return f"run {runs[0].run_id} is still at it"
    same = state is not None and runs and runs[0].tags.get(STATE_TAG) == state
    skipped = same and runs[0].tags.get(RESULT_TAG) == NOTHING
    if same and runs[0].status is dg.DagsterRunStatus.CANCELED and not skipped:
        return f"run {runs[0].run_id} was canceled; launch recurate by hand"
    if same and not runs[0].is_failure:
        return f"nothing has changed since run {runs[0].run_id}: files, configuration and code"
    failed = [run.tags.get(STATE_TAG) == state and run.is_failure for run in runs[:TRIES]]
    if same and len(failed) == TRIES and all(failed):
        return (
            f"{TRIES} runs failed on these files, the last is {runs[0].run_id}; mend what it names and launch recurate "
            "by hand"
        )
    after = runs[0].run_id if runs else "none"
    return dg.RunRequest(
        run_key=f"{digest(store, state)[:32]}-after-{after}",
        run_config=dict(run_config),
        tags={**tags, STORE_TAG: store, **({} if state is None else {STATE_TAG: state})},
    )
