"""What one whole run of `curate` leaves: tables, commits, checks, files, the report and Dagster's metadata."""

from __future__ import annotations

import hashlib
import html
import io
import json
import re

import numpy as np
import polars as pl
import pytest
import zstandard
from deltalake import DeltaTable
from workplace import ARRIVALS, Curated, Workplace, event_log, materialized, steps_up_to_date

from assets.methods import OWN_NAMES
from assets.partitions import SHARDS
from grasp_pipeline import tables
from grasp_pipeline.attribution.methods.registry import baselines
from grasp_pipeline.sketch.storage import decode

CONTRACT: dict[str, tuple[str, str, str]] = {
    "documents": ("doc_id", "doc_id text source shard n_bytes origin", "shard"),
    "rejected_documents": ("doc_id stage", "reason detail duplicate_of source shard", "shard"),
    "tokenized_shards": ("chunk_id", "chunk_id doc_id position input_ids n_tokens source shard", "shard"),
    "tasks": ("task split chunk_id", "fold document input_ids n_tokens", "task"),
    "proxy_checkpoints": ("checkpoint_id", "path sha256 tokens_seen train_loss model_config", ""),
    "gradient_sketches": (
        "sketch_kind chunk_id",
        "sketch d loss norm n_tokens shard",
        "sketch_kind shard",
    ),
    "task_sketches": ("sketch_kind task split", "sketch d n_tokens signal_to_noise", ""),
    "subsets": ("subset_id", "split stratum n_chunks n_tokens seed membership", "split"),
    "subset_utilities": ("subset_id task seed", "utility tokens checkpoint_id seconds", "split"),
    "surrogates": ("config_id", "rank_correlation lower_bound paired_lower_bound cost_seconds rank", ""),
    "selected_config": ("config_id", "candidates_version reason", ""),
    "pruned_corpus": ("chunk_id", "doc_id kept_tokens marginal_value order source shard", "shard"),
    "drop_reasons": ("chunk_id", "reason margin nearest_kept shard", "shard"),
    "residual_filter": ("config_id", "q tau d sketch_kind improvement lower_bound", ""),
    "fidelity": (
        "method form stratum task",
        "rank_correlation ci_low ci_high paired_gain paired_ci_low paired_ci_high n_subsets noise_ceiling",
        "corpus",
    ),
    "curations": ("curation", "time run_id configuration inputs versions arm certificate", ""),
    "certificates": ("arm baseline task", "tokens improvement lower_bound seeds", ""),
}
"""Section 4 of the design: key, columns at least, partition columns. A task has a query and a judge sketch."""

WRITTEN = {name: table for name, table in tables.ALL.items() if name not in ARRIVALS}
"""Tables that curate writes."""

COMMIT_KEYS = ("run_id", "asset_key", "code_version", "config_digest", "upstream")
REASONS = {"low_alignment", "redundant", "quota", "duplicate", "noise"}


