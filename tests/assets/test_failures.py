"""What follows from how a run ended: a failed one is told to a command, one that found nothing to do is a skip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.storage.tags import BACKFILL_ID_TAG

from assets.failures import COMMAND, failure_hook, nothing_to_do
from assets.launches import DID_NOTHING, NOTHING, RESULT_TAG, STORE_TAG, WRITTEN
from grasp_pipeline.errors import ConfigError


@dg.op
def breaks() -> None:
    raise ConfigError("the budget is 3; raise it")


@dg.job(tags={STORE_TAG: "/stores/one"})
def failing() -> None:
    breaks()


def tick() -> None:
    instance = dg.DagsterInstance.ephemeral()
    result = failing.execute_in_process(instance=instance, raise_on_error=False)
    context = dg.build_run_status_sensor_context(
        "failure_hook", result.get_run_failure_event(), instance, result.dagster_run
    ).for_run_failure()
    failure_hook(context)


def test_the_command_reads_what_failed_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "told of it.json"
    code = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.stdin.read())"
    monkeypatch.setenv(COMMAND, f'{sys.executable} -c "{code}" "{told}"')
    tick()
    read = json.loads(told.read_text())
    assert read.pop("run_id")
    assert read == {
        "job": "failing",
        "store": "/stores/one",
        "step": "breaks",
        "cause": "the budget is 3; raise it",
    }


def test_a_command_that_cannot_be_run_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(COMMAND, raising=False)
    with pytest.raises(ConfigError, match=f"{COMMAND} is not set"):
        tick()
    monkeypatch.setenv(COMMAND, "/no/such/command")
    with pytest.raises(ConfigError, match="cannot be run"):
        tick()
    monkeypatch.setenv(COMMAND, f'{sys.executable} -c "raise SystemExit(3)"')
    with pytest.raises(ConfigError, match="ended with status 3"):
        tick()


@dg.job
def working() -> None:
    pass


@pytest.mark.parametrize(
    ("told", "status"),
    [
        ({RESULT_TAG: NOTHING}, dg.DagsterRunStatus.CANCELED),
        ({RESULT_TAG: WRITTEN}, dg.DagsterRunStatus.SUCCESS),
        ({RESULT_TAG: NOTHING, BACKFILL_ID_TAG: "b"}, dg.DagsterRunStatus.SUCCESS),
        ({}, dg.DagsterRunStatus.SUCCESS),
    ],
)
def test_a_run_that_found_nothing_to_do_is_no_success(
    told: dict[str, str], status: dg.DagsterRunStatus
) -> None:
    instance = dg.DagsterInstance.ephemeral()
    result = working.execute_in_process(instance=instance, tags=told)
    for _ in range(2):
        context = dg.build_run_status_sensor_context(
            "nothing_to_do", result.get_run_success_event(), instance, result.dagster_run
        )
        skipped = nothing_to_do(context)
    assert isinstance(skipped, dg.SkipReason)
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert run.status is status
    said = [entry.message for entry in instance.all_logs(result.run_id) if entry.message == DID_NOTHING]
    assert len(said) == (status is dg.DagsterRunStatus.CANCELED)
