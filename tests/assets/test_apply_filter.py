"""The job apply_filter on files that came after the fit."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from toys import toy_texts
from workplace import ARRIVALS, Workplace, changed_tables, event_log, materialized

from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.run import SketchEngine
from grasp_pipeline.sketch.storage import decode, decode_vector, encode_vector
from resources.delta.commits import Provenance

SECTION = {"text_column": "body", "source_column": "origin_name", "id_column": "key"}


def write_arrivals(folder: Path, name: str, texts: Sequence[tuple[str, str | None]]) -> None:
    folder.mkdir(exist_ok=True)
    frame = pl.DataFrame(texts, schema={"origin_name": pl.String, "body": pl.String}, orient="row")
    frame.with_row_index("key").with_columns(pl.col("key").cast(pl.String)).write_parquet(folder / name)


def apply(place: Workplace, paths: str = "arrivals/*", fails: bool = False) -> dg.ExecuteInProcessResult:
    return place.run("apply_filter", {"filtered_shards": {"paths": [paths], **SECTION}}, fails=fails)


@pytest.fixture
def filtered(copied: Workplace) -> Workplace:
    """A store that ships a linear arm, and two new files: unseen texts, copies, noise and a row without text."""
    copied.ship("surrogate-0.7")
    fresh = [(source, text) for source in ("news", "junk") for text in toy_texts(source, 8, "tomorrow")]
    old = pl.read_parquet(copied.corpus / "a.parquet")
    write_arrivals(
        copied.folder / "arrivals", "a.parquet", [*fresh, ("news", old["body"][0]), ("news", None)]
    )
    french = [("french", text) for text in toy_texts("french", 6, "tomorrow")]
    write_arrivals(copied.folder / "arrivals", "b.parquet", [*french, fresh[0], ("junk", "too short")])
    return copied


def test_new_files_are_scored_and_kept_by_value(filtered: Workplace) -> None:
    before = filtered.versions()
    result = apply(filtered)
    assert changed_tables(before, filtered.versions()) == ARRIVALS
    frame, refused = filtered.read(tables.FILTERED_SHARDS), filtered.read(tables.FILTERED_REJECTIONS)
    (row,) = filtered.read(tables.RESIDUAL_FILTER).iter_rows(named=True)

    assert frame["doc_id"].n_unique() == 8 + 8 + 6
    assert sorted(refused["reason"]) == ["exact_duplicate", "exact_duplicate", "missing_text", "too_short"]
    assert (frame["kept"] == (frame["value"] >= row["tau"])).all()
    assert frame["kept"].any()
    assert not frame["kept"].all()
    assert frame.filter(pl.col("kept") != pl.col("text").is_not_null()).is_empty()
    spans = frame.filter("kept").select("text", "start", "end")
    assert all(len(text) == end - start for text, start, end in spans.iter_rows())
    # Of so few chunks and so small a proxy a single source's share turns with the processor's rounding.
    share = dict(frame.group_by(pl.col("source") == "junk").agg(pl.col("kept").mean()).iter_rows())
    assert share[True] < share[False]

    metadata = materialized(result, "filtered_shards")
    assert metadata["dagster/row_count"] == frame.height
    assert metadata["kept_tokens"] == frame.filter("kept")["n_tokens"].sum()
    assert metadata["rejected"] == refused.height
    assert all(check.passed for check in result.get_asset_check_evaluations())
    log = event_log(filtered, result.run_id)
    assert [text for text in frame["text"].drop_nulls() if text[:30] in log] == []


def with_ngrams(place: Workplace) -> None:
    """Store a filter that looks at n-grams beside gradients, whatever the toy run shipped."""
    (row,) = place.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
    chunks = TokenLists.of(place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")["input_ids"].to_list())
    q = np.concatenate([decode_vector(row["q"])[: row["sketch_d"]], generator("q").standard_normal(32)])
    row |= {
        "features": "gradient+ngrams",
        "d": len(q),
        "q": encode_vector(q),
        "tau": 0.0,
        "view_factors": [1.5, 0.7],
        "ngram_d": 32,
        "ngram_idf": NgramFeatures.fit(chunks, 32).idf.astype("<f8").tobytes(),
    }
    frame = pl.DataFrame([row], schema=tables.RESIDUAL_FILTER.schema)
    place.delta.write(tables.RESIDUAL_FILTER, frame, Provenance("test", "test", "1", ""))


def reduced(place: Workplace) -> None:
    """Reduce the store's sketches to principal directions, and store a filter on those."""
    place.run(changes={"sketchers": {"pca_dim": 12}}, only=["sketchers", "gradient_sketches"])
    (row,) = place.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
    (sketcher,) = place.read(tables.SKETCHERS).filter(sketch_kind=row["sketch_kind"]).iter_rows(named=True)
    assert sketcher["d"] == 12
    q = generator("reduced").standard_normal(12)
    row |= {
        "features": "gradient",
        "d": 12,
        "q": encode_vector(q),
        "tau": 0.0,
        "view_factors": [1.0],
        "ngram_d": None,
        "ngram_idf": None,
        "sketch_d": 12,
        "sketch_scale": sketcher["scale"],
        "sketch_config": sketcher["settings"],
    }
    frame = pl.DataFrame([row], schema=tables.RESIDUAL_FILTER.schema)
    place.delta.write(tables.RESIDUAL_FILTER, frame, Provenance("test", "test", "1", ""))


