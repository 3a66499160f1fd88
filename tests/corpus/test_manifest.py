"""The manifest: blocks keep their shard, shards fill evenly, arrival order lasts."""

import gzip
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.manifest import describe_blocks, extend_manifest, place_blocks
from grasp_pipeline.corpus.readers import read_corpus
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.tables import MANIFEST

SHARDS = ["s0", "it's", "a/b"]
SIZES = st.dictionaries(
    st.sampled_from([f"f{number}" for number in range(6)]),
    st.lists(st.integers(1, 1_000), min_size=1, max_size=4),
    min_size=1,
)


def blocks(files: dict[str, list[int]], fingerprint: str = "x") -> pl.DataFrame:
    schema = {name: dtype for name, dtype in MANIFEST.schema.items() if name not in ("shard", "founding")}
    rows = [
        (uri, index, index * 10, 10, size, 0, "byte", size, 0, size, fingerprint)
        for uri in sorted(files)
        for index, size in enumerate(files[uri])
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def shards_of(manifest: pl.DataFrame) -> dict:
    return {(uri, block): shard for uri, block, shard in manifest.select("uri", "block", "shard").iter_rows()}


@given(SIZES, SIZES)
def test_known_blocks_never_move_and_arrive_first(before: dict, after: dict) -> None:
    first = extend_manifest(MANIFEST.empty(), blocks(before), SHARDS)
    second = extend_manifest(first, blocks(after, "y"), SHARDS)
    old, new = shards_of(first), shards_of(second)
    assert set(new) == set(shards_of(extend_manifest(MANIFEST.empty(), blocks(after), SHARDS)))
    assert all(old[key] == new[key] for key in old.keys() & new.keys())
    assert list(new)[: len(old.keys() & new.keys())] == [key for key in old if key in new]
    assert second["fingerprint"].unique().to_list() == ["y"]
    assert extend_manifest(second, blocks(after, "y"), SHARDS).equals(second)


@given(SIZES)
def test_shards_fill_evenly(files: dict) -> None:
    manifest = extend_manifest(MANIFEST.empty(), blocks(files), SHARDS)
    filled = [manifest.filter(pl.col("shard") == shard)["n_bytes"].sum() for shard in SHARDS]
    assert max(filled) - min(filled) <= manifest["n_bytes"].max()


def test_additions_go_to_the_emptiest_shard_and_ties_to_the_first() -> None:
    first = extend_manifest(MANIFEST.empty(), blocks({"a": [5], "b": [9]}), SHARDS)
    assert first["shard"].to_list() == ["s0", "it's"]
    second = extend_manifest(first, blocks({"0": [3], "a": [5], "b": [9]}), SHARDS)
    assert second["uri"].to_list() == ["a", "b", "0"]
    assert second["shard"].to_list() == ["s0", "it's", "a/b"]


def test_shards_can_be_added_but_not_taken_away() -> None:
    first = extend_manifest(MANIFEST.empty(), blocks({"a": [5, 5]}), ["s0", "s1"])
    more = extend_manifest(first, blocks({"a": [5, 5, 1]}), ["s0", "s1", "s2"])
    assert more["shard"].to_list() == ["s0", "s1", "s2"]
    with pytest.raises(ConfigError, match="'s1' hold blocks"):
        extend_manifest(first, blocks({"a": [5, 5]}), ["s0"])


@pytest.mark.parametrize("shards", [[], ["s", "s"]])
def test_bad_shard_names_are_refused(shards: list[str]) -> None:
    with pytest.raises(ConfigError, match="name at least one, and each once"):
        extend_manifest(MANIFEST.empty(), blocks({"a": [1]}), shards)


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(InputError, match="no rows"):
        extend_manifest(MANIFEST.empty(), blocks({}), ["s"])


def test_blocks_are_placed_and_a_changed_file_is_noticed(tmp_path) -> None:
    path = tmp_path / "it's a.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    config = InputConfig(paths=[str(path)])
    read = list(read_corpus(config))
    manifest = extend_manifest(MANIFEST.empty(), describe_blocks(read), ["x' OR 'a'='a"])
    placed = place_blocks([block for _, block in read], manifest)
    assert placed["shard"].to_list() == ["x' OR 'a'='a"] * 2
    assert placed["source"].to_list() == ["it's a"] * 2
    assert placed["arrival"].to_list() == [0, 0]
    path.write_text('{"text": "one"}\n{"text": "three"}\n')
    with pytest.raises(InputError, match="has changed since the manifest was made"):
        place_blocks([block for _, block in read_corpus(config)], manifest)


def contents(files: dict[str, str]) -> pl.DataFrame:
    """Files of one-letter blocks, each letter a content; all of one size."""
    rows = [
        (uri, index, index, 1, 5, 0, "byte", 5, 0, 5, letter)
        for uri, letters in files.items()
        for index, letter in enumerate(letters)
    ]
    schema = {name: dtype for name, dtype in MANIFEST.schema.items() if name not in ("shard", "founding")}
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [
        ({"a": "PQ", "b": "R"}, {"b": "R", "c": "PQ"}, "c0 c1 b0"),  # renamed
        ({"a": "P", "b": "R"}, {"a": "R", "b": "P"}, "b0 a0"),  # names changed places
        ({"a": "P"}, {"a": "P", "b": "P"}, "a0 b0!"),  # copied: the copy is new
        ({"a": "P", "b": "P"}, {"b": "P"}, "b0"),  # one of two copies went
        ({"a": "P"}, {"a": "S", "b": "P"}, "b0 a0!"),  # renamed, and another file under the old name
        ({"a": "PQ"}, {"a": "ST"}, "a0 a1"),  # edited
        ({"a": "PQR"}, {"a": "PR"}, "a0 a1"),  # the middle went
        ({"a": "P", "b": "Q"}, {"b": "Q", "c": "S"}, "b0 c0!"),  # gone, and a new one
    ],
)
def test_blocks_are_known_by_their_content(before: dict, after: dict, order: str) -> None:
    first = extend_manifest(MANIFEST.empty(), contents(before), SHARDS)
    second = extend_manifest(first, contents(after), SHARDS)
    said = [
        f"{uri}{block}{'' if founding else '!'}"
        for uri, block, founding in second.select("uri", "block", "founding").iter_rows()
    ]
    assert " ".join(said) == order
    shard_of = dict(first.select("fingerprint", "shard").iter_rows())
    for letter, shard, founding in second.select("fingerprint", "shard", "founding").iter_rows():
        assert not founding or shard == shard_of.get(letter, shard)


def test_a_renamed_and_packed_file_is_the_same_content(tmp_path: Path) -> None:
    lines = b'{"text": "one"}\n{"no": 1}\n{"text": "two"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.jsonl").write_bytes(lines.replace(b"two", b"three"))
    config = InputConfig(paths=[str(tmp_path)])
    first = extend_manifest(MANIFEST.empty(), describe_blocks(read_corpus(config)), SHARDS)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "z.jsonl.gz").write_bytes(gzip.compress(lines))
    second = extend_manifest(first, describe_blocks(read_corpus(config)), SHARDS)
    assert second["uri"].str.split("/").list.last().to_list() == ["z.jsonl.gz", "b.jsonl"]
    assert second.drop("uri").equals(first.drop("uri"))
