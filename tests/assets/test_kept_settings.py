"""What a job keeps and what a file asks of it: refused by name, whatever launched the job."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from workplace import Workplace

from assets import terminal
from assets.jobs import STEPS, recurate_tags
from assets.settings import KEPT, LAST, RECURATED, kept_settings, told_values
from assets.stages import sections
from assets.turns import LOCKS
from grasp_pipeline import tables
from grasp_pipeline.config import InputConfig
from grasp_pipeline.definitions import defs
from resources.delta.commits import Provenance
from resources.turns import turns


def refused(place: Workplace, capsys: pytest.CaptureFixture[str], job: str, changes: Any) -> str:
    """Run a job in the terminal, which must be refused before any step has worked; returns what it said."""
    before = place.delta_versions()
    assert place.run_in_terminal(changes, job) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert place.delta_versions() == before
    assert "Traceback" not in said
    return said


def test_recurate_runs_the_steps_that_it_says() -> None:
    ran = {node.name for node in defs.resolve_job_def("recurate").graph.nodes}
    assert set(STEPS) == ran & set(sections())
    assert set(RECURATED) == set(STEPS) - set(LAST)


@pytest.mark.parametrize(
    ("job", "changes", "sentence"),
    [
        (
            "recurate",
            {"candidates": {"budget_fraction": 0.1, "target": "news"}},
            r'candidates\.budget_fraction is 0\.1, stored 0\.25; candidates\.target is "news", stored "mean"\. '
            "Run the job curate",
        ),
        (
            "recurate",
            {"tokenizer": {"chunk_tokens": 32}},
            r"tokenizer\.chunk_tokens is 32, stored 16\. Run the job cur",
        ),
        ("recurate", {"proxy_checkpoints": {"preset": "small"}}, r'preset is "small", stored "tiny"'),
        ("recurate", {"tasks": {"max_chunks_per_document": 2}}, r"max_chunks_per_document is 2, stored 1"),
        (
            "fidelity",
            {"finalists": {"constraints": {"source_caps": {"news": 0.5}}}},
            r'finalists\.constraints\.source_caps is {"news": 0\.5}, stored {}\. Run the job recurate',
        ),
    ],
    ids=["budget-and-target", "chunk-length", "proxy", "tasks", "fidelity"],
)
def test_a_job_refuses_what_it_would_ignore(
    copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path, job: str, changes: Any, sentence: str
) -> None:
    said = refused(copied, capsys, job, changes)
    assert re.search(rf"The job {job} keeps what the store was made with .*{sentence}", said), said
    assert said.count("keeps what the store was made with") == 1, "told once"


def test_a_store_that_kept_no_values_tells_the_digests(
    copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    for log in (copied.store / "candidates" / "_delta_log").glob("*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            action.get("commitInfo", {}).pop("settings", None)
        log.write_text("\n".join(json.dumps(action) for action in actions) + "\n")
    said = refused(copied, capsys, "recurate", {"candidates": {"budget_fraction": 0.1}})
    assert re.search(
        r"settings of candidates are not those that it was stored with \(digest [0-9a-f]{12}, stored [0-9a-f]{12}",
        said,
    )


def test_schedule_and_sensor_carry_what_the_file_says(
    copied: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied.folder / "file.yaml"
    path.write_text(yaml.safe_dump(copied.run_config({"candidates": {"budget_fraction": 0.1}})))
    monkeypatch.setenv("GRASP_CONFIG", str(path))
    tags = recurate_tags()
    assert json.loads(tags[KEPT])["candidates"]["values"]["budget_fraction"] == 0.1
    config = copied.run_config(job="recurate")
    monkeypatch.chdir(copied.folder)
    result = defs.resolve_job_def("recurate").execute_in_process(
        run_config=config, instance=copied.instance, tags=tags, raise_on_error=False
    )
    failures = [event for event in result.all_events if event.is_step_failure]
    assert failures
    assert "budget_fraction is 0.1, stored 0.25" in str(failures[0].step_failure_data.error)


def test_settings_that_change_no_row_are_noted_without_a_new_version_for_readers(copied: Workplace) -> None:
    """The same tasks come of another minimum: nothing is stale, and recurate does not refuse what is now asked."""
    before = copied.versions()
    copied.run(changes={"task_documents": {"min_documents": 5}}, only=["task_documents"])
    assert copied.versions() == before
    stored = copied.delta.settings(tables.TASK_DOCUMENTS, "task_documents")
    assert stored is not None
    assert stored.values is not None
    assert stored.values["min_documents"] == 5
    assert copied.read(tables.TASK_DOCUMENTS).height > 0


def test_fidelity_after_a_corpus_has_changed_says_what_to_do_before_it_starts(
    copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    more = pl.read_parquet(copied.corpus / "b.parquet").with_columns(body=pl.col("body") + " And so on.")
    more.write_parquet(copied.corpus / "c.parquet")
    copied.run(only=["manifest", "documents", "rejected_documents", "tokenized_shards"])
    said = refused(copied, capsys, "fidelity", None)
    assert re.search(
        r"sealed subsets were drawn from version \d+ of tokenized_shards, .* Run the job curate", said
    )


def test_no_credential_and_no_long_list_is_kept() -> None:
    section = InputConfig(paths=["s3://user:secret@bucket/x.parquet?sig=abc"])
    assert told_values(section)["paths"] == ["s3://bucket/x.parquet"]
    many = told_values(InputConfig(paths=[f"{number}.txt" for number in range(30)]))["paths"]
    assert re.fullmatch(r"30 entries, digest [0-9a-f]{12}", many)


def test_a_file_that_names_no_corpus_says_nothing_of_what_it_leaves_out() -> None:
    assert kept_settings({"filtered_shards": {"config": {"paths": ["x"]}}}, ["filtered_shards"]) == {}
    (kept,) = kept_settings({"candidates": {"config": {"target": "x"}}}, STEPS).values()
    assert set(json.loads(kept)) == {"candidates"}


def test_a_run_that_is_refused_waits_for_no_other(
    copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hear(message: str, indent: int) -> None:
        assert " waits: " not in message

    monkeypatch.setattr(terminal, "tell", hear)
    with turns(copied.store / LOCKS, ["manifest"], "another run", lambda _: None):
        said = refused(copied, capsys, "recurate", {"candidates": {"budget_fraction": 0.1}})
    assert "candidates.budget_fraction is 0.1, stored 0.25. Run the job curate" in said


def test_what_changes_while_a_run_waits_is_asked_again(
    copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run makes the sketches' protocol under another budget, and then leaves the step."""
    made = Provenance("run", "candidates", "1", "digest", settings=json.dumps({"budget_fraction": 0.1}))
    with ExitStack() as other:
        other.enter_context(turns(copied.store / LOCKS, ["manifest"], "another run", lambda _: None))

        def hear(message: str, indent: int) -> None:
            if " waits: another run " in message:
                copied.delta.keep_settings(tables.CANDIDATES, made)
                other.close()

        monkeypatch.setattr(terminal, "tell", hear)
        assert copied.run_in_terminal(job="recurate") == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "candidates.budget_fraction is 0.25, stored 0.1. Run the job curate" in said