@pytest.mark.parametrize("change", [None, with_ngrams, reduced], ids=["as-shipped", "with-ngrams", "reduced"])
def test_the_decision_is_one_dot_product_with_what_is_stored(
    filtered: Workplace, change: Callable[[Workplace], None] | None
) -> None:
    """The first chunks of the corpus's own documents get the values that their stored sketches give."""
    if change is not None:
        change(filtered)
    texts = filtered.read(tables.DOCUMENTS).filter(source="news").head(5)
    write_arrivals(
        filtered.folder / "edited", "c.parquet", [("news", text + " the end of it") for text in texts["text"]]
    )
    apply(filtered, "edited/*")
    frame = filtered.read(tables.FILTERED_SHARDS).filter(pl.col("position") == 0)
    assert frame.height == 5

    (row,) = filtered.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
    stored = filtered.read(tables.GRADIENT_SKETCHES).filter(sketch_kind=row["sketch_kind"])
    first = filtered.read(tables.TOKENIZED_SHARDS).filter(
        pl.col("position") == 0, pl.col("doc_id").is_in(texts["doc_id"].implode())
    )
    both = first.join(stored.select("chunk_id", "sketch"), on="chunk_id")
    features = decode(both["sketch"], row["sketch_d"], row["sketch_scale"]) * row["view_factors"][0]
    if row["ngram_idf"] is not None:
        grams = NgramFeatures(row["ngram_d"], np.frombuffer(row["ngram_idf"]))
        beside = grams.transform(TokenLists.of(both["input_ids"].to_list())) * row["view_factors"][1]
        features = np.hstack([features, beside])
    values = features @ decode_vector(row["q"])
    assert sorted(frame["value"]) == pytest.approx(sorted(values.tolist()), rel=1e-3, abs=1e-6)


SCORES = {
    "dsir": ("ngram_table", "ngram_importance"),
    "conditional": ("conditional", "loss_reduction"),
    "blend": ("blend", "blend"),
    "lowest-loss": ("loss", "minus_loss"),
    "middle-perplexity": ("loss", "nearness_to_median_loss"),
    "log-coverage-3": ("event_table", "event_coverage"),
}
"""Arm -> kind of its filter, and the score that explains it."""


