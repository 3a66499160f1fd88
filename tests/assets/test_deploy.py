"""The files of config/deploy that a cluster on this machine can run, and the others as far as they can be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from workplace import Workplace

from grasp_pipeline import tables
from resources.compute import Compute

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "config" / "deploy"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def write_config(place: Workplace, sections: dict[str, Any], job: str = "curate") -> Path:
    """Write a run configuration with absolute paths, since a Ray job runs in a folder of its own."""
    config = place.run_config(job=job)
    for step in ("manifest", "task_documents"):
        fields = config["ops"][step]["config"]
        fields["paths"] = [str(place.folder / path) for path in fields["paths"]]
    config["resources"]["compute"]["config"] = {
        **place.compute,
        **sections.get("resources", {"compute": {"config": {}}})["compute"]["config"],
    }
    path = place.folder / "run.yaml"
    path.write_text(yaml.safe_dump(config | {k: v for k, v in sections.items() if k != "resources"}))
    return path


def failures(home: Path) -> list[str]:
    """Return what the runs of an instance say of their failures."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        events = [e.dagster_event for run in instance.get_runs() for e in instance.all_logs(run.run_id)]
    failed = [event for event in events if event is not None and event.is_failure]
    return [f"{event.message} {event.event_specific_data}"[:3000] for event in failed]


def dagster(*arguments: str, home: Path, **environment: str) -> None:
    """Run Dagster's command line."""
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *arguments],
        env={**os.environ, "DAGSTER_HOME": str(home), "GRASP_STORE": str(home), **environment},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, (done.stderr[-2000:], failures(home))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def job_server(cluster: Any) -> None:
    """Wait until the cluster takes jobs."""
    from ray.job_submission import JobSubmissionClient

    client, deadline = JobSubmissionClient(os.environ["RAY_DASHBOARD_ADDRESS"]), time.monotonic() + 120
    while True:
        try:
            client.submit_job(entrypoint="true")
            return
        except RuntimeError:
            assert time.monotonic() < deadline, "no node of the cluster takes jobs"
            time.sleep(1)


@pytest.mark.ray
def test_a_run_is_a_ray_job_and_its_blocks_are_tasks(job_server: None, place: Workplace, home: Path) -> None:
    shutil.copy(DEPLOY / "ray-launcher.yaml", home / "dagster.yaml")
    compute = read("ray-compute.yaml")
    compute["resources"]["compute"]["config"]["workers"] = 3
    config = write_config(place, compute)
    dagster("job", "launch", "-m", "grasp_pipeline.definitions", "-j", "curate", "-c", str(config), home=home)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        deadline = time.monotonic() + 400
        while not (run := instance.get_runs()[0]).is_finished:
            assert time.monotonic() < deadline, run.status
            time.sleep(1)
    assert run.status is dg.DagsterRunStatus.SUCCESS, failures(home)
    assert place.read(tables.PRUNED_CORPUS).height


def test_the_compute_section_is_one() -> None:
    """What is commented out is meant too."""
    text = (DEPLOY / "ray-compute.yaml").read_text()
    for uncommented in (text, text.replace("# gpus_per", "gpus_per").replace("# memory_per", "memory_per")):
        Compute(**yaml.safe_load(uncommented)["resources"]["compute"]["config"])


def test_the_cluster_for_kubernetes_has_the_pinned_version() -> None:
    spec = read("kuberay.yaml")["spec"]
    assert f"ray=={spec['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    workers = spec["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert workers["resources"]["limits"] == workers["resources"]["requests"]


def test_the_script_for_slurm_is_bash() -> None:
    subprocess.run(["bash", "-n", str(DEPLOY / "slurm.sh")], check=True)
