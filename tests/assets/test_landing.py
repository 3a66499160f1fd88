"""The sensor: one run per change of the files that `manifest.paths` names, again after a failure, never two at once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.dagster_run import DagsterRun
from dagster._core.storage.tags import RUN_KEY_TAG, SENSOR_NAME_TAG

from assets.jobs import weekly_recuration
from assets.landing import landing_folder
from assets.launches import NOTHING, RESULT_TAG, STORE_TAG, TRIES, end_as_skip
from assets.partitions import WHOLE_RANGE
from grasp_pipeline.definitions import defs
from grasp_pipeline.errors import ConfigError

Status = dg.DagsterRunStatus


@dataclass
class Daemon:
    """Ticks the sensor as Dagster's daemon does: keeps the cursor, launches no run whose key was used before."""

    instance: dg.DagsterInstance = field(default_factory=dg.DagsterInstance.ephemeral)
    cursor: str | None = None

    def tick(self) -> DagsterRun | str:
        """Return the run that a tick launched, under way, or why there is none."""
        context = dg.build_sensor_context(
            self.instance, cursor=self.cursor, repository_def=defs.get_repository_def()
        )
        told = landing_folder.evaluate_tick(context)
        self.cursor = told.cursor
        for request in told.run_requests or []:
            assert request.run_key is not None
            if self.instance.get_runs(dg.RunsFilter(tags={RUN_KEY_TAG: request.run_key})):
                return "run key already used"
            assert dg.validate_run_config(defs.resolve_job_def("recurate"), request.run_config)
            assert request.tags.items() >= WHOLE_RANGE.items()
            tags = {**request.tags, RUN_KEY_TAG: request.run_key, SENSOR_NAME_TAG: landing_folder.name}
            run = DagsterRun("recurate", run_config=request.run_config, tags=tags, status=Status.STARTED)
            return self.instance.add_run(run)
        return told.skip_message or ""

    def launched(self) -> DagsterRun:
        """Tick until the files rest; the second tick must launch."""
        assert "waiting until they rest" in str(self.tick())
        run = self.tick()
        assert isinstance(run, DagsterRun), run
        return run

    def ends(self, run: DagsterRun, status: dg.DagsterRunStatus = Status.SUCCESS) -> None:
        event = {Status.SUCCESS: "SUCCESS", Status.FAILURE: "FAILURE", Status.CANCELED: "CANCELED"}[status]
        self.instance.report_dagster_event(
            dg.DagsterEvent(f"PIPELINE_{event}", "recurate"), run_id=run.run_id
        )
        assert self.instance.get_runs(dg.RunsFilter(run_ids=[run.run_id]))[0].status is status


@pytest.fixture
def daemon() -> Daemon:
    return Daemon()


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `manifest.paths` names, relative to the working directory, with one file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRASP_LANDING", raising=False)
    monkeypatch.setenv("GRASP_CONFIG", str(tmp_path / "run.yaml"))
    configure(tmp_path, "corpus/*.jsonl")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"text": "a"}\n')
    return tmp_path / "corpus"


def configure(folder: Path, *paths: str) -> None:
    content = {"ops": {"manifest": {"config": {"paths": list(paths)}}}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content))


def test_every_change_is_a_run_also_one_back_to_an_earlier_state(daemon: Daemon, corpus: Path) -> None:
    daemon.ends(daemon.launched())
    assert "nothing has changed since" in str(daemon.tick())
    (corpus / "b.jsonl").write_text('{"text": "b"}\n')
    daemon.ends(daemon.launched())
    (corpus / "b.jsonl").unlink()
    daemon.ends(daemon.launched())
    assert "nothing has changed since" in str(daemon.tick())
    (corpus / "b.jsonl").write_text('{"text": "b"}\n')
    daemon.ends(daemon.launched())


def test_files_that_still_grow_are_waited_for(daemon: Daemon, corpus: Path) -> None:
    for size in range(1, 4):
        (corpus / "a.jsonl").write_text('{"text": "a"}\n' * size)
        assert "waiting until they rest" in str(daemon.tick())
    assert isinstance(daemon.tick(), DagsterRun)