@pytest.mark.parametrize("arm", SCORES)
def test_what_ships_explains_and_filters_by_its_own_score(copied: Workplace, arm: str) -> None:
    """Texts of the corpus that come again with another end get the decisions of the pruned corpus."""
    result = copied.ship(arm)
    kind, score = SCORES[arm]
    (row,) = copied.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
    assert (row["filter_kind"], row["arm"], row["shipped_arm"]) == (kind, arm, arm)
    kept, dropped = copied.read(tables.PRUNED_CORPUS), copied.read(tables.DROP_REASONS)
    named = dropped.filter(pl.col("reason") != "duplicate")["score"]
    beside_others = arm.startswith("log-coverage")
    assert set(named) - ({"marginal_value"} if beside_others else set()) == {score}
    assert set(dropped["nearest_kept"]) <= set(kept["chunk_id"])
    passed = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert passed["reasons_can_be_followed"]
    assert passed["filter_stands_for_the_corpus"] == (row["agreement"] >= 0.9)
    (head,) = copied.read(tables.CERTIFICATES).filter(task="mean", baseline="random").iter_rows(named=True)
    bounds = (head["improvement"], head["lower_bound"]) if row["agreement"] >= 0.9 else (None, None)
    assert (row["improvement"], row["lower_bound"]) == bounds

    documents = copied.read(tables.DOCUMENTS).sort("doc_id").head(60)
    again = {
        document_id(normalize_text(f"{text} the end")): doc_id
        for doc_id, text in documents["doc_id", "text"].rows()
    }
    write_arrivals(
        copied.folder / "edited", "c.parquet", [("news", f"{text} the end") for text in documents["text"]]
    )
    apply(copied, "edited/*")
    first = pl.col("position") == 0, pl.col("n_tokens") == 16
    found = (
        copied.read(tables.FILTERED_SHARDS)
        .filter(*first)
        .with_columns(pl.col("doc_id").replace_strict(again))
    )
    worth = pl.concat(
        [
            kept.select("chunk_id", worth="marginal_value", shipped=pl.lit(value=True)),
            # The value beside the whole corpus, which says that a chunk is of little use, is not the filter's.
            dropped.select(
                "chunk_id",
                worth=pl.when(pl.lit(not beside_others) | (pl.col("score") == "marginal_value")).then(
                    "value"
                ),
                shipped=pl.lit(value=False),
            ),
        ]
    )
    both = (
        copied.read(tables.TOKENIZED_SHARDS)
        .filter(*first)
        .join(worth, on="chunk_id")
        .join(found.select("doc_id", "value", "kept"), on="doc_id")
    )
    assert both.height > 40
    assert both["shipped"].any()
    assert (both["kept"] == both["shipped"]).mean() >= row["agreement"] - 0.05
    if arm != "middle-perplexity":
        judged = both.filter(pl.col("worth").is_not_null())
        np.testing.assert_allclose(judged["value"], judged["worth"], rtol=2e-3, atol=2e-3)


def test_a_draw_has_no_filter_of_its_own_and_says_so(copied: Workplace) -> None:
    result = copied.ship("random-deduplicated")
    (row,) = copied.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
    assert row["shipped_arm"] == "random-deduplicated" != row["arm"]
    assert row["filter_kind"] == "direction"
    assert row["improvement"] is row["lower_bound"] is None
    dropped = copied.read(tables.DROP_REASONS)
    assert set(dropped.filter(pl.col("reason") != "duplicate")["score"]) == {"random_draw"}
    assert dropped["nearest_kept"].null_count() == 0
    (check,) = [
        c for c in result.get_asset_check_evaluations() if c.check_name == "filter_stands_for_the_corpus"
    ]
    assert not check.passed
    assert check.severity.value == "WARN"
    assert "gives a single new chunk no score" in materialized(result, "residual_filter")["certificate"]


def test_a_second_run_scores_only_what_is_new(filtered: Workplace) -> None:
    apply(filtered)
    before = filtered.delta_versions()
    again = apply(filtered)
    assert filtered.delta_versions() == before
    assert materialized(again, "filtered_shards")["up_to_date"] is True

    late = [("news", text) for text in toy_texts("news", 4, "later")]
    write_arrivals(filtered.folder / "arrivals", "c.parquet", late)
    versions = filtered.versions()
    third = apply(filtered)
    assert materialized(third, "filtered_shards")["files_scored"] == 1
    assert materialized(third, "filtered_shards")["files"] == 3
    shards = filtered.read(tables.FILTERED_SHARDS)["shard"].unique().to_list()
    fresh = {key for key, version in filtered.versions().items() if versions.get(key) != version}
    assert fresh == {(table, name) for table in ARRIVALS for name in shards if name.startswith("c-")}


def test_a_changed_file_replaces_its_own_rows(filtered: Workplace) -> None:
    apply(filtered)
    before = filtered.read(tables.FILTERED_SHARDS)
    write_arrivals(
        filtered.folder / "arrivals", "b.parquet", [("french", toy_texts("french", 6, "tomorrow")[0])]
    )
    apply(filtered)
    after = filtered.read(tables.FILTERED_SHARDS)
    assert after.filter(pl.col("shard").str.starts_with("b-"))["doc_id"].n_unique() == 1
    untouched = pl.col("shard").str.starts_with("a-")
    key = "chunk_id"
    assert after.filter(untouched).sort(key).equals(before.filter(untouched).sort(key))


