"""What a run retrains for its certificate counts in the next choice, and in no choice before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from test_loading import BY_HAND, Reader
from workplace import Curated, Workplace, changed_tables, materialized, steps_up_to_date

from assets.data import StoredPool, load_corpus, pack_membership, unpack_membership
from assets.pool import RETRAINED, Pooled, load_pool, mean_utilities
from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.storage import decode, decode_vector
from resources.store import DeltaStore

PROTOCOL = ("candidates", "subsets", "subset_utilities", "surrogates", "selected_config")


def utility(losses: pl.DataFrame, subset: str, task: str) -> float:
    """Return the mean over seeds of minus the token loss, the slow way."""
    rows = losses.filter(subset_id=subset, task=task).to_dicts()
    seeds = {row["seed"] for row in rows}
    found = []
    for seed in seeds:
        mine = [row for row in rows if row["seed"] == seed]
        found.append(-sum(row["loss_sum"] for row in mine) / sum(row["n_tokens"] for row in mine))
    return sum(found) / len(found)


def version_read(place: Workplace, table: tables.Table) -> int | None:
    """Return the version of the pool that a table's last commit names among its reads."""
    commit = place.delta.latest(table)
    assert commit is not None
    return commit.reads.get("calibration_pool")


class TestFirstRun:
    def test_all_that_was_retrained_for_the_certificate_is_pooled(self, curated: Curated) -> None:
        place = curated.place
        pool = place.read(tables.CALIBRATION_POOL)
        losses = place.read(tables.DOCUMENT_LOSSES).filter(split="calibration")
        assert pool.height > 3
        assert set(pool["subset_id"]) == set(losses["subset_id"])
        subsets = place.read(tables.SUBSETS).filter(pl.col("split").is_in(RETRAINED))
        for row in pool.iter_rows(named=True):
            (designed,) = subsets.filter(subset_id=row["subset_id"]).head(1).iter_rows(named=True)
            for name in ("n_chunks", "n_tokens", "pool_version", "membership"):
                assert row[name] == designed[name]
            mine = losses.filter(subset_id=row["subset_id"])
            assert row["seeds"] == mine["seed"].n_unique()
            assert row["tasks"] == sorted(set(losses["task"]))
            expected = [utility(losses, row["subset_id"], task) for task in row["tasks"]]
            assert row["utilities"] == pytest.approx(expected, rel=1e-12)

    def test_its_own_choice_knew_nothing_of_it(self, curated: Curated) -> None:
        place = curated.place
        assert version_read(place, tables.SURROGATES) is None
        assert version_read(place, tables.SELECTED_CONFIG) is None
        metadata = materialized(curated.result, "surrogates")
        assert (metadata["earlier_finalists"], metadata["calibration_pool_version"]) == (0, None)

    def test_it_was_measured_as_the_calibration_subsets_were(self, curated: Curated) -> None:
        utilities = curated.place.read(tables.SUBSET_UTILITIES).filter(split="calibration")
        assert set(curated.place.read(tables.CALIBRATION_POOL)["recipe"]) == set(utilities["recipe"])


