"""Files that nobody wrote in good faith: rows, faults in words, or one sentence; never a bare traceback."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from cases import many, told_or_done
from hostile import encodable, names, values
from hypothesis import example, given
from hypothesis import strategies as st

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.readers import RAW_SCHEMA, Block, read_blocks
from grasp_pipeline.errors import InputError

pytestmark = pytest.mark.slow

LIMIT = 10_000


def blocks_of(path: Path, **settings: object) -> list[Block]:
    config = InputConfig(paths=[str(path)], max_document_bytes=LIMIT, **settings)  # type: ignore[arg-type]
    return [block for file in resolve_inputs(config) for block in read_blocks(file, config)]


def check(blocks: list[Block]) -> None:
    """Every row is a text below the limit, or a fault in words."""
    for block in blocks:
        assert block.frame.schema == RAW_SCHEMA
        for row in block.frame.iter_rows(named=True):
            assert (row["text"] is None) is (row["fault"] is not None)
            assert row["text"] is None or len(row["text"].encode()) <= LIMIT


def file_of(tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> Path:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    return path


broken = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=30).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.integers(1, 3000).map(lambda depth: b"[" * depth),
    st.integers(1, 3000).map(lambda depth: b'{"text":' * depth),
    st.integers(900, 1100).map(lambda depth: b'{"text":"x","id":' + b"[" * depth + b"]" * depth + b"}"),
    st.integers(1, 6000).map(lambda digits: b'{"text":"x","id":' + b"9" * digits + b"}"),
    st.just(b'{"text":"x","text":"y"}'),
    st.just(b'{"text":"\\ud800","id":"\\udfff"}'),
    st.integers(1, LIMIT * 8).map(lambda size: b'{"text":"' + b"x" * size + b'"}'),
)
records = st.dictionaries(st.one_of(st.sampled_from(["text", "id", "from"]), names), values, max_size=4)
lines = st.one_of(records.map(lambda record: json.dumps(record).encode()), broken)


@many("lines of JSON")
@given(st.lists(lines, max_size=5), st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\0\n"]))
def test_lines_of_json(tmp_path_factory: pytest.TempPathFactory, found: list[bytes], end: bytes) -> None:
    path = file_of(tmp_path_factory, "lines.jsonl", end.join(found))
    with told_or_done("lines of JSON"):
        check(blocks_of(path, id_column="id", source_column="from"))


@many("bytes of text files")
@given(
    st.one_of(st.binary(max_size=200), names.map(lambda name: name.encode("utf-8", "surrogatepass"))),
    st.sampled_from(["t.txt", "t.jsonl", "t.json.gz", "t.jsonl.zst", "t.parquet"]),
    st.sampled_from(
        [b"", b"\xff\xfe", b"\xfe\xff", b"\xff\xfe\0\0", b"\xef\xbb\xbf", b"\x1f\x8b\x08", b"PAR1", b"{"]
    ),
)
def test_bytes_under_any_name(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str, mark: bytes
) -> None:
    path = file_of(tmp_path_factory, name, mark + data)
    with told_or_done("bytes of text files"):
        check(blocks_of(path))


def good_parquet(compression: str) -> bytes:
    table = pa.table(
        {
            "text": [f"a text of its own {number}" for number in range(40)] + [None, ""],
            "id": list(range(42)),
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=20, compression=compression)
    return out.getvalue()


PARQUETS = [good_parquet("NONE"), good_parquet("zstd"), good_parquet("snappy")]
PACKED = [
    pack(b"".join(json.dumps({"text": f"text {number}"}).encode() + b"\n" for number in range(30)))
    for pack in (gzip.compress, zstandard.compress)
]
changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4)


def changed(data: bytes, where: list[tuple[int, int]], cut: int) -> bytes:
    whole = bytearray(data)
    for place, byte in where:
        whole[place % len(whole)] = byte
    return bytes(whole[: len(whole) - cut % len(whole)]) if cut else bytes(whole)


@many("Parquet files with changed bytes")
@given(st.sampled_from(PARQUETS), changes, st.one_of(st.just(0), st.integers(0, 2000)))
@example(PARQUETS[0], [(1881, 0)], 0)  # pyarrow's metadata of this column end the process
def test_parquet_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: list[tuple[int, int]], cut: int
) -> None:
    path = file_of(tmp_path_factory, "changed.parquet", changed(data, where, cut))
    with told_or_done("Parquet files with changed bytes"):
        check(blocks_of(path, id_column="id"))


@many("archives with changed bytes")
@given(st.sampled_from([0, 1]), changes, st.one_of(st.just(0), st.integers(0, 100)))
def test_archives_with_changed_bytes(
    tmp_path_factory: pytest.TempPathFactory, which: int, where: list[tuple[int, int]], cut: int
) -> None:
    name = ("packed.jsonl.gz", "packed.jsonl.zst")[which]
    path = file_of(tmp_path_factory, name, changed(PACKED[which], where, cut))
    with told_or_done("archives with changed bytes"):
        check(blocks_of(path))


@many("input paths")
@given(st.lists(st.one_of(encodable, st.text(alphabet="*?[]/.a!-", max_size=12)), min_size=1, max_size=3))
def test_input_paths(tmp_path_factory: pytest.TempPathFactory, paths: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "inputs"
    if not folder.exists():
        folder.mkdir()
        (folder / "a.jsonl").write_text('{"text": "x"}\n')
    local = [path for path in paths if "://" not in path]  # nothing is asked for over a network
    with told_or_done("input paths"):
        resolve_inputs(InputConfig(paths=[f"{folder}/{path}" for path in local] or [str(folder)]))


MEASURED = """
import resource, sys, time
from pathlib import Path
sys.path[:0] = [{root!r}]
from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.readers import read_blocks
from grasp_pipeline.errors import GraspError
import polars, pyarrow.parquet
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
config = InputConfig(paths=[sys.argv[1]])
rows, faults = 0, set()
try:
    for file in resolve_inputs(config):
        for block in read_blocks(file, config):
            rows += block.frame.height
            faults |= set(block.frame["fault"].to_list())
            if rows >= {rows}:
                break