class TestSiblings:
    """Files that share texts: each text is held once, by a file that has it now."""

    TEXTS = toy_texts("news", 9, "shared")

    def write(self, place: Workplace, **files: Sequence[int]) -> None:
        for name, rows in files.items():
            write_arrivals(
                place.folder / "arrivals", f"{name}.parquet", [("news", self.TEXTS[row]) for row in rows]
            )

    def held(self, place: Workplace) -> dict[str, list[int]]:
        """Return which texts each file's stored documents are."""
        ids = [document_id(normalize_text(text)) for text in self.TEXTS]
        rows = place.read(tables.FILTERED_SHARDS).select("shard", "doc_id").unique().iter_rows()
        found: dict[str, list[int]] = {}
        for shard, doc_id in rows:
            found.setdefault(shard[0], []).append(ids.index(doc_id))
        return {shard: sorted(numbers) for shard, numbers in sorted(found.items())}

    def test_a_text_that_a_file_lets_go_of_goes_to_the_file_that_lost_it(self, copied: Workplace) -> None:
        self.write(copied, a=range(6), b=range(3, 9))
        apply(copied)
        assert self.held(copied) == {"a": [0, 1, 2, 3, 4, 5], "b": [6, 7, 8]}

        self.write(copied, a=[5, 4, 3])
        assert materialized(apply(copied), "filtered_shards")["files_scored"] == 1, "b lost nothing more"
        assert self.held(copied) == {"a": [3, 4, 5], "b": [6, 7, 8]}

        self.write(copied, a=range(3))
        assert materialized(apply(copied), "filtered_shards")["files_scored"] == 2
        assert self.held(copied) == {"a": [0, 1, 2], "b": [3, 4, 5, 6, 7, 8]}
        before = copied.delta_versions()
        assert materialized(apply(copied), "filtered_shards")["up_to_date"] is True
        assert copied.delta_versions() == before

    def test_a_file_that_comes_first_by_name_gets_back_what_it_lost_to_a_later_one(
        self, copied: Workplace
    ) -> None:
        self.write(copied, b=range(3, 9))
        apply(copied)
        self.write(copied, a=range(6))
        apply(copied)
        assert self.held(copied) == {"a": [0, 1, 2], "b": [3, 4, 5, 6, 7, 8]}
        self.write(copied, b=range(6, 9))
        apply(copied)
        assert self.held(copied) == {"a": [0, 1, 2, 3, 4, 5], "b": [6, 7, 8]}

    def test_files_that_change_together_lose_nothing_to_what_the_other_held(self, copied: Workplace) -> None:
        self.write(copied, a=range(3), b=range(3, 9))
        apply(copied)
        self.write(copied, a=range(2, 6), b=range(6, 9))
        apply(copied)
        assert self.held(copied) == {"a": [2, 3, 4, 5], "b": [6, 7, 8]}

    def test_a_file_notices_what_another_run_did(self, copied: Workplace) -> None:
        self.write(copied, a=range(6), b=range(3, 9))
        apply(copied)
        self.write(copied, a=range(3))
        apply(copied, "arrivals/a.parquet")
        assert self.held(copied) == {"a": [0, 1, 2], "b": [6, 7, 8]}
        apply(copied, "arrivals/b.parquet")
        assert self.held(copied) == {"a": [0, 1, 2], "b": [3, 4, 5, 6, 7, 8]}

    def test_the_commit_names_what_it_rests_on(self, copied: Workplace) -> None:
        self.write(copied, a=range(6), b=range(3, 9), c=[0])
        apply(copied)
        commits = {
            (commit.partition or {})["shard"]: commit
            for commit in copied.delta.commits(tables.FILTERED_SHARDS)
        }
        a = min(commits)
        rests_on = {shard[0]: commit.statistics["rests_on"] for shard, commit in commits.items()}
        assert rests_on == {"a": {}, "b": {a: commits[a].version}, "c": {a: commits[a].version}}


def test_lineage_names_the_filter_and_its_checkpoint(filtered: Workplace) -> None:
    apply(filtered)
    for name in ARRIVALS:
        commit = filtered.delta.latest(tables.ALL[name])
        assert commit is not None
        upstream = json.loads(commit.metadata["upstream"])
        assert {"residual_filter", "tokenizer", "proxy_checkpoints", "documents"} <= set(upstream)
        assert upstream["residual_filter"] == filtered.delta.pin(tables.RESIDUAL_FILTER).version


