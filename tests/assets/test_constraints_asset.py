"""What a user may ask of the selection beside its budget, through the whole end of the pipeline."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pytest
from dagster._core.errors import DagsterUserCodeProcessError
from workplace import Workplace, materialized, steps_up_to_date

from grasp_pipeline import tables

END = ("finalists", "document_losses", "refitted_finalists", "certificates")
PUBLISHED = ("pruned_corpus", "drop_reasons", "residual_filter")


def unpacked(place: Workplace, split: str = "finalist") -> dict[str, pl.DataFrame]:
    """Return the chunks of every finalist."""
    import numpy as np

    subsets = place.read(tables.SUBSETS).filter(split=split)
    chunks = (
        place.read(tables.TOKENIZED_SHARDS)
        .join(place.read(tables.DOCUMENTS).select("doc_id", "cluster", "survivor"), on="doc_id")
        .sort("chunk_id")
    )
    members = {
        row["subset_id"]: np.unpackbits(np.frombuffer(row["membership"], np.uint8), count=chunks.height)
        for row in subsets.iter_rows(named=True)
    }
    arms = place.read(tables.FINALISTS).select("arm", "subset_id")
    return {arm: chunks.filter(pl.Series(members[subset]).cast(pl.Boolean)) for arm, subset in arms.rows()}


def finalists(**values: Any) -> dict[str, dict[str, Any]]:
    return {"finalists": {"shortlist": 2, "random_draws": 3, "allow_uncertified": True, **values}}


class TestConstraints:
    def test_every_finalist_meets_them_and_the_reasons_name_them(self, copied: Workplace) -> None:
        documents = copied.read(tables.TOKENIZED_SHARDS).select("doc_id", "source").unique().sort("doc_id")
        wanted = documents.filter(source="code")["doc_id"].to_list()
        unwanted = documents.filter(source="news")["doc_id"].to_list()
        asked = {
            "unit": "document",
            "source_caps": {"news": 0.3},
            "source_floors": {"code": 0.2},
            "must_keep": wanted[:1],
            "must_drop": unwanted[:2],
        }
        result = copied.run(only=END, changes=finalists(constraints=asked, refit=False))
        budget = materialized(result, "finalists")["budget_tokens"]
        sizes = copied.read(tables.TOKENIZED_SHARDS).group_by("doc_id").agg(size=pl.len())
        for arm, chunks in unpacked(copied).items():
            if arm == "full":
                continue
            assert chunks["n_tokens"].sum() <= budget, arm
            by_source = dict(chunks.group_by("source").agg(pl.col("n_tokens").sum()).iter_rows())
            assert by_source.get("news", 0) <= 0.3 * budget, arm
            kept = set(chunks["doc_id"])
            assert wanted[0] in kept, arm
            assert not kept & set(unwanted[:2]), arm
            counted = chunks.group_by("doc_id").agg(kept=pl.len()).join(sizes, on="doc_id")
            assert (counted["kept"] == counted["size"]).all(), arm
        frame = copied.read(tables.FINALISTS)
        assert not frame.filter(arm="full")["pickable"].item()
        assert json.loads(frame["constraints"][0])["must_keep"] == wanted[:1]
        assert "full" not in copied.read(tables.CERTIFICATES)["arm"]

        copied.run(only=PUBLISHED)
        dropped = copied.read(tables.DROP_REASONS)
        listed = dropped.filter(pl.col("doc_id").is_in(unwanted[:2]))
        assert set(listed["quota"]) == {"must_drop"}
        assert set(listed["reason"]) == {"quota"}
        names = set(dropped.filter(reason="quota")["quota"])
        assert names <= {
            "must_drop",
            "cap of source news",
            "token budget",
            "document kept or dropped as one",
        }

    def test_what_cannot_be_met_is_refused_with_a_relaxation(self, copied: Workplace) -> None:
        asked = {"source_floors": {"news": 0.7, "code": 0.7}}
        with pytest.raises(DagsterUserCodeProcessError, match=r"sum to 1\.4; lower them by 0\.4"):
            copied.run(only=["finalists"], changes=finalists(constraints=asked))
        asked = {"source_floors": {"newz": 0.2}}
        result = copied.run(only=["finalists"], changes=finalists(constraints=asked), fails=True)
        assert "did you mean 'news'?" in failure(result)
        asked = {"must_keep": ["nobody"]}
        result = copied.run(only=["finalists"], changes=finalists(constraints=asked), fails=True)
        assert "neither a document nor a chunk" in failure(result)


def failure(result: Any) -> str:
    event = next(event for event in result.all_events if event.is_failure and event.is_step_event)
    return str(event.event_specific_data.error_display_string)


def test_the_worst_task_and_weights(copied: Workplace) -> None:
    tasks = sorted(copied.read(tables.TASKS)["task"].unique())
    changes = {"candidates": {"target": "worst", "task_weights": {tasks[0]: 2.0, tasks[1]: 1.0}}}
    copied.run(changes=changes)
    certificates = copied.read(tables.CERTIFICATES)
    against = certificates.filter(baseline="random")
    worst = against.filter(task="worst").row(0, named=True)
    per_task = against.filter(pl.col("task").is_in(tasks[:2]))
    assert worst["lower_bound"] == pytest.approx(per_task["lower_bound"].min())
    assert worst["improvement"] == pytest.approx(per_task["improvement"].min())
    assert worst["statement"].startswith("The worst task by its bound is")
    assert copied.read(tables.REFITTED_FINALISTS).is_empty()
    rules = copied.read(tables.FINALISTS).filter(pl.col("features").is_not_null(), role="candidate")
    assert rules.height >= 3
    assert rules["direction"].null_count() == 0
    assert copied.read(tables.RESIDUAL_FILTER)["target"].item() == "worst"
    assert "weighted mean over tasks" in against.filter(task="mean")["statement"].item()


def test_a_limit_on_retrainings_and_a_trust_region(copied: Workplace) -> None:
    # Three random draws, four fresh runs and two refits leave room for two finalists.
    result = copied.run(only=END, changes=finalists(max_retrainings=11, trust_share=0.5))
    frame = copied.read(tables.FINALISTS)
    assert frame.filter(pl.col("shortlisted"), pl.col("role") != "random").height == 2
    assert materialized(result, "finalists")["retrainings_ahead"] == 11
    assert materialized(result, "document_losses")["models_retrained"] <= 11
    chunks = unpacked(copied)
    optimised = [chunks[arm] for arm in frame.filter(role="candidate", repeats=1)["arm"]]
    shared = set(optimised[0]["chunk_id"])
    for other in optimised[1:]:
        shared &= set(other["chunk_id"])
    budget = frame.filter(arm="random-0")["n_tokens"].item()
    tokens = copied.read(tables.TOKENIZED_SHARDS).filter(pl.col("chunk_id").is_in(shared))["n_tokens"].sum()
    assert tokens >= 0.4 * budget
    result = copied.run(only=["finalists"], changes=finalists(max_retrainings=3), fails=True)
    assert "raise it by 7" in failure(result)


def test_a_refit_is_certified_on_the_other_fold(copied: Workplace) -> None:
    before = copied.versions()
    refits = copied.read(tables.REFITTED_FINALISTS)
    assert set(refits["arm"]) <= {"surrogate-refit-0", "surrogate-refit-1"}
    for row in refits.iter_rows(named=True):
        assert row["direction"] is not None
        first, second = copied.read(tables.CERTIFICATES)["fold_picks"][0].split(",")
        assert row["arm"] != (second if row["arm"].endswith("0") else first)
    measured = copied.read(tables.DOCUMENT_LOSSES)
    assert set(refits["subset_id"]) <= set(measured["subset_id"])
    assert all(steps_up_to_date(copied.run(only=END)).values())
    assert copied.versions() == before


def test_a_budget_in_documents(copied: Workplace) -> None:
    chunks = copied.read(tables.TOKENIZED_SHARDS)
    documents = chunks["doc_id"].n_unique()
    result = copied.run(
        only=["candidates"],
        changes={"candidates": {"budget_documents": 7, "metrics": [0.0], "lambdas": [0.0]}},
    )
    wanted = 7 * int(chunks["n_tokens"].sum()) // documents
    assert materialized(result, "candidates")["budget_tokens_now"] == wanted
