"""What is loaded of the corpus: the right rows in the right order, in memory or in a file without a name."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from workplace import Curated, Workplace

from assets import scratch
from assets.data import StoredPool, load_corpus, load_sketches
from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.blocks import SketchBlocks, project
from grasp_pipeline.attribution.metric import second_moment
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.corpus.row_keys import RowKeys
from grasp_pipeline.errors import StoreError
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.storage import decode
from resources.delta.commits import Provenance, Read
from resources.delta.tables import DeltaTables
from resources.store import DeltaStore

if TYPE_CHECKING:
    from assets.step import Step

KINDS = ["output", "full"]
BY_HAND = Provenance("run", "by hand", "1", "")


@dataclass
class Reader:
    """What loading needs of a step."""

    store: DeltaStore
    reads: list[Read] = field(default_factory=list)

    @property
    def tables(self) -> DeltaTables:
        return self.store.tables

    def pin(self, table: tables.Table, partition: Mapping[str, str] | None = None) -> Read:
        self.reads.append(self.tables.pin(table, partition))
        return self.reads[-1]

    def read(self, table: tables.Table, partition: Mapping[str, str] | None = None) -> pl.LazyFrame:
        return self.tables.read(table, self.pin(table, partition).version, partition)


def reader(place: Workplace) -> Step:
    return cast("Step", Reader(DeltaStore(root=str(place.store))))


def mapped(place: Workplace) -> list[str]:
    """Return the files below a store that this process has mapped."""
    gc.collect()
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(place.store) in line]


def files(place: Workplace) -> set[Path]:
    return set(place.store.rglob("*"))


def rewrite(place: Workplace, kind: str, shard: str, change: pl.Expr | None = None, rows: int = 0) -> None:
    """Change a column of a kind's sketches of a shard, and leave out the first rows."""
    partition = {"sketch_kind": kind, "shard": shard}
    delta = place.delta
    frame = delta.read(
        tables.GRADIENT_SKETCHES, delta.pin(tables.GRADIENT_SKETCHES).version, partition
    ).collect()
    frame = frame.slice(rows)
    changed = frame if change is None else frame.with_columns(change)
    delta.write(tables.GRADIENT_SKETCHES, changed, BY_HAND, partition)


@pytest.fixture(params=["memory", "file"])
def held(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where arrays are held."""
    if request.param == "file":
        monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
    return request.param


def ids_of(corpus: StoredPool) -> list[str]:
    return corpus.ids(np.ones(corpus.n, dtype=bool))


def results(sketches: SketchBlocks, corpus: StoredPool) -> list[NDArray[np.float64]]:
    """Return what the steps compute from sketches."""
    draw = generator("loading")
    membership = draw.random((3, corpus.n)) < 0.5
    return [
        project(sketches, draw.standard_normal((sketches.d, 2))),
        subset_means(sketches, corpus.n_tokens, membership).means,
        second_moment(sketches, corpus.n_tokens),
    ]


class TestSketches:
    @pytest.mark.parametrize("kind", KINDS)
    def test_they_are_in_the_corpus_order_at_their_true_scale(
        self, curated: Curated, held: str, kind: str
    ) -> None:
        step = reader(curated.place)
        corpus = load_corpus(step)
        blocks = load_sketches(step, corpus, kind)
        stored = curated.place.read(tables.GRADIENT_SKETCHES).filter(sketch_kind=kind).sort("chunk_id")
        assert stored["chunk_id"].to_list() == ids_of(corpus)
        assert stored["shard"].is_sorted() is False, (
            "the order of the corpus is another than that of the files"
        )
        expected = decode(stored["sketch"], stored["d"][0], stored["scale"][0])
        assert (blocks.n, blocks.d) == expected.shape
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), expected)

    def test_results_are_the_same_bits_and_no_file_has_a_name(
        self, curated: Curated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        place = curated.place
        step = reader(place)
        before = files(place)
        corpus = load_corpus(step)
        expected = results(load_sketches(step, corpus, "output"), corpus)
        assert mapped(place) == []
        monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
        sketches = load_sketches(step, corpus, "output")
        assert len(mapped(place)) == 1
        assert files(place) == before
        for found, wanted in zip(results(sketches, corpus), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
        del sketches
        assert mapped(place) == []
        assert files(place) == before

    def test_a_chunk_without_sketch_is_refused_and_its_shard_named(
        self, copied: Workplace, held: str
    ) -> None:
        corpus = load_corpus(reader(copied))
        rewrite(copied, "full", "shard-0001", rows=2)
        with pytest.raises(StoreError, match=r"^2 chunks have no full sketch; .* for shard-0001$"):
            load_sketches(reader(copied), corpus, "full")
        del corpus
        assert mapped(copied) == []

    def test_shards_at_different_scales_are_refused(self, copied: Workplace, held: str) -> None:
        rewrite(copied, "full", "shard-0001", pl.col("scale") * 2)
        corpus = load_corpus(reader(copied))
        with pytest.raises(StoreError, match="the full sketches of different shards do not match"):
            load_sketches(reader(copied), corpus, "full")

    def test_sketches_of_chunks_that_are_gone_are_passed_over(self, copied: Workplace) -> None:
        delta = copied.delta
        shard = copied.read(tables.TOKENIZED_SHARDS).filter(shard="shard-0000")
        delta.write(tables.TOKENIZED_SHARDS, shard.slice(3), BY_HAND, {"shard": "shard-0000"})
        corpus = load_corpus(reader(copied))
        blocks = load_sketches(reader(copied), corpus, "output")
        ids = ids_of(corpus)
        stored = copied.read(tables.GRADIENT_SKETCHES).filter(sketch_kind="output").sort("chunk_id")
        kept = stored.filter(pl.col("chunk_id").is_in(ids))
        assert kept.height == stored.height - 3
        expected = decode(kept["sketch"], kept["d"][0], kept["scale"][0])
        np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), expected)

    def test_they_are_never_whole_in_memory(self, place: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
        """numpy's allocations at their peak stay at a few groups; two bytes a value would be ten times that."""
        n, d, group = 20_000, 256, 1024
        ids = sorted(f"{number:x}" for number in range(n))
        values = generator("large").standard_normal((n, d)).astype(np.float16)

        def frames() -> Iterator[pl.DataFrame]:
            for start in range(0, n, group):
                rows = slice(start, start + group)
                yield pl.DataFrame(
                    {"chunk_id": ids[rows], "sketch": [row.tobytes() for row in values[rows]]}
                ).with_columns(
                    sketch_kind=pl.lit("output"),
                    d=d,
                    scale=1.0,
                    loss=1.0,
                    norm=1.0,
                    n_tokens=1,
                    shard=pl.lit("x"),
                )

        step = reader(place)
        partition = {"sketch_kind": "output", "shard": "x"}
        step.tables.write_stream(tables.GRADIENT_SKETCHES, frames(), BY_HAND, partition, dict, group)
        pool = TokenLists(np.ones(n, dtype=np.int32), np.arange(n + 1))
        one = np.zeros(n, dtype=np.int64)
        corpus = StoredPool(
            n_tokens=pool.lengths,
            source=one,
            document=one,
            cluster=one,
            version=0,
            keys=RowKeys.distinct([pl.Series(ids)], 24),
            places=one.astype(np.int32),
            survivors=one == 0,
            shard=one.astype(np.int16),
            sources=("s",),
            shards=("x",),
            delta=step.tables,
        )
        monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 0)
        tracemalloc.start()
        try:
            sketches = load_sketches(step, corpus, "output")
            found = project(sketches, np.ones(d))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < values.nbytes / 2
        np.testing.assert_allclose(found, values.astype(np.float64).sum(axis=1), atol=0.05)


