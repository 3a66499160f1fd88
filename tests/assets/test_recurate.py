"""After a first run: what a new, changed or vanished file, another setting or a killed run makes be done again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from toys import toy_texts
from workplace import ARRIVALS, CLEANED, Workplace, changed, changed_tables, steps_up_to_date

from assets.launches import NOTHING, RESULT_TAG, STATE_TAG, STORE_TAG
from grasp_pipeline import tables
from grasp_pipeline.corpus import chunk_stream
from grasp_pipeline.corpus.chunking import chunk_documents
from grasp_pipeline.corpus.clean_corpus import CleanCorpus
from grasp_pipeline.tables import Table
from resources.delta.tables import DeltaTables

FIRST, SECOND, NEW = "shard-0000", "shard-0001", "shard-0002"
KINDS = ("full", "output")
FROZEN = {
    "task_documents",
    "tokenizer",
    "tasks",
    "proxy_checkpoints",
    "sketchers",
    "task_sketches",
    "candidates",
    "subset_utilities",
    "surrogates",
    "selected_config",
    "fidelity",
    "evaluation_losses",
}
"""Tables that recurate must not touch."""
CHOSEN_AGAIN = {
    "finalists",
    "document_losses",
    "refitted_finalists",
    "certificates",
    "pruned_corpus",
    "drop_reasons",
}
"""Tables that recurate must write anew when the corpus changed."""


def new_rows(count: int, name: str = "new") -> pl.DataFrame:
    """Return rows as the toy corpus has them, from texts that it does not hold."""
    rows = [
        (f"{name}-{source}-{number}", source, text)
        for source in ("news", "code")
        for number, text in enumerate(toy_texts(source, count, name))
    ]
    return pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")


def shards_of(changes: set[tuple[str, str]], table: str) -> set[str]:
    return {partition for name, partition in changes if name == table}


class TestArrivals:
    def test_a_new_file_touches_its_own_shard_alone(self, copied: Workplace) -> None:
        new_rows(6).write_parquet(copied.corpus / "c.parquet")
        before = copied.versions()
        known = set(copied.read(tables.TOKENIZED_SHARDS)["chunk_id"])
        result = copied.run("recurate")
        after = copied.versions()
        changes = changed(before, after)

        assert shards_of(changes, "documents") == {NEW}
        assert shards_of(changes, "rejected_documents") <= {NEW}
        assert shards_of(changes, "tokenized_shards") == {NEW}
        assert shards_of(changes, "gradient_sketches") == {f"{NEW}/{kind}" for kind in KINDS}
        assert changed_tables(before, after).isdisjoint(FROZEN)
        assert changed_tables(before, after) >= CHOSEN_AGAIN
        assert shards_of(changes, "subsets") == {"finalist", "refit"}
        assert shards_of(changes, "document_losses") == {"calibration"}

        chunks = copied.read(tables.TOKENIZED_SHARDS)
        arrived = set(chunks["chunk_id"]) - known
        assert arrived == set(chunks.filter(shard=NEW)["chunk_id"])
        accounted = [
            *copied.read(tables.PRUNED_CORPUS)["chunk_id"],
            *copied.read(tables.DROP_REASONS)["chunk_id"],
        ]
        assert sorted(accounted) == sorted(chunks["chunk_id"])
        checks = result.get_asset_check_evaluations()
        assert {check.check_name for check in checks if not check.passed} <= {"certificate_above_zero"}

    def test_rows_of_shards_whose_verdicts_stay_are_not_made_again(
        self, copied: Workplace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: set[str] = set()
        rows = CleanCorpus.rows

        def watched(corpus: CleanCorpus, number: int) -> Any:
            made.add(corpus.places[number].shard)
            return rows(corpus, number)

        monkeypatch.setattr(CleanCorpus, "rows", watched)
        new_rows(6).write_parquet(copied.corpus / "c.parquet")
        copied.run(only=CLEANED)
        assert made == {NEW}
        copied.run(changes={"documents": {"perplexity_quantile": 0.9}}, only=CLEANED)
        assert made == {FIRST, SECOND, NEW}
        assert "query_perplexity" in set(copied.read(tables.REJECTED_DOCUMENTS)["reason"])

    def test_a_file_of_copies_adds_only_rejected_rows(self, copied: Workplace) -> None:
        pl.read_parquet(copied.corpus / "a.parquet").head(10).write_parquet(copied.corpus / "c.parquet")
        before = copied.versions()
        copied.run("recurate", only=CLEANED[:1] + CLEANED[2:])
        assert changed(before, copied.versions()) == {("manifest", ""), ("rejected_documents", NEW)}
        arrived = copied.read(tables.REJECTED_DOCUMENTS).filter(shard=NEW)
        assert arrived["reason"].to_list() == ["exact_duplicate"] * 10
        kept = copied.read(tables.DOCUMENTS)["doc_id"]
        rejected = copied.read(tables.REJECTED_DOCUMENTS)["doc_id"]
        assert set(arrived["duplicate_of"]) <= {*kept, *rejected}

    def test_a_longer_file_touches_its_own_shard_alone(self, copied: Workplace) -> None:
        """The perplexity rule is off: its limit is a quantile of the first files, and one of those changes."""
        off = {"documents": {"perplexity_quantile": 1.0}}
        only = ("manifest", "documents", "rejected_documents", "tokenized_shards", "gradient_sketches")
        copied.run(changes=off, only=only)
        path = copied.corpus / "b.parquet"
        pl.concat([pl.read_parquet(path), new_rows(3)]).write_parquet(path)
        before = copied.versions()
        copied.run(changes=off, only=only)
        changes = changed(before, copied.versions())
        assert shards_of(changes, "documents") == {SECOND}
        assert shards_of(changes, "tokenized_shards") == {SECOND}
        assert shards_of(changes, "gradient_sketches") == {f"{SECOND}/{kind}" for kind in KINDS}

    def test_a_vanished_file_empties_its_shard(self, copied: Workplace) -> None:
        (copied.corpus / "b.parquet").unlink()
        copied.run("recurate")
        for table in (tables.DOCUMENTS, tables.TOKENIZED_SHARDS, tables.GRADIENT_SKETCHES):
            assert set(copied.read(table)["shard"]) == {FIRST}
        chunks = copied.read(tables.TOKENIZED_SHARDS)["chunk_id"]
        kept = copied.read(tables.PRUNED_CORPUS)["chunk_id"]
        dropped = copied.read(tables.DROP_REASONS)["chunk_id"]
        assert sorted([*kept, *dropped]) == sorted(chunks)

    def test_nothing_new_writes_nothing(self, copied: Workplace) -> None:
        before = copied.delta_versions()
        result = copied.run("recurate")
        assert copied.delta_versions() == before
        up_to_date = steps_up_to_date(result)
        del up_to_date["report"]  # it names the store, which is a copy
        assert all(up_to_date.values())


class TestTokens:
    def test_tokens_of_documents_that_stay_are_read_not_made_again(
        self, copied: Workplace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[str] = []

        def watched(documents: pl.DataFrame, *rest: Any) -> pl.DataFrame:
            made.extend(documents["doc_id"])
            return chunk_documents(documents, *rest)

        monkeypatch.setattr(chunk_stream, "chunk_documents", watched)
        off = {"documents": {"perplexity_quantile": 1.0}}
        only = ("manifest", "documents", "rejected_documents", "tokenized_shards")
        copied.run(changes=off, only=only)
        before = set(copied.read(tables.DOCUMENTS)["doc_id"])
        path = copied.corpus / "b.parquet"
        pl.concat([pl.read_parquet(path).slice(2), new_rows(3)]).write_parquet(path.with_name("e.parquet"))
        path.unlink()
        made.clear()
        copied.run(changes=off, only=only)
        documents = copied.read(tables.DOCUMENTS)
        assert 0 < len(set(documents["doc_id"]) - before) == len(made)
        assert set(made) == set(documents["doc_id"]) - before
        chunks = copied.read(tables.TOKENIZED_SHARDS)
        assert chunks["doc_id"].unique().sort().equals(documents["doc_id"].sort())
        again = Workplace(copied.folder / "again", sections=copied.sections)
        shutil.copytree(copied.store, again.store, ignore=shutil.ignore_patterns("tokenized_shards"))
        again.run(only=["tokenized_shards"])
        assert len(made) == documents.height + len(set(documents["doc_id"]) - before)
        for shard in (FIRST, SECOND):
            assert again.read(tables.TOKENIZED_SHARDS).filter(shard=shard).equals(chunks.filter(shard=shard))


class TestTerminal:
    @pytest.mark.parametrize("job", ["recurate", "fidelity"])
    def test_a_job_with_nothing_to_do_says_so_and_sums_up(
        self, copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path, job: str
    ) -> None:
        """The configuration file names steps of `curate` that the job does not have."""
        # The copied report tells what each step took by another Dagster instance, so it is written anew once.
        assert copied.run_in_terminal(job=job) == 0
        capsys.readouterr()
        before = copied.delta_versions()
        assert copied.run_in_terminal(job=job) == 0
        said = " ".join(capsys.readouterr().out.split())
        table = "pruned_corpus" if job == "recurate" else "fidelity"
        assert re.search(rf"{table} is up to date at version \d+; nothing was written", said)
        assert "Nothing to do: what the job reads has not changed, and no table was written." in said
        (run,) = dg.DagsterInstance.get().get_runs(limit=1)
        assert run.tags[RESULT_TAG] == NOTHING
        assert run.status is dg.DagsterRunStatus.CANCELED, "a skip, not a success"
        assert run.tags[STORE_TAG] == str(copied.store)
        assert (STATE_TAG in run.tags) is (job == "recurate")
        (statement,) = copied.read(tables.CERTIFICATES).filter(task="mean", baseline="random")["statement"]
        assert statement.split(" nats per token")[0].split(" beats ")[-1] in said
        assert "report/report.html" in said.replace(" ", "")
        assert copied.delta_versions() == before


class TestOneShard:
    def test_a_shard_alone_is_tokenized_and_sketched(self, copied: Workplace) -> None:
        new_rows(4).write_parquet(copied.corpus / "c.parquet")
        new_rows(4, "newer").write_parquet(copied.corpus / "d.parquet")
        copied.run(only=CLEANED)
        for asset, written in (
            ("tokenized_shards", {NEW}),
            ("gradient_sketches", {f"{NEW}/{kind}" for kind in KINDS}),
        ):
            before = copied.versions()
            copied.run(only=[asset], shard=NEW)
            assert changed(before, copied.versions()) == {(asset, partition) for partition in written}
            before = copied.versions()
            result = copied.run(only=[asset], shard=NEW)
            assert changed(before, copied.versions()) == set()
            assert steps_up_to_date(result) == {asset: True}

    def test_a_shard_whose_text_changed_must_be_tokenized_before_the_corpus_is_read(
        self, copied: Workplace
    ) -> None:
        new_rows(4).write_parquet(copied.corpus / "b.parquet")
        copied.run(only=CLEANED)
        result = copied.run(only=["finalists"], fails=True)
        (failure,) = [event for event in result.all_events if event.is_step_failure]
        assert f"the shards {SECOND} of tokenized_shards are older than their documents" in str(
            failure.step_failure_data.error
        )


class TestSettings:
    def redone(self, place: Workplace, changes: Mapping[str, Mapping[str, Any]], **more: Any) -> set[str]:
        before = place.versions()
        place.run(changes=changes, **more)
        return changed_tables(before, place.versions())

    @pytest.mark.slow
    def test_a_lower_budget_redoes_what_is_selected(self, copied: Workplace) -> None:
        redone = self.redone(copied, {"candidates": {"budget_fraction": 0.2}})
        untouched = {
            "manifest",
            "documents",
            "rejected_documents",
            "task_documents",
            "tokenizer",
            "tokenized_shards",
            "tasks",
            "proxy_checkpoints",
            "sketchers",
            "gradient_sketches",
            "task_sketches",
            "conditional_losses",
        }
        # Written where a refit was made before or is made now.
        redone.add("refitted_finalists")
        assert redone == set(tables.ALL) - untouched - ARRIVALS
        chunks = copied.read(tables.TOKENIZED_SHARDS)["n_tokens"].sum()
        assert 5 * int(copied.read(tables.PRUNED_CORPUS)["kept_tokens"].sum()) <= int(chunks)

    def test_other_lambdas_redo_the_protocol(self, copied: Workplace) -> None:
        only = ["candidates", "subsets", "subset_utilities", "surrogates", "selected_config"]
        redone = self.redone(copied, {"candidates": {"lambdas": [0.0, 1.0]}}, only=[*CLEANED, *only])
        assert redone == set(only)
        assert set(copied.read(tables.SURROGATES)["lam"]) == {0.0, 1.0}

    def test_another_vocabulary_redoes_every_shard(self, copied: Workplace) -> None:
        only = ["tokenizer", "tokenized_shards", "tasks"]
        before = copied.versions()
        copied.run(changes={"tokenizer": {"vocab_size": 320}}, only=only)
        assert changed(before, copied.versions()) == {
            ("tokenizer", ""),
            ("tokenized_shards", FIRST),
            ("tokenized_shards", SECOND),
            ("tasks", ""),
        }

    def test_another_source_column_is_taken_although_the_manifest_stays(self, copied: Workplace) -> None:
        before = copied.read(tables.MANIFEST)
        copied.run(changes={"manifest": {"source_column": "key"}}, only=CLEANED)
        assert copied.read(tables.MANIFEST).equals(before)
        documents = copied.read(tables.DOCUMENTS)
        assert documents["source"].n_unique() == documents.height

    def test_an_uncertified_corpus_is_published_once_that_is_allowed(
        self, copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path
    ) -> None:
        sure = {"finalists": {"confidence": 1 - 1e-12, "allow_uncertified": False}}
        before, kept = copied.versions(), copied.read(tables.PRUNED_CORPUS).sort("chunk_id")
        assert copied.run_in_terminal(sure) == 1
        said = " ".join(capsys.readouterr().out.split())
        assert re.search("certificate_above_zero of certificates failed: .* nothing can be certified", said)
        assert "set finalists.allow_uncertified to publish all the same" in said
        assert "Traceback" not in said
        published = {"pruned_corpus", "drop_reasons", "residual_filter"}
        assert changed_tables(before, copied.versions()).isdisjoint(published)

        sure["finalists"]["allow_uncertified"] = True
        assert copied.run_in_terminal(sure) == 0
        assert "certificate_above_zero of certificates warns" in " ".join(capsys.readouterr().out.split())
        assert copied.read(tables.CERTIFICATES)["certified"].any() is False
        assert set(copied.read(tables.CERTIFICATES)["confidence"]) == {1 - 1e-12}
        assert changed_tables(before, copied.versions()) & published == published, "another curation"
        again = copied.read(tables.PRUNED_CORPUS).sort("chunk_id")
        assert again.drop("curation").equals(kept.drop("curation")), "same corpus"
        assert (set(kept["curation"]), set(again["curation"])) == ({1}, {2})


class TestKilledRun:
    @pytest.mark.parametrize("table", ["documents", "rejected_documents"])
    def test_a_run_killed_between_two_shards_is_finished_by_the_next(
        self, copied: Workplace, monkeypatch: pytest.MonkeyPatch, table: str
    ) -> None:
        """Fewer characters allowed: both shards of both tables change, and the second is not written."""
        changes = {"documents": {"min_characters": 500}}
        write = DeltaTables.write_stream

        def dies(delta: DeltaTables, of: Table, *given: Any, **more: Any) -> Any:
            if of.name == table and given[2] == {"shard": SECOND}:
                raise KeyboardInterrupt
            return write(delta, of, *given, **more)

        with monkeypatch.context() as patch:
            patch.setattr(DeltaTables, "write_stream", dies)
            with pytest.raises(KeyboardInterrupt):
                copied.run(changes=changes, only=CLEANED)
        before = copied.versions()
        copied.run(changes=changes, only=CLEANED)
        assert (table, SECOND) in changed(before, copied.versions())
        rows = copied.read(tables.MANIFEST)["n_rows"].sum()
        documents = copied.read(tables.DOCUMENTS)
        assert documents.height + copied.read(tables.REJECTED_DOCUMENTS).height == rows
        assert (documents["text"].str.len_chars() >= 500).all()