def test_no_second_run_starts_beside_the_first(daemon: Daemon, corpus: Path) -> None:
    run = daemon.launched()
    assert f"run {run.run_id} is still at it" in str(daemon.tick())
    (corpus / "b.jsonl").write_text('{"text": "b"}\n')
    daemon.tick()
    assert f"run {run.run_id} is still at it" in str(daemon.tick())
    daemon.ends(run)
    assert isinstance(daemon.tick(), DagsterRun)


def test_a_repeated_tick_asks_for_the_same_run(daemon: Daemon, corpus: Path) -> None:
    """The daemon may stop between asking the sensor and keeping its cursor."""
    daemon.tick()
    context = dg.build_sensor_context(
        daemon.instance, cursor=daemon.cursor, repository_def=defs.get_repository_def()
    )
    keys = [landing_folder.evaluate_tick(context).run_requests[0].run_key for _ in range(2)]  # type: ignore[index]
    assert keys[0] == keys[1]


def test_a_failed_run_is_tried_again_and_not_for_ever(daemon: Daemon, corpus: Path) -> None:
    daemon.ends(daemon.launched(), Status.FAILURE)
    for _ in range(TRIES - 1):
        run = daemon.tick()
        assert isinstance(run, DagsterRun)
        daemon.ends(run, Status.FAILURE)
    assert f"{TRIES} runs failed on these files" in str(daemon.tick())
    (corpus / "a.jsonl").write_text('{"text": "mended"}\n')
    daemon.ends(daemon.launched())
    assert "nothing has changed since" in str(daemon.tick())


def test_a_canceled_run_is_left_to_who_canceled_it(daemon: Daemon, corpus: Path) -> None:
    daemon.ends(daemon.launched(), Status.CANCELED)
    assert "was canceled; launch recurate by hand" in str(daemon.tick())


def test_a_run_that_found_nothing_to_do_was_not_canceled(daemon: Daemon, corpus: Path) -> None:
    run = daemon.launched()
    daemon.instance.add_run_tags(run.run_id, {RESULT_TAG: NOTHING})
    daemon.ends(run)
    (ended,) = daemon.instance.get_runs()
    assert end_as_skip(daemon.instance, ended)
    assert "nothing has changed since" in str(daemon.tick())


def test_a_lost_cursor_launches_nothing_again(daemon: Daemon, corpus: Path) -> None:
    daemon.ends(daemon.launched())
    daemon.cursor = None
    daemon.tick()
    assert "nothing has changed since" in str(daemon.tick())


def test_only_files_of_the_corpus_are_watched(daemon: Daemon, corpus: Path) -> None:
    daemon.ends(daemon.launched())
    (corpus / "notes.md").write_text("not in manifest.paths")
    (corpus / ".b.jsonl.part").write_text("hidden while it is copied")
    (corpus.parent / "data" / "landing").mkdir(parents=True)
    (corpus.parent / "data" / "landing" / "c.jsonl").write_text('{"text": "c"}\n')
    assert "nothing has changed since" in str(daemon.tick())


def test_what_cannot_be_watched_is_said(daemon: Daemon, corpus: Path) -> None:
    configure(corpus.parent, "corpus/*.jsonl", "s3://bucket/more/*.parquet")
    daemon.ends(daemon.launched())
    assert "s3://bucket/more/*.parquet cannot be watched" in str(daemon.tick())
    configure(corpus.parent, "s3://bucket/more/*.parquet", "hf://some/set")
    assert "names no local files to watch" in str(daemon.tick())
    configure(corpus.parent, "corpus/*.parquet")
    assert "matches no file" in str(daemon.tick())