class TestCorpus:
    def test_every_chunk_has_its_own_tokens(self, curated: Curated, held: str) -> None:
        corpus = load_corpus(reader(curated.place))
        chunks = curated.place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")
        assert ids_of(corpus) == chunks["chunk_id"].to_list()
        expected = chunks["input_ids"].to_list()
        assert [corpus.text.chunk(i) for i in range(corpus.n)] == expected
        assert corpus.text.tokens.dtype == np.int32
        assert corpus.total == sum(map(len, expected))
        del corpus
        assert mapped(curated.place) == []

    @pytest.mark.parametrize(
        ("column", "name"), [("source", "source"), ("doc_id", "document"), ("cluster", "cluster")]
    )
    def test_codes_follow_the_sorted_values(self, curated: Curated, column: str, name: str) -> None:
        corpus = load_corpus(reader(curated.place))
        chunks = curated.place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")
        documents = curated.place.read(tables.DOCUMENTS).select("doc_id", "cluster")
        values = chunks.join(documents, on="doc_id", how="left", maintain_order="left")[column].to_list()
        places = {value: code for code, value in enumerate(sorted(set(values)))}
        assert getattr(corpus, name).tolist() == [places[value] for value in values]

    def test_ids_are_those_of_the_subset(self, curated: Curated) -> None:
        corpus = load_corpus(reader(curated.place))
        membership = generator("ids").random(corpus.n) < 0.3
        everything = ids_of(corpus)
        assert corpus.ids(membership) == [everything[i] for i in np.flatnonzero(membership)]

    def test_a_chunk_that_is_shorter_than_it_says_is_refused(self, copied: Workplace) -> None:
        shard = copied.read(tables.TOKENIZED_SHARDS).filter(shard="shard-0001").sort("chunk_id")
        wrong = shard.with_columns(n_tokens=pl.col("n_tokens") + (pl.int_range(pl.len()) == 5))
        copied.delta.write(tables.TOKENIZED_SHARDS, wrong, BY_HAND, {"shard": "shard-0001"})
        with pytest.raises(
            StoreError, match=f"the chunk {shard['chunk_id'][5]} .* does not hold the n_tokens"
        ):
            load_corpus(reader(copied))

    def test_a_pool_of_rows_keeps_empty_and_sliced_lists(self) -> None:
        lists = [[1, 2, 3], [], [7], [8, 9]]
        frame = pl.DataFrame({"input_ids": lists}, schema={"input_ids": tables.TOKENS})
        for part, expected in (
            (frame, lists),
            (frame.slice(1, 2), lists[1:3]),
            (frame[[3, 0]], [[8, 9], [1, 2, 3]]),
        ):
            pool = TokenLists.of_column(part["input_ids"])
            assert [pool.chunk(i) for i in range(pool.n)] == expected


class TestScratch:
    def store(self, folder: Path) -> DeltaStore:
        return DeltaStore(root=str(folder))

    def test_small_arrays_are_in_memory(self, tmp_path: Path) -> None:
        array = scratch.scratch_array(self.store(tmp_path), (3, 4), np.dtype(np.float16))
        assert (array.shape, array.dtype, array.base) == ((3, 4), np.float16, None)

    def test_a_full_disk_is_told_before_anything_is_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        monkeypatch.setattr(scratch, "IN_MEMORY_BYTES", 1000)
        with pytest.raises(
            StoreError, match=r"no room for .* below .* \(No space left on device\); make some"
        ):
            scratch.scratch_array(self.store(tmp_path), (1001,), np.dtype(np.int8))
        assert list(tmp_path.iterdir()) == []
