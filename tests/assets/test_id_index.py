"""The index of ids finds the shards that a search of all ids finds."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from assets.id_index import IdIndex


def ids(n: int = 500) -> pl.DataFrame:
    draw = np.random.default_rng(0)
    names = [f"{draw.integers(2**63):016x}{draw.integers(2**63):016x}-{i % 3}" for i in range(n)]
    return pl.DataFrame({"chunk_id": names, "shard": [f"shard-{draw.integers(5)}" for _ in names]})


@pytest.mark.parametrize("length", [0, 1, 2, 5, 16, 17, 34])
def test_the_same_shards_as_by_reading_every_id(length: int) -> None:
    frame = ids()
    index = IdIndex.of(frame.lazy(), "chunk_id")
    assert index is not None
    for beginning in {name[:length] for name in frame["chunk_id"][:40]}:
        read = frame.filter(pl.col("chunk_id").str.starts_with(beginning))["shard"].unique()
        assert set(read) <= set(index.shards_of(beginning))
        if length <= 16:
            assert index.shards_of(beginning) == sorted(read)


def test_what_begins_no_id_is_in_no_shard() -> None:
    index = IdIndex.of(ids().lazy(), "chunk_id")
    assert index is not None
    assert index.shards_of("zz") == []
    assert index.shards_of("0" * 16 + "-9") == []
    assert IdIndex.of(pl.LazyFrame({"chunk_id": ["by hand"], "shard": ["a"]}), "chunk_id") is None
