"""The automation under Dagster's own daemon: a file is dropped, the sensor launches recurate, curation 2 is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml
from processes import end_session
from small_store import unpack
from toys import toy_texts
from workplace import Workplace

from assets.launches import NOTHING, RESULT_TAG, STATE_TAG, STORE_TAG, WRITTEN
from grasp_pipeline import tables

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 500
"""Seconds; on an idle machine a run takes ten."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * PATIENCE)]

DAGSTER_YAML = """
telemetry: {enabled: false}
run_monitoring: {enabled: true, free_slots_after_run_end_seconds: 5}
"""


@contextmanager
def daemon(folder: Path, env: dict[str, str]) -> Iterator[None]:
    """Run Dagster's daemon in a folder, in a process session of its own, and end that at last."""
    command = [Path(sys.executable).with_name("dagster-daemon"), "run", "-m", "grasp_pipeline.definitions"]
    with (folder / "daemon.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            end_session(process)


def until(what: str, folder: Path, holds: Callable[[], object]) -> None:
    """Wait until something holds."""
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > PATIENCE:
            pytest.fail(f"{what} did not come; the daemon said {(folder / 'daemon.log').read_text()[-3000:]}")
        time.sleep(1)


def drop(place: Workplace, name: str) -> None:
    """Put a file into the corpus as a careful writer does: hidden first."""
    rows = [(f"{name}-{number}", "news", text) for number, text in enumerate(toy_texts("news", 6, name))]
    frame = pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")
    frame.write_parquet(place.corpus / f".{name}")
    (place.corpus / f".{name}").rename(place.corpus / f"{name}.parquet")


def test_a_dropped_file_becomes_a_numbered_curation(tmp_path: Path) -> None:
    place = unpack(tmp_path)
    home, told = tmp_path / "home", tmp_path / "failures"
    home.mkdir()
    (home / "dagster.yaml").write_text(DAGSTER_YAML)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(place.run_config()))
    code = f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read() + chr(10))"
    env = os.environ | {
        "DAGSTER_HOME": str(home),
        "GRASP_STORE": str(place.store),
        "GRASP_CONFIG": str(tmp_path / "run.yaml"),
        "GRASP_SENSOR_SECONDS": "3",
        "GRASP_ON_FAILURE": f'{sys.executable} -c "{code}"',
        "PYTHONPATH": str(ROOT),
    }
    env.pop("GRASP_LANDING", None)
    with dg.DagsterInstance.from_config(str(home)) as instance:

        def ended() -> list[dg.DagsterRun]:
            return [run for run in instance.get_runs() if run.is_finished]

        with daemon(tmp_path, env):
            start = [Path(sys.executable).with_name("dagster"), "sensor", "start", "landing_folder"]
            subprocess.run(
                [*start, "-m", "grasp_pipeline.definitions"],
                cwd=tmp_path,
                env=env,
                check=True,
                timeout=PATIENCE,
            )
            until("the first run, which nobody had told what it knows", tmp_path, lambda: len(ended()) == 1)
            first = ended()[0]
            made = "its export is not in the archive"
            assert (first.status, first.tags[RESULT_TAG]) == (dg.DagsterRunStatus.SUCCESS, WRITTEN), made
            known = place.read(tables.CURATIONS)["curation"].to_list()

            os.utime(place.corpus / "a.parquet")
            until("a run for a file of another time", tmp_path, lambda: len(ended()) == 2)
            touched = ended()[0]
            assert touched.tags[RESULT_TAG] == NOTHING
            until(
                "the end of that run as a skip",
                tmp_path,
                lambda: ended()[0].status is dg.DagsterRunStatus.CANCELED,
            )

            drop(place, "c")
            until("a run for the new file", tmp_path, lambda: len(ended()) == 3)
            second = ended()[0]
            assert (second.status, second.tags[RESULT_TAG]) == (dg.DagsterRunStatus.SUCCESS, WRITTEN)
            assert second.tags[STORE_TAG] == str(place.store)
            assert second.tags[STATE_TAG] != first.tags[STATE_TAG]
            assert place.read(tables.CURATIONS)["curation"].to_list() == [*known, len(known) + 1]
            assert place.delta.curation(tables.PRUNED_CORPUS) == len(known) + 1

            (place.corpus / "d.parquet").write_text("not parquet")
            until("three failed runs", tmp_path, lambda: len(ended()) == 6)
            until(
                "what the hook was told",
                tmp_path,
                lambda: told.exists() and told.read_text().count("\n") == 3,
            )
        assert len(instance.get_runs()) == 6, "nothing was launched twice"
    reports = [json.loads(line) for line in told.read_text().splitlines()]
    assert {(report["job"], report["store"]) for report in reports} == {("recurate", str(place.store))}
    assert all("d.parquet" in report["cause"] for report in reports)