def test_what_a_lack_of_memory_taught_is_kept_for_the_next_block(
    filtered: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = SketchEngine._compute
    engines: list[SketchEngine] = []
    fitted: list[bool] = []

    def scarce(engine: SketchEngine, batch: Any) -> bool:
        if not any(engine is known for known in engines):
            engines.append(engine)
        fitted.append((batch.stop - batch.start) * batch.longest <= 128)
        return fitted[-1] and compute(engine, batch)

    monkeypatch.setattr(SketchEngine, "_compute", scarce)
    small = {"paths": ["arrivals/*"], "block_bytes": 10_000, **SECTION}
    result = filtered.run("apply_filter", {"filtered_shards": small})
    assert len(engines) == 1, "one engine for all blocks of all files"
    assert not fitted[0]
    assert all(fitted[fitted.index(True) :]), "the batch that fitted once fits from then on"
    assert len(fitted) > 4
    assert "memory ran out on cpu" in event_log(filtered, result.run_id)


def test_the_filter_is_applied_on_the_device_that_is_configured(
    filtered: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`meta` stands for another device: the sketcher's weights must be there before anything is computed."""
    seen: list[tuple[str, str]] = []

    def looks(engine: SketchEngine, *_: Any) -> Any:
        sketcher: Any = engine.sketcher
        seen.append((str(engine._device), str(sketcher.hidden_side.device)))
        raise TrainingError("seen enough")

    (row,) = filtered.read(tables.RESIDUAL_FILTER).iter_rows(named=True)
    row["sketch_kind"] = "output"
    frame = pl.DataFrame([row], schema=tables.RESIDUAL_FILTER.schema)
    filtered.delta.write(tables.RESIDUAL_FILTER, frame, Provenance("test", "test", "1", ""))
    monkeypatch.setattr(SketchEngine, "sketch", looks)
    filtered.compute["device"] = "meta"
    apply(filtered, fails=True)
    assert seen == [("meta", "meta")]


def test_blocks_change_nothing(filtered: Workplace) -> None:
    apply(filtered)
    whole = filtered.read(tables.FILTERED_SHARDS).sort("chunk_id")
    filtered.run(
        "apply_filter", {"filtered_shards": {"paths": ["arrivals/*"], "block_bytes": 10_000, **SECTION}}
    )
    parts = filtered.read(tables.FILTERED_SHARDS).sort("chunk_id")
    assert parts.drop("value").equals(whole.drop("value"))
    np.testing.assert_allclose(parts["value"], whole["value"], rtol=1e-5, atol=1e-7)


def test_another_checkpoint_than_the_filters_is_refused(
    filtered: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    changes = {"proxy_checkpoints": {"reference_tokens": 10_000}}
    filtered.run(changes=changes, only=["proxy_checkpoints"])
    section = {"filtered_shards": {"paths": ["arrivals/*"], **SECTION}}
    config = filtered.run_config(section, "apply_filter")
    del config["loggers"]
    path = filtered.folder / "filter.yaml"
    path.write_text(json.dumps(config))
    assert filtered.run_file(path, "apply_filter") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "was fitted with the checkpoint" in printed
    assert "run the job curate to fit it again" in printed


def test_the_terminal_says_what_was_kept(
    filtered: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    section = {"filtered_shards": {"paths": ["arrivals/*"], **SECTION}}
    config = filtered.run_config(section, "apply_filter")
    del config["loggers"]
    path = filtered.folder / "filter.yaml"
    path.write_text(json.dumps(config))
    assert filtered.run_file(path, "apply_filter") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "2 files: 22 documents scored, 4 rows rejected. Kept" in printed
    assert "filtered_shards" in printed


def failure(result: dg.ExecuteInProcessResult) -> str:
    (event,) = [e for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
    return str(event.step_failure_data.error)


def test_a_missing_filter_says_what_to_do(place: Workplace) -> None:
    write_arrivals(place.folder / "arrivals", "a.parquet", [("news", "text " * 40)])
    assert "residual_filter has not been written" in failure(apply(place, fails=True))


def test_a_missing_path_says_what_to_do(copied: Workplace) -> None:
    assert "matches no file" in failure(apply(copied, "nowhere/*", fails=True))


def test_a_file_of_mostly_bad_lines_is_warned_of(copied: Workplace) -> None:
    (row,) = pl.read_parquet(copied.corpus / "a.parquet").head(1).to_dicts()
    (copied.folder / "arrivals").mkdir()
    (copied.folder / "arrivals" / "c.jsonl").write_text("\n".join([json.dumps(row), *["no JSON"] * 3]))
    result = apply(copied)
    assert "'arrivals/c.jsonl': 3 of 4 rows" in event_log(copied, result.run_id)