except GraspError as error:
    faults.add(str(error))
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(rows, round(grown), sorted(map(str, faults)))
"""


def read_apart(path: Path, rows: int = 10**9) -> tuple[int, int, str]:
    """Read a file in a process of its own; returns rows, MiB that its memory grew by, and the faults."""
    root = str(Path(__file__).resolve().parents[2])
    code = MEASURED.format(root=root, rows=rows)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found, grown, faults = done.stdout.strip().split(" ", 2)
    return int(found), int(grown), faults


def test_a_line_of_200_mb_is_one_fault_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        for _ in range(200):
            file.write(b"x" * 1_000_000)
        file.write(b'"}\n{"text": "after"}\n')
    rows, grown, faults = read_apart(path)
    assert (rows, faults) == (3, "['None', 'oversized']")
    assert grown < 400


def test_a_parquet_dictionary_bomb_is_read_row_by_row(tmp_path: Path) -> None:
    """One text of 8 MB, named by ten thousand rows: 80 GB of text in a file of a few hundred bytes."""
    text = pa.array(["x" * 8_000_000])
    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), text)
    pq.write_table(pa.table({"text": rows}), tmp_path / "bomb.parquet", compression="zstd")
    assert (tmp_path / "bomb.parquet").stat().st_size < 100_000
    rows_read, grown, faults = read_apart(tmp_path / "bomb.parquet", 50)
    assert (rows_read, faults) == (50, "['None']")
    assert grown < 600


def test_a_parquet_file_that_expands_a_thousandfold_is_refused(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["x" * 600_000_000], pa.large_string())})
    pq.write_table(table, tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False)
    del table
    assert (tmp_path / "bomb.parquet").stat().st_size < 1_000_000
    rows, grown, faults = read_apart(tmp_path / "bomb.parquet")
    assert rows == 0
    assert "expands" in faults
    assert grown < 200


@pytest.mark.parametrize("depth", [500, 1_000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"text":', '{"text":"x","id":['])
def test_deeply_nested_json_is_told(tmp_path: Path, opening: str, depth: int) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text(opening * depth + "\n" + '{"text": "good", "id": "1"}\n')
    if opening == "[":  # not JSON lines at all
        with pytest.raises(InputError, match="holds a JSON array"):
            blocks_of(path, id_column="id")
        return
    blocks = blocks_of(path, id_column="id")
    frame = pl.concat([block.frame for block in blocks])
    assert frame["text"].drop_nulls().to_list() == ["good"]
    assert frame["fault"].drop_nulls().to_list() in (["unparsable_json"], ["text_not_string"], ["oversized"])