class TestNextChoice:
    def test_fresh_subsets_are_joined_by_earlier_finalists_once(self, copied: Workplace) -> None:
        pool = copied.read(tables.CALIBRATION_POOL)
        first = copied.delta.pin(tables.CALIBRATION_POOL).version
        changes = {"subsets": {"seed": 1}}
        result = copied.run(changes=changes)
        assert version_read(copied, tables.SURROGATES) == first
        assert version_read(copied, tables.SELECTED_CONFIG) == first
        metadata = materialized(result, "surrogates")
        clusters = clusters_of(copied, pool)
        counted = clusters[: copied.read(tables.SUBSETS).filter(split="calibration").height // 2]
        assert metadata["earlier_finalist_clusters"] == len(counted) < len(clusters) < pool.height
        assert metadata["earlier_finalists"] == sum(map(len, counted))
        left = pool.height - metadata["earlier_finalists"]
        assert metadata["earlier_finalists_left_out"] == {BEYOND: left}
        found = copied.read(tables.SURROGATES).filter(sketch_kind="output", rho=0.0, lam=0.0, form="mean")
        assert found["rank_correlation"].to_list() == pytest.approx([grad_dot(copied, counted)])

        longer = copied.run(changes={**changes, "finalists": {"shortlist": 4}})
        up_to_date = steps_up_to_date(longer)
        assert copied.delta.pin(tables.CALIBRATION_POOL).version > first
        assert up_to_date["calibration_pool"] is False
        still = {name: up_to_date[name] for name in PROTOCOL}
        assert all(still.values()), f"a pool that has grown must not unsettle the choice: {still}"
        again = steps_up_to_date(copied.run(only=[*PROTOCOL, "calibration_pool"], changes=changes))
        assert all(again.values())
        assert version_read(copied, tables.SURROGATES) == first

    def test_finalists_of_a_smaller_corpus_count_in_a_grown_one(self, copied: Workplace) -> None:
        """recurate keeps tokenizer and proxy, so what was measured before was measured under the same conditions."""
        pool = copied.read(tables.CALIBRATION_POOL)
        pl.read_parquet(copied.corpus / "a.parquet").with_columns(
            pl.concat_str("body", pl.lit(" and once more")), key=pl.concat_str("key", pl.lit("-more"))
        ).write_parquet(copied.corpus / "c.parquet")
        before = copied.versions()
        copied.run("recurate")
        assert "surrogates" not in changed_tables(before, copied.versions())
        assert "calibration_pool" in changed_tables(before, copied.versions())
        assert set(pool["subset_id"]) < set(copied.read(tables.CALIBRATION_POOL)["subset_id"])

        result = copied.run(only=PROTOCOL)
        grown = copied.read(tables.CALIBRATION_POOL)
        metadata = materialized(result, "surrogates")
        assert metadata["earlier_finalists"] + metadata["earlier_finalists_left_out"][BEYOND] == grown.height
        assert set(grown["pool_version"]) > set(pool["pool_version"])


BEYOND = "beyond the share of the statistic that earlier finalists may have"


def clusters_of(place: Workplace, pool: pl.DataFrame) -> list[list[dict[str, Any]]]:
    """Return the rows of the pool in clusters, by loops: linked where memberships correlate by .3 over tokens."""
    tokens = place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")["n_tokens"].to_numpy()
    clusters: list[list[dict[str, Any]]] = []
    for row in pool.sort("subset_id").iter_rows(named=True):
        mine = unpack_membership(row["membership"], len(tokens)).astype(float)
        linked = []
        for cluster in clusters:
            for other in cluster:
                theirs = unpack_membership(other["membership"], len(tokens)).astype(float)
                covariance = np.cov(mine, theirs, aweights=tokens, ddof=0)
                scale = np.sqrt(covariance[0, 0] * covariance[1, 1])
                if scale > 1e-12 and covariance[0, 1] / scale >= 0.3:
                    linked.append(cluster)
                    break
        merged = [member for cluster in linked for member in cluster] + [row]
        clusters = [cluster for cluster in clusters if cluster not in linked] + [merged]
    return sorted(clusters, key=lambda cluster: min(row["subset_id"] for row in cluster))


def grad_dot(place: Workplace, clusters: list[list[dict[str, Any]]]) -> float:
    """Return the rank correlation of the mean alignment with what subsets and clusters are worth, by hand."""
    chunks = place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")
    stored = place.read(tables.GRADIENT_SKETCHES).filter(sketch_kind="output").sort("chunk_id")
    sketches = decode(stored["sketch"], stored["d"][0], stored["scale"][0]).astype(np.float64)
    designed = place.read(tables.SUBSETS).filter(split="calibration")
    measured = place.read(tables.SUBSET_UTILITIES).filter(split="calibration")

    def alignment(row: dict[str, Any], direction: np.ndarray) -> float:
        members = unpack_membership(row["membership"], chunks.height)
        tokens = chunks["n_tokens"].to_numpy()[members]
        return float(tokens @ (sketches[members] @ direction) / tokens.sum())

    correlations = []
    for task in clusters[0][0]["tasks"]:
        target = place.read(tables.TASK_SKETCHES).filter(sketch_kind="output", task=task, split="query")
        direction = decode_vector(target["sketch"][0])
        predicted, worth = [], []
        for row in designed.iter_rows(named=True):
            predicted.append(alignment(row, direction))
            mine = measured.filter(subset_id=row["subset_id"], task=task)
            worth.append(float(mine["utility"].mean()))  # type: ignore[arg-type]
        for cluster in clusters:
            predicted.append(float(np.mean([alignment(row, direction) for row in cluster])))
            worth.append(float(np.mean([row["utilities"][row["tasks"].index(task)] for row in cluster])))
        correlations.append(float(spearmanr(predicted, worth).statistic))  # type: ignore[attr-defined]
    return float(np.mean(correlations))


class TestMapping:
    """A pool over small corpora made by hand."""

    TASKS: ClassVar = ["a", "b"]

    def step(self, folder: Path) -> Any:
        step = Reader(DeltaStore(root=str(folder)))
        said: list[str] = []
        step.say = said.append  # type: ignore[attr-defined]
        step.said = said  # type: ignore[attr-defined]
        return step

    def corpus(self, step: Any, ids: list[str]) -> StoredPool:
        """Store a corpus of chunks with these ids as the next version, and load it."""
        columns = {
            "doc_id": "d",
            "position": 0,
            "n_tokens": 2,
            "start": 0,
            "end": 1,
            "source": "s",
            "shard": "x",
        }
        chunks = pl.DataFrame({"chunk_id": ids}).with_columns(
            input_ids=pl.lit([1, 2], dtype=tables.TOKENS),
            **{name: pl.lit(value) for name, value in columns.items()},
        )
        document = pl.DataFrame(
            [("d", "text", "s", "x", 1, "o", "d", True)], schema=tables.DOCUMENTS.schema, orient="row"
        )
        step.tables.write(tables.DOCUMENTS, document, BY_HAND, {"shard": "x"})
        step.tables.write(tables.TOKENIZED_SHARDS, chunks, BY_HAND, {"shard": "x"})
        return load_corpus(step)

    def pool(self, step: Any, corpus: StoredPool, members: dict[str, list[str]], recipe: str = "same") -> int:
        """Add subsets of a corpus to the pool; returns its version."""
        ids = corpus.ids(np.ones(corpus.n, dtype=bool))
        rows = [
            {
                "subset_id": name,
                "recipe": recipe,
                "family": "f",
                "n_chunks": len(held),
                "n_tokens": 2 * len(held),
                "pool_version": corpus.version,
                "membership": pack_membership(np.array([each in held for each in ids])),
                "tasks": self.TASKS,
                "utilities": [-float(len(held)), -1.0],
                "seeds": 1,
            }
            for name, held in members.items()
        ]
        frame = pl.DataFrame(rows, schema=tables.CALIBRATION_POOL.schema)
        return step.tables.upsert(tables.CALIBRATION_POOL, frame, BY_HAND).version

    def load(
        self, step: Any, corpus: StoredPool, version: int | None, known: list[str] | None = None
    ) -> Pooled:
        return load_pool(step, corpus, version, "same", self.TASKS[::-1], known or [])

    def test_no_pool_adds_nothing(self, tmp_path: Path) -> None:
        step = self.step(tmp_path)
        found = self.load(step, self.corpus(step, ["c1", "c2"]), None)
        assert (found.membership.shape, found.utilities.shape, found.left_out) == ((0, 2), (0, 2), {})

    def test_members_are_found_again_by_their_ids(self, tmp_path: Path) -> None:
        step = self.step(tmp_path)
        old = self.corpus(step, ["c2", "c4", "c6"])
        self.pool(step, old, {"s1": ["c2", "c6"], "s2": ["c4"]})
        new = self.corpus(step, ["c1", "c2", "c3", "c4", "c6", "c7"])
        version = self.pool(step, new, {"s3": ["c1", "c7"]})
        found = self.load(step, new, version)
        assert [new.ids(row) for row in found.membership] == [["c2", "c6"], ["c4"], ["c1", "c7"]]
        assert found.utilities.tolist() == [[-1.0, -2.0], [-1.0, -1.0], [-1.0, -2.0]]
        assert found.left_out == {}

    def test_the_version_asked_for_is_read(self, tmp_path: Path) -> None:
        step = self.step(tmp_path)
        corpus = self.corpus(step, ["c1", "c2"])
        version = self.pool(step, corpus, {"s1": ["c1"]})
        self.pool(step, corpus, {"s2": ["c2"]})
        assert len(self.load(step, corpus, version).utilities) == 1
        assert len(self.load(step, corpus, version + 1).utilities) == 2

    def test_those_that_cannot_be_used_are_counted_with_the_reason(self, tmp_path: Path) -> None:
        step = self.step(tmp_path)
        old = self.corpus(step, ["c1", "c2", "c3"])
        self.pool(step, old, {"s1": ["c1"], "s2": ["c1", "c3"], "s3": ["c3"], "s4": ["c2"]})
        new = self.corpus(step, ["c0", "c1", "c2"])
        version = self.pool(step, new, {"s5": ["c0"], "s6": ["c1"]}, recipe="another")
        found = self.load(step, new, version, known=["s4"])
        assert [new.ids(row) for row in found.membership] == [["c1"]]
        assert found.left_out == {
            "measured with another proxy, tokenizer or held-out documents": 2,
            "drawn as calibration subsets too": 1,
            "some of their chunks are no longer in the corpus": 2,
        }
        said = (
            "1 of 6 earlier finalists join the calibration subsets, those that overlap as one (1 clusters); "
        )
        assert found.account().startswith(said)

    def test_those_that_overlap_are_one_and_only_so_many_clusters_are_used(self, tmp_path: Path) -> None:
        step = self.step(tmp_path)
        corpus = self.corpus(step, [f"c{i}" for i in range(8)])
        first, second = ["c0", "c1", "c2", "c3"], ["c4", "c5"]
        version = self.pool(
            step, corpus, {"s1": first, "s2": second, "s3": ["c0", "c1"], "s4": ["c5", "c6", "c7"]}
        )
        found = self.load(step, corpus, version)
        assert found.clusters.tolist() == [0, 1, 0, 2]
        fewer = load_pool(step, corpus, version, "same", self.TASKS[::-1], [], most=1)
        assert [corpus.ids(row) for row in fewer.membership] == [first, ["c0", "c1"]]
        assert fewer.left_out == {BEYOND: 2}

    def test_a_version_that_was_vacuumed_is_left_out_and_said(self, tmp_path: Path) -> None:
        step = self.step(tmp_path)
        old = self.corpus(step, ["c1", "c2"])
        self.pool(step, old, {"s1": ["c1"]})
        (stored,) = (tmp_path / "tokenized_shards").rglob("*.parquet")
        new = self.corpus(step, ["c1", "c2", "c3"])
        version = self.pool(step, new, {"s2": ["c3"]})
        stored.unlink()
        found = self.load(step, new, version)
        assert [new.ids(row) for row in found.membership] == [["c3"]]
        (reason,) = found.left_out
        assert reason.startswith(f"version {old.version} of tokenized_shards")
        assert step.said[0] == (
            f"version {old.version} of tokenized_shards cannot be read: the file {stored} of the table "
            "tokenized_shards is missing"
        )


class TestUtilities:
    def losses(self, subsets: int, seeds: int, documents: int, name: str) -> pl.DataFrame:
        draw = generator("losses", name)
        rows = [
            {
                "subset_id": f"s{subset}",
                "seed": seed,
                "task": task,
                "document": f"{task}-{number}",
                "fold": number % 2,
                "split": "calibration",
                "loss_sum": float(draw.gamma(5.0)),
                "n_tokens": int(draw.integers(1, 50)),
                "recipe": "r",
            }
            for subset in range(subsets)
            for seed in range(100, 100 + seeds + subset)
            for task in ("b", "a")
            for number in range(documents)
        ]
        return pl.DataFrame(rows, schema=tables.DOCUMENT_LOSSES.schema)

    @settings(max_examples=20)
    @given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(0, 99))
    def test_they_are_means_over_seeds_in_any_order_of_rows(
        self, subsets: int, seeds: int, documents: int, number: int
    ) -> None:
        losses = self.losses(subsets, seeds, documents, str(number))
        found = mean_utilities(losses)
        assert found["subset_id"].to_list() == [f"s{subset}" for subset in range(subsets)]
        assert found["seeds"].to_list() == [seeds + subset for subset in range(subsets)]
        for row in found.iter_rows(named=True):
            assert row["tasks"] == ["a", "b"]
            expected = [utility(losses, row["subset_id"], task) for task in row["tasks"]]
            assert row["utilities"] == pytest.approx(expected, rel=1e-12)
        assert mean_utilities(losses.sample(fraction=1.0, shuffle=True, seed=number)).equals(found)

    def test_each_recipe_has_its_own_row(self) -> None:
        losses = self.losses(1, 2, 2, "recipes")
        both = losses.with_columns(recipe=pl.lit("r") + (pl.col("seed") - 99).cast(pl.String))
        found = mean_utilities(both)
        assert found.select("recipe", "seeds").rows() == [("r1", 1), ("r2", 1)]

    def test_a_missing_document_is_refused(self) -> None:
        losses = self.losses(1, 2, 3, "missing")
        with pytest.raises(StoreError, match=r"document_losses holds 5 rows of the b documents for 2 seeds"):
            mean_utilities(losses.slice(1))
