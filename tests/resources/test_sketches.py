"""Stored sketches read back in blocks: the rows of the table, each once, whatever the block size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grasp_pipeline import tables
from grasp_pipeline.errors import InputError, StoreError
from grasp_pipeline.sketch.storage import decode, encode
from resources.delta.commits import Provenance
from resources.delta.files import data_files
from resources.delta.tables import DeltaTables
from resources.notes import SketchNote
from resources.sketches import SketchReader, sketch_seconds

MADE = Provenance("run", "gradient_sketches", "1", "config")
D, SCALE = 5, 0.25
SHARDS = {"a b": 23, "x'y/z%": 40, "empty": 0, "é": 1}


def rows_of(kind: str, shard: str, n: int, d: int = D, scale: float = SCALE) -> pl.DataFrame:
    values = np.random.default_rng([n, len(kind), ord(shard[0])]).standard_normal((n, d)).astype(np.float32)
    ids = [f"{shard}-{i}" for i in range(n)]
    return pl.DataFrame(
        {
            "sketch_kind": [kind] * n,
            "chunk_id": ids,
            "sketch": encode(values, scale, ids),
            "d": [d] * n,
            "scale": [scale] * n,
            "loss": [1.0] * n,
            "norm": [1.0] * n,
            "n_tokens": [3] * n,
            "shard": [shard] * n,
        },
        schema=tables.GRADIENT_SKETCHES.schema,
    )


def put(delta: DeltaTables, kind: str, shard: str, frame: pl.DataFrame, stream: bool = True) -> int:
    partition = {"sketch_kind": kind, "shard": shard}
    if stream:
        pieces = frame.iter_slices(6)
        return delta.write_stream(tables.GRADIENT_SKETCHES, pieces, MADE, partition, dict, 9).version
    return delta.write(tables.GRADIENT_SKETCHES, frame, MADE, partition).version


@pytest.fixture(scope="module")
def delta(tmp_path_factory: pytest.TempPathFactory) -> DeltaTables:
    """Two kinds, some shards; one shard written twice, and one by the frame writer."""
    delta = DeltaTables(str(tmp_path_factory.mktemp("lake") / "a store"))
    for kind in ("output", "full"):
        for shard, n in SHARDS.items():
            put(delta, kind, shard, rows_of(kind, shard, n + 3))
            put(delta, kind, shard, rows_of(kind, shard, n), stream=shard != "a b")
    return delta


def version(delta: DeltaTables) -> int:
    return delta.pin(tables.GRADIENT_SKETCHES).version


@given(st.integers(1, 60), st.sets(st.sampled_from(["a b", "x'y/z%", "é"]), min_size=1))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_are_the_tables_rows_in_a_fixed_order(delta: DeltaTables, rows: int, shards: set[str]) -> None:
    reader = SketchReader(delta, version(delta), "output", sorted(shards))
    blocks = list(reader.blocks(rows))
    slow = pl.concat([rows_of("output", shard, SHARDS[shard]) for shard in sorted(shards)])
    assert (reader.n, reader.d, reader.scale) == (slow.height, D, SCALE)
    assert max(len(b.ids) for b in blocks) <= rows
    assert [i for b in blocks for i in b.ids] == slow["chunk_id"].to_list()
    assert all(b.sketches.dtype == np.dtype("<f2") for b in blocks)
    np.testing.assert_array_equal(
        np.concatenate([b.sketches for b in blocks]), decode(slow["sketch"], D).astype("<f2")
    )


def test_a_version_is_read_as_it_was(delta: DeltaTables) -> None:
    first = next(c for c in reversed(delta.commits(tables.GRADIENT_SKETCHES)))
    assert first.partition == {"sketch_kind": "output", "shard": "a b"}
    assert SketchReader(delta, first.version, "output").n == SHARDS["a b"] + 3


def test_what_is_not_there_is_named(delta: DeltaTables) -> None:
    now = version(delta)
    with pytest.raises(StoreError, match="no full sketches of the shards nowhere"):
        SketchReader(delta, now, "full", ["a b", "nowhere"])
    with pytest.raises(StoreError, match="no layers sketches at version"):
        SketchReader(delta, now, "layers")


def test_shards_that_do_not_match_are_refused(tmp_path: Path) -> None:
    delta = DeltaTables(str(tmp_path))
    put(delta, "output", "a", rows_of("output", "a", 3))
    put(delta, "output", "b", rows_of("output", "b", 3, scale=0.5))
    with pytest.raises(StoreError, match="do not match in dimension or scale"):
        SketchReader(delta, version(delta), "output")


def test_a_row_of_another_width_names_the_file(tmp_path: Path) -> None:
    delta = DeltaTables(str(tmp_path))
    wrong = rows_of("output", "a", 3).with_columns(sketch=pl.Series([b"12", b"1234567890", b"12"]))
    put(delta, "output", "a", wrong)
    with pytest.raises(InputError, match=r"shard=a/part-.*does not hold 5 float16"):
        list(SketchReader(delta, version(delta), "output").blocks())


def test_marked_deletions_are_refused(tmp_path: Path) -> None:
    from deltalake import DeltaTable

    path = str(tmp_path / "marked")
    DeltaTable.create(
        path,
        tables.GRADIENT_SKETCHES.empty().to_arrow().schema,
        partition_by=["sketch_kind", "shard"],
        configuration={"delta.enableDeletionVectors": "true"},
    )
    with pytest.raises(StoreError, match="deletion vectors"):
        data_files(DeltaTable(path))


def test_a_kind_took_what_its_shards_last_took(tmp_path: Path) -> None:
    delta = DeltaTables(str(tmp_path))
    took = [("output", "a", 2, 8.0), ("output", "a", 3, 1.0), ("output", "b", 3, 2.0), ("full", "a", 3, 4.0)]
    for kind, shard, n, seconds in took:
        partition = {"sketch_kind": kind, "shard": shard}
        note = SketchNote(rows=n, tokens=3 * n, seconds=seconds, bytes_per_chunk=2 * D, made_from="")
        delta.write(tables.GRADIENT_SKETCHES, rows_of(kind, shard, n), MADE, partition, note.to_json())
    assert [sketch_seconds(delta, kind) for kind in ("output", "full", "layers")] == [3.0, 4.0, 0]


def test_batches_of_a_table_are_its_rows(delta: DeltaTables) -> None:
    now, part = version(delta), {"sketch_kind": "full", "shard": "x'y/z%"}
    for rows in (4, 9, 100):
        frames = list(delta.batches(tables.GRADIENT_SKETCHES, now, part, rows=rows))
        assert max(f.height for f in frames) <= rows
        assert pl.concat(frames).equals(rows_of("full", "x'y/z%", SHARDS["x'y/z%"]))
    columns = ["shard", "chunk_id"]
    (frame,) = delta.batches(tables.GRADIENT_SKETCHES, now, {**part, "shard": "é"}, columns)
    assert frame.rows() == [("é", "é-0")]
