"""The pool of device steps: one at a time, and a killed run does not keep its slot."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml
from dagster._core.test_utils import create_run_for_test
from dagster._daemon.monitoring.concurrency import execute_concurrency_slots_iteration

from assets.stages import GPU_POOL

HERE = Path(__file__).resolve().parent
SHIPPED = Path(__file__).resolve().parents[2] / ".dagster_home" / "dagster.yaml"


@pytest.mark.slow
def test_steps_on_the_device_do_not_overlap(tmp_path: Path) -> None:
    """Two runs in processes of their own, with the executor and the settings that are shipped."""
    home, told = tmp_path / "home", tmp_path / "told"
    home.mkdir()
    (home / "dagster.yaml").write_text(SHIPPED.read_text())
    with dg.DagsterInstance.from_config(str(home)) as instance:
        instance.event_log_storage.initialize_concurrency_limit_to_default(GPU_POOL)
    command = [sys.executable, str(HERE / "pooled.py"), str(home), str(told)]
    path = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    runs = [subprocess.Popen(command, env=path) for _ in range(2)]
    assert [run.wait(300) for run in runs] == [0, 0]
    first, second = sorted([float(time) for time in line.split()] for line in told.read_text().splitlines())
    assert first[1] <= second[0]


def test_a_killed_run_frees_its_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the daemon does once a minute, on the settings that are shipped."""
    settings = yaml.safe_load(SHIPPED.read_text())
    wait = settings["run_monitoring"]["free_slots_after_run_end_seconds"]
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(settings))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        storage.initialize_concurrency_limit_to_default(GPU_POOL)
        killed = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED)
        waiting = create_run_for_test(instance, status=dg.DagsterRunStatus.STARTED)
        assert storage.claim_concurrency_slot(GPU_POOL, killed.run_id, "sketch").is_claimed
        assert not storage.claim_concurrency_slot(GPU_POOL, waiting.run_id, "sketch").is_claimed

        instance.report_run_failed(killed, "its process was killed")
        later = datetime.now(UTC) + timedelta(seconds=wait + 5)

        def look() -> None:
            context = SimpleNamespace(instance=instance)
            list(execute_concurrency_slots_iteration(context, logging.getLogger()))  # type: ignore[arg-type]

        look()
        assert not storage.claim_concurrency_slot(GPU_POOL, waiting.run_id, "sketch").is_claimed
        monkeypatch.setattr(
            "dagster._daemon.monitoring.concurrency.get_current_datetime",
            lambda: later,
        )
        look()
        assert storage.claim_concurrency_slot(GPU_POOL, waiting.run_id, "sketch").is_claimed