def test_a_landing_folder_must_lie_in_the_corpus(
    daemon: Daemon, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = corpus.parent / "landing"
    landing.mkdir()
    monkeypatch.setenv("GRASP_LANDING", "landing")
    assert "holds no file to read" in str(daemon.tick())
    (landing / "new.jsonl").write_text('{"text": "new"}\n')
    with pytest.raises(ConfigError, match=r"does not find .*new\.jsonl; add the folder to manifest\.paths"):
        daemon.tick()
    configure(corpus.parent, "corpus/*.jsonl", "landing")
    daemon.ends(daemon.launched())
    (corpus / "a.jsonl").write_text('{"text": "elsewhere"}\n')
    assert "nothing has changed since" in str(daemon.tick())
    os.utime(landing / "new.jsonl", (1, 1))
    daemon.ends(daemon.launched())


def test_a_changed_configuration_or_code_is_a_state_of_its_own(
    daemon: Daemon, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from assets.stages import STAGES

    daemon.ends(daemon.launched())
    content = yaml.safe_load((corpus.parent / "run.yaml").read_text())
    content["ops"]["finalists"] = {"config": {"random_draws": 7}}
    (corpus.parent / "run.yaml").write_text(yaml.safe_dump(content))
    daemon.ends(daemon.launched())
    content["ops"]["finalists"] = {"config": {"random_draws": 7, "shortlist": 5}}
    shortlist = STAGES["finalists"].section.model_fields["shortlist"].default  # type: ignore[union-attr]
    content["ops"]["finalists"]["config"]["shortlist"] = shortlist
    (corpus.parent / "run.yaml").write_text(yaml.safe_dump(content))
    assert "nothing has changed since" in str(daemon.tick()), "a default written out is no change"
    monkeypatch.setitem(STAGES, "documents", replace(STAGES["documents"], code_version="next"))
    daemon.ends(daemon.launched())


def test_stores_on_one_instance_keep_their_histories_apart(
    daemon: Daemon, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRASP_STORE", "one")
    first = daemon.launched()
    other = Daemon(daemon.instance)
    monkeypatch.setenv("GRASP_STORE", "two")
    second = other.launched()
    assert (first.tags[STORE_TAG], second.tags[STORE_TAG]) == tuple(
        str(corpus.parent / name) for name in ("one", "two")
    )
    other.ends(second)
    assert "nothing has changed since" in str(other.tick())
    monkeypatch.setenv("GRASP_STORE", "one")
    assert f"run {first.run_id} is still at it" in str(daemon.tick())
    daemon.ends(first, Status.FAILURE)
    assert isinstance(daemon.tick(), DagsterRun)


class TestSchedule:
    @pytest.fixture
    def daemon(self, home: Path) -> Daemon:
        """A schedule wants an instance that is stored; the runs of other tests are of other stores."""
        return Daemon(dg.DagsterInstance.get())

    def ticked(self, daemon: Daemon) -> dg.RunRequest | str:
        told = weekly_recuration.evaluate_tick(dg.build_schedule_context(daemon.instance))
        return told.run_requests[0] if told.run_requests else str(told.skip_message)

    def test_it_launches_once_for_a_state_and_counts_the_sensors_runs(
        self, daemon: Daemon, corpus: Path
    ) -> None:
        asked = self.ticked(daemon)
        assert isinstance(asked, dg.RunRequest)
        assert asked.run_key is not None
        assert asked.run_key == self.ticked(daemon).run_key  # type: ignore[union-attr]
        run = daemon.launched()
        assert f"run {run.run_id} is still at it" in self.ticked(daemon)
        daemon.ends(run)
        assert f"nothing has changed since run {run.run_id}" in self.ticked(daemon)
        (corpus / "b.jsonl").write_text('{"text": "b"}\n')
        later = self.ticked(daemon)
        assert isinstance(later, dg.RunRequest)
        assert later.run_key != asked.run_key

    def test_what_cannot_be_told_before_the_run_is_launched(self, daemon: Daemon, corpus: Path) -> None:
        daemon.ends(daemon.launched())
        configure(corpus.parent, "corpus/*.jsonl", "hf://some/set")
        assert isinstance(self.ticked(daemon), dg.RunRequest)