def pieces_of_text(place: Workplace) -> list[str]:
    """Return pieces of the documents that are too long to be in a log by chance."""
    texts = [*place.read(tables.DOCUMENTS)["text"], *place.read(tables.TASK_DOCUMENTS)["text"]]
    return [text[start : start + 30] for text in texts for start in (0, len(text) // 2)]


class TestTables:
    @pytest.mark.parametrize("name", CONTRACT)
    def test_the_contract_is_kept(self, curated: Curated, name: str) -> None:
        key, columns, partitions = (part.split() for part in CONTRACT[name])
        frame = pl.read_delta(str(curated.place.store / name))
        assert frame.height > 0
        assert {*key, *columns, *partitions} <= set(frame.columns)
        assert not frame.select(key).is_duplicated().any()
        assert DeltaTable(str(curated.place.store / name)).metadata().partition_columns == partitions

    @pytest.mark.parametrize("table", WRITTEN.values(), ids=WRITTEN)
    def test_every_declared_table_is_as_declared(self, curated: Curated, table: tables.Table) -> None:
        frame = curated.place.read(table)
        assert dict(frame.schema) == table.schema
        assert not frame.select(table.key).is_duplicated().any()
        stored = DeltaTable(curated.place.delta.uri(table)).metadata()
        assert tuple(stored.partition_columns) == table.partition_by

    def test_every_commit_says_what_it_was_made_from(self, curated: Curated) -> None:
        logs = {
            name: {entry["version"]: entry for entry in DeltaTable(str(curated.place.store / name)).history()}
            for name in WRITTEN
        }
        for name, log in logs.items():
            for version, entry in log.items():
                for key in COMMIT_KEYS:
                    assert key in entry, f"{name} version {version} has no {key}"
                assert entry["run_id"] == curated.result.run_id
                assert entry["code_version"]
                for upstream, read in json.loads(entry["upstream"]).items():
                    assert read in logs[upstream], f"{name} version {version} read {upstream} {read}"
        roots = {"manifest", "task_documents"}
        assert all(json.loads(logs[name][1]["upstream"]) for name in logs.keys() - roots)

    def test_every_row_of_the_input_is_a_document_or_rejected(self, curated: Curated) -> None:
        place = curated.place
        rows = {
            f"{path.relative_to(place.folder)}#{row} ({key})": source
            for path in sorted(place.corpus.iterdir())
            for row, (key, source) in enumerate(
                pl.read_parquet(path).select("key", "origin_name").iter_rows()
            )
        }
        columns = ("origin", "source")
        found = [
            *place.read(tables.DOCUMENTS).select(columns).iter_rows(),
            *place.read(tables.REJECTED_DOCUMENTS).select(columns).iter_rows(),
        ]
        assert len(found) == len(rows)
        assert dict(found) == rows
        assert place.read(tables.REJECTED_DOCUMENTS).filter(reason="exact_duplicate").height >= 6

    def test_kept_and_dropped_chunks_are_all_chunks(self, curated: Curated) -> None:
        place = curated.place
        chunks = place.read(tables.TOKENIZED_SHARDS)
        kept = place.read(tables.PRUNED_CORPUS)
        dropped = place.read(tables.DROP_REASONS)
        assert sorted([*kept["chunk_id"], *dropped["chunk_id"]]) == sorted(chunks["chunk_id"])
        assert 0 < kept["kept_tokens"].sum() <= chunks["n_tokens"].sum() * 0.25
        assert kept["order"].sort().to_list() == list(range(kept.height))
        assert set(dropped["reason"]) <= REASONS
        nearest = dropped.filter(pl.col("nearest_kept").is_not_null())["nearest_kept"]
        assert set(nearest) <= set(kept["chunk_id"])
        assert dropped["nearest_kept"].null_count() == 0
        assert dropped["similarity"].is_between(-1, 1).all()

    def test_every_decision_is_explained(self, curated: Curated) -> None:
        place = curated.place
        kept, dropped = place.read(tables.PRUNED_CORPUS), place.read(tables.DROP_REASONS)
        named = set(place.read(tables.TASK_SKETCHES)["task"]) - {"mean"}
        assert set(kept["top_task"]) <= named
        assert kept["top_task_value"].is_finite().all()
        assert set(dropped["strongest_task"]) | set(dropped["weakest_task"]) <= named
        assert (dropped["strongest_value"] >= dropped["weakest_value"]).all()
        low = dropped.filter(reason="low_alignment")
        assert low.height > 0
        assert low["threshold"].n_unique() == 1
        assert (low["value"] < low["threshold"]).all()
        judged = dropped.filter(pl.col("value").is_not_null())
        assert judged["margin"].to_list() == pytest.approx((judged["value"] - judged["threshold"]).to_list())
        assert (dropped["quota"].is_not_null() == (dropped["reason"] == "quota")).all()

    @pytest.mark.parametrize("arm", ["surrogate-0.7", "dsir"])
    def test_a_value_is_the_mean_of_the_tasks_values(self, copied: Workplace, arm: str) -> None:
        """The target is the mean over two tasks, so alignment lies halfway between them, but for refitted arms."""
        copied.ship(arm)
        dropped = copied.read(tables.DROP_REASONS)
        assert copied.read(tables.TASKS)["task"].n_unique() == 2
        middle = (dropped["strongest_value"] + dropped["weakest_value"]) / 2
        assert dropped["alignment"].to_list() == pytest.approx(middle.to_list(), rel=1e-3, abs=1e-5)

    def test_the_filter_can_be_applied_elsewhere(self, curated: Curated) -> None:
        place = curated.place
        (row,) = place.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
        (checkpoint,) = (
            place.read(tables.PROXY_CHECKPOINTS)
            .filter(checkpoint_id=row["checkpoint_id"])
            .iter_rows(named=True)
        )
        (tokenizer,) = place.read(tables.TOKENIZER).iter_rows(named=True)
        assert row["checkpoint_sha256"] == checkpoint["sha256"]
        weights = place.store / row["checkpoint_path"] / "model.safetensors"
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == row["checkpoint_sha256"]
        assert (place.store / row["tokenizer_path"] / "tokenizer.json").is_file()
        assert row["tokenizer_id"] == tokenizer["tokenizer_id"]
        assert "seed" in json.loads(row["sketch_config"])
        assert (row["ngram_table"] is not None) == (row["filter_kind"] in ("ngram_table", "blend"))
        assert (row["tuned_sha256"] is not None) == (row["filter_kind"] in ("conditional", "blend"))
        assert (row["q"] is not None) == (row["filter_kind"] in ("direction", "blend"))
        if row["q"] is not None:
            assert len(row["q"]) == 4 * row["d"]
            assert row["d"] == row["sketch_d"] + (row["ngram_d"] or 0)
            assert (row["ngram_idf"] is not None) == (row["features"] == "gradient+ngrams")
            assert len(row["view_factors"]) == (2 if row["ngram_idf"] else 1)

    def test_sketches_are_two_bytes_a_value_and_finite(self, curated: Curated) -> None:
        sketches = curated.place.read(tables.GRADIENT_SKETCHES)
        chunks = curated.place.read(tables.TOKENIZED_SHARDS)
        assert set(sketches["sketch_kind"]) == {"output", "full"}
        assert (sketches["sketch"].bin.size() == 2 * sketches["d"]).all()
        for kind, d in (("output", 64), ("full", 64)):
            part = sketches.filter(sketch_kind=kind)
            assert sorted(part["chunk_id"]) == sorted(chunks["chunk_id"])
            values = decode(part["sketch"], d, part["scale"][0])
            assert np.isfinite(values).all()
            assert np.linalg.norm(values, axis=1) == pytest.approx(part["norm"].to_numpy(), rel=0.01)

    def test_the_evaluation_subsets_stayed_sealed(self, curated: Curated) -> None:
        delta = curated.place.delta
        choice = delta.latest(tables.SELECTED_CONFIG)
        assert choice is not None
        commits = delta.commits(tables.SUBSET_UTILITIES)
        opened = [commit for commit in commits if commit.partition == {"split": "evaluation"}]
        before = [commit for commit in commits if commit.partition == {"split": "calibration"}]
        assert opened
        assert before
        assert max(commit.timestamp for commit in before) <= choice.timestamp
        for commit in opened:
            assert commit.timestamp >= choice.timestamp
            assert commit.reads["selected_config"] == choice.version
        splits = curated.place.read(tables.SUBSETS)
        assert splits.filter(split="calibration").height == splits.filter(split="evaluation").height == 8

    def test_every_recorded_read_of_a_table_with_a_sealed_split_names_its_split(
        self, curated: Curated
    ) -> None:
        delta, named = curated.place.delta, set()
        for table in tables.ALL.values():
            for commit in delta.commits(table):
                for label in commit.reads:
                    source, _, rows = label.partition("/")
                    if source in tables.BY_SPLIT:
                        assert rows.startswith("split="), f"{table.name} read {label}"
                        named.add((table.name, label))
        assert {reader for reader, label in named if label == "tasks/split=evaluation"} == {
            "subset_utilities",
            "fidelity",
            "document_losses",
            "evaluation_losses",
        }
        assert {reader for reader, label in named if label == "tasks/split=judge"} == {
            "task_sketches",
            "conditional_losses",
            "finalists",
            "subsets",  # the finalists' own, written by the same step
        }


class TestFidelity:
    def test_every_baseline_that_the_pipeline_has_the_inputs_of_is_in_the_table(
        self, curated: Curated
    ) -> None:
        frame = curated.place.read(tables.FIDELITY)
        found = set(frame.select("method", "form").unique().iter_rows())
        lacking = {
            "TracIn",
            "LoGRA influence",
            "second-order group influence",
        }
        expected = {
            (OWN_NAMES.get(name, name), form)
            for name, each in baselines().items()
            for form in each.forms
            if name not in lacking
        }
        untuned = {("quadratic-only", "mean")} | {("damped influence", form) for form in ("mean", "sum")}
        surrogate = {method for method in found if method[0] == "surrogate"}
        assert len(surrogate) == 1
        assert found == expected | untuned | surrogate
        assert set(materialized(curated.result, "fidelity")["methods_left_out"]) == lacking


class TestChecks:
    def test_all_pass_but_the_certificate_may_warn(self, curated: Curated) -> None:
        evaluations = {check.check_name: check for check in curated.result.get_asset_check_evaluations()}
        assert set(evaluations) == {
            "no_document_lost",
            "document_ids_hold",
            "no_text_lost",
            "sketches_complete",
            "evaluation_sealed",
            "evaluation_read_after_choice",
            "certificate_above_zero",
            "corpus_accounted_for",
            "reasons_can_be_followed",
            "filter_stands_for_the_corpus",
        }
        for name in ("certificate_above_zero", "filter_stands_for_the_corpus"):
            may_warn = evaluations.pop(name)
            assert may_warn.passed or may_warn.severity.value == "WARN"
        assert [name for name, check in evaluations.items() if not check.passed] == []


class TestFiles:
    def test_the_manifest_of_the_export_has_the_digests(self, curated: Curated) -> None:
        folder = curated.place.store / "export"
        manifest = json.loads((folder / "manifest.json").read_text())
        assert set(manifest["files"]) == {"corpus.parquet", "corpus.jsonl.zst", "README.md", "curation.yaml"}
        for name, about in manifest["files"].items():
            data = (folder / name).read_bytes()
            assert len(data) == about["bytes"]
            assert hashlib.sha256(data).hexdigest() == about["sha256"]
        pruned = curated.place.delta.latest(tables.PRUNED_CORPUS)
        assert pruned is not None
        assert manifest["upstream"]["pruned_corpus"] == pruned.version
        assert manifest["tokens"] == curated.place.read(tables.PRUNED_CORPUS)["kept_tokens"].sum()
        assert manifest["left_out"] == {"rows": 0, "tokens": 0}

    def test_the_exported_text_is_the_kept_spans(self, curated: Curated) -> None:
        place = curated.place
        texts = dict(place.read(tables.DOCUMENTS).select("doc_id", "text").iter_rows())
        kept = set(place.read(tables.PRUNED_CORPUS)["chunk_id"])
        chunks = place.read(tables.TOKENIZED_SHARDS).sort("doc_id", "position")
        expected: dict[str, str] = {}
        for chunk, doc_id, start, end in chunks.select("chunk_id", "doc_id", "start", "end").iter_rows():
            if chunk in kept:
                expected[doc_id] = expected.get(doc_id, "") + texts[doc_id][start:end]
        parquet = pl.read_parquet(place.store / "export" / "corpus.parquet")
        with zstandard.open(place.store / "export" / "corpus.jsonl.zst", "rb") as file:
            lines = pl.read_ndjson(io.BytesIO(file.read()))
        for exported in (parquet, lines):
            joined = exported.sort("doc_id", "part").group_by("doc_id").agg(pl.col("text").str.join())
            assert dict(joined.iter_rows()) == expected

    def test_the_report_holds_the_statement_and_texts_as_samples_alone(self, curated: Curated) -> None:
        page = (curated.place.store / "report" / "report.html").read_text(encoding="utf-8")
        visible = " ".join(html.unescape(re.sub("<[^>]*>", "", page)).split())
        (statement,) = curated.place.read(tables.CERTIFICATES).filter(task="mean", baseline="random")[
            "statement"
        ]
        assert " ".join(statement.split()) in visible
        pieces = pieces_of_text(curated.place)
        assert any(piece in visible for piece in pieces)
        (data,) = re.findall('id="explore-data">(.*?)</script>', page, re.DOTALL)
        samples = json.loads(data)["samples"]
        assert {row["outcome"] for row in samples} == {"kept", "dropped", "rejected"}
        apart = " ".join(html.unescape(re.sub("<[^>]*>", "", page.replace(data, ""))).split())
        assert [piece for piece in pieces if piece in apart] == []

    def test_no_scratch_folder_is_left(self, curated: Curated) -> None:
        assert list(curated.place.store.rglob(".new-*")) == []


class TestEventLog:
    @pytest.mark.parametrize("table", WRITTEN.values(), ids=WRITTEN)
    def test_a_materialization_says_what_was_written(self, curated: Curated, table: tables.Table) -> None:
        metadata = materialized(curated.result, table.name)
        commit = curated.place.delta.latest(table)
        assert commit is not None
        written = curated.place.delta.read(table, metadata["delta_version"]).collect()
        assert metadata["dagster/row_count"] == written.height
        assert metadata["delta_version"] <= commit.version
        assert metadata["dagster/uri"] == str(curated.place.store / table.name)
        assert [column.name for column in metadata["dagster/column_schema"].columns] == list(table.schema)
        assert metadata["seconds"] >= 0
        assert metadata["up_to_date"] is False

    @pytest.mark.parametrize("table", [tables.TOKENIZED_SHARDS, tables.GRADIENT_SKETCHES])
    def test_every_shard_has_its_own_row_count(self, curated: Curated, table: tables.Table) -> None:
        rows = dict(curated.place.read(table).group_by("shard").len().iter_rows())
        events = curated.result.asset_materializations_for_node(table.name)
        assert sorted(event.partition or "" for event in events) == SHARDS.get_partition_keys()
        for event in events:
            count = event.metadata["dagster/partition_row_count"].value
            assert count == rows.get(event.partition or "", 0)

    def test_it_holds_no_text_of_a_document(self, curated: Curated) -> None:
        log = event_log(curated.place, curated.result.run_id)
        assert len(log) > 100_000
        assert "delta_version" in log
        assert [piece for piece in pieces_of_text(curated.place) if piece in log] == []


class TestAgain:
    def test_nothing_changed_means_nothing_is_written(self, curated: Curated) -> None:
        place = curated.place
        before = place.delta_versions()
        files = {path: path.stat().st_mtime_ns for path in (place.store / "export").iterdir()}
        again = place.run()
        assert place.delta_versions() == before
        assert {path: path.stat().st_mtime_ns for path in (place.store / "export").iterdir()} == files
        up_to_date = steps_up_to_date(again)
        assert set(WRITTEN) | {"export", "report"} == set(up_to_date)
        assert [asset for asset, current in up_to_date.items() if not current] == []
