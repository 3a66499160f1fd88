"""Whole files: one that is not what its name says is read as what it is or refused by name, and every byte of a file
that is read is some row's, so that nothing is passed over in silence."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus import json_rows
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.manifest import (
    describe_blocks,
    extend_manifest,
    mostly_unreadable,
    passed_over,
)
from grasp_pipeline.corpus.readers import read_blocks, read_corpus
from grasp_pipeline.errors import InputError
from grasp_pipeline.tables import MANIFEST

TEXTS = [f"document {number} é漢" for number in range(12)]
LINES = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
PLAIN = "\n".join(LINES).encode() + b"\n"
CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": zstandard.compress,
    "bz2": bz2.compress,
    "lz4": lambda data: pa.compress(data, "lz4", asbytes=True),
}


def manifest_of(path: Path, **settings: object) -> pl.DataFrame:
    config = InputConfig(paths=[str(path)], **settings)
    return extend_manifest(MANIFEST.empty(), describe_blocks(read_corpus(config)), ["s"])


def rows_of(path: Path, data: bytes) -> pl.DataFrame:
    """Write a file and return its rows; every byte of it must be accounted for."""
    path.write_bytes(data)
    config = InputConfig(paths=[str(path)])
    read = list(read_corpus(config))
    assert passed_over(describe_blocks(read)) == []
    return pl.concat([block.frame for _, block in read])


# Read as what they are


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("codec", [*CODECS, "none"])
def test_the_bytes_say_how_a_file_is_compressed(tmp_path: Path, name: str, codec: str) -> None:
    packed = CODECS[codec](PLAIN) if codec in CODECS else PLAIN
    assert rows_of(tmp_path / name, packed)["text"].to_list() == TEXTS


@pytest.mark.parametrize("codec", CODECS)
def test_joined_compressed_parts_are_read_to_the_end(tmp_path: Path, codec: str) -> None:
    pack = CODECS[codec]
    data = pack(b"") + pack(PLAIN) + pack(b"\xef\xbb\xbf" + PLAIN)
    assert rows_of(tmp_path / "a.jsonl", data)["text"].to_list() == TEXTS * 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_the_bytes_say_how_a_file_is_encoded(tmp_path: Path, encoding: str, ends: str) -> None:
    lines, text = (ends.join(LINES)).encode(encoding), "Dear all: 漢字".encode(encoding)
    for data in (lines, gzip.compress(lines)):
        rows = rows_of(tmp_path / "a.jsonl", data)
        assert rows["text"].to_list() == TEXTS
        assert rows["row"].to_list() == list(range(12))
    assert rows_of(tmp_path / "a.txt", text)["text"].to_list() == ["Dear all: 漢字"]
    assert rows_of(tmp_path / "a.txt", gzip.compress(text))["text"].to_list() == ["Dear all: 漢字"]


def test_utf_16_that_is_cut_or_broken_is_told(tmp_path: Path) -> None:
    data = "\n".join(LINES).encode("utf-16")
    broken = LINES[1].replace("doc", "\ud800").encode("utf-16-le", "surrogatepass")
    rows = rows_of(tmp_path / "a.jsonl", data + "\n".encode("utf-16-le") + broken)
    assert rows["fault"].drop_nulls().to_list() == ["invalid_utf8"]
    (tmp_path / "a.jsonl").write_bytes(data[:-1])
    with pytest.raises(InputError, match=r"a\.jsonl' is not a complete JSON-lines file .*write it again"):
        manifest_of(tmp_path / "a.jsonl")


@pytest.mark.parametrize("buffer", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n", "mixed"])
def test_lines_end_as_in_any_text(
    tmp_path: Path, ends: str, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("grasp_pipeline.corpus.streams._BUFFER_BYTES", buffer)
    separators = ["\r", "\n", "\r\n"] * 4 if ends == "mixed" else [ends] * 12
    data = "".join(line + end for line, end in zip(LINES, separators, strict=True)).encode()
    rows = rows_of(tmp_path / "a.jsonl", data)
    assert rows["text"].to_list() == TEXTS
    assert rows["row"].to_list() == list(range(12))


# Refused by name, with the likely reason

PRETTY = "".join(json.dumps({"text": text, "meta": {"n": [1]}}, indent=2) + "\n" for text in TEXTS)
WRONG = {
    "an array after a blank line": (
        b"\n \n" + json.dumps([{"text": text} for text in TEXTS]).encode(),
        "holds a JSON array; write it as JSON lines",
    ),
    "an array over lines": (b'\r\n[\r\n{"text": "a"},\r\n{"text": "b"}]', "holds a JSON array; write"),
    "an array in UTF-16": ('[{"text": "a"}]'.encode("utf-16"), "holds a JSON array; write"),
    "objects over lines": (PRETTY.encode(), r"take several lines each; write one object a line, as with `jq"),
    "objects over lines, after a mark": (b"\xef\xbb\xbf\n" + PRETTY.encode(), r"take several lines each"),
    "a page": (
        b"<!DOCTYPE html>\n<html>\n<body>503</body>\n</html>\n",
        "looks like an HTML .* page; fetch it",
    ),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "looks like a pointer of Git LFS instead of the file; fetch it again",
    ),
    "CSV": (b"id,text\n1,one\n2,two\n", "looks like CSV; write it as JSON lines"),
    "numbers, tabbed": (b"1\tone\n2\ttwo\n", "looks like CSV"),
    "Latin-1": (
        "\n".join(LINES).replace("漢", "").encode("latin-1"),
        "is not UTF-8; convert it, as with iconv",
    ),
    "dictionaries": ("\n".join(str({"text": text}) for text in TEXTS).encode(), "Python dictionaries; write"),
    "prose": (b"Once upon a time\nthere was\n", r"line 1, column 1: Expecting value; write it as JSON lines"),
    "strings": (b'"one"\n"two"\n', r"line 1 is not a JSON object; write it as JSON lines"),
    "zero bytes": (b"\0" * 5_000, "holds zero bytes"),
    "xz": (lzma.compress(PLAIN), "looks like xz-compressed data; unpack it"),
    "a zip archive": (b"PK\x03\x04" + b"\0" * 60, "looks like a zip archive; unpack it"),
    "a cut line": (b'{"text": "one', r"line 1, column 10: Unterminated string"),
    "one endless line": (
        b'{"text": "' + b"x" * 1_100_000 + b'"}',
        "a line of 1100012 bytes is above the limit",
    ),
    "an endless array": (b'[{"text": "' + b"x" * 1_100_000 + b'"}]', "holds a JSON array"),
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json.gz"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_file_without_a_line_of_json_is_refused_with_the_likely_reason(
    tmp_path: Path, kind: str, name: str
) -> None:
    data, reason = WRONG[kind]
    (tmp_path / "good.jsonl").write_bytes(PLAIN)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(InputError, match=rf"'.*{name}'.*{reason}") as error:
        manifest_of(tmp_path, max_document_bytes=1_000)
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert not any(word in message for word in ("503", "sha256", "Once", "document 1"))


def test_a_parquet_file_of_another_name_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.jsonl")
    with pytest.raises(InputError, match=r"a\.jsonl' is a JSON object: it looks like a Parquet file; unpack"):
        manifest_of(tmp_path)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", ""),
        (b"\n<html>503</html>", "it looks like an HTML or XML page"),
        (lzma.compress(PLAIN), "it looks like xz-compressed data"),
    ],
)
def test_what_is_under_a_packed_name_is_told(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / "good.jsonl").write_bytes(PLAIN)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}' is not a complete .* file \(.*{reason}.*write it again"):
        manifest_of(tmp_path)


def test_many_lines_that_are_not_json_are_refused_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "_ROWS_TO_JUDGE", 3)
    (tmp_path / "a.jsonl").write_bytes(b"no\nno\nno\n" + PLAIN)
    with pytest.raises(InputError, match="No line of the input"):
        manifest_of(tmp_path)


# Most lines bad


def test_a_file_of_mostly_bad_lines_is_warned_of(tmp_path: Path) -> None:
    lines = [*LINES[:4], *["no JSON"] * 5]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    (tmp_path / "bytes.jsonl").write_text("\n".join([*LINES, "no JSON" * 1_000]))
    (tmp_path / "good.jsonl").write_text("\n".join([*LINES, "no JSON"]))
    pq.write_table(pa.table({"text": pa.nulls(3)}), tmp_path / "null.parquet")
    frame = manifest_of(tmp_path)
    assert [warning.removeprefix(f"'{tmp_path}/") for warning in mostly_unreadable(frame)] == [
        "bytes.jsonl': 1 of 13 rows (95% of the file) have no usable text",
        "lines.jsonl': 5 of 9 rows (25% of the file) have no usable text",
        "null.parquet': 3 of 3 rows (100% of the file) have no usable text",
    ]
    assert passed_over(frame) == []


# Every byte is some row's

LINE = st.one_of(
    st.sampled_from(LINES),
    st.sampled_from(
        ['{"text": null}', '{"text": "a", "text": "b"}', "[1]", "", "  ", '{"text": "cut', "\ufeff{}"]
    ),
    st.text(max_size=8),
)


@given(
    st.lists(st.tuples(LINE, st.sampled_from(["\n", "\r\n", "\r"])), max_size=20),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"]),
    st.sampled_from([*CODECS, "none"]),
    st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.txt"]),
)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_line_of_any_file_is_a_row_or_the_file_is_refused_by_name(
    tmp_path: Path, lines: list[tuple[str, str]], encoding: str, codec: str, name: str
) -> None:
    data = "".join(line + end for line, end in lines).encode(encoding, "replace")
    path = tmp_path / name
    path.write_bytes(CODECS[codec](data) if codec in CODECS else data)
    config = InputConfig(paths=[str(path)], block_bytes=10_000)
    (file,) = resolve_inputs(config)
    blocks, refusal = [], None
    try:
        blocks = list(read_blocks(file, config))
    except InputError as error:
        refusal = str(error)
    if refusal is not None:
        assert name in refusal
        return
    described = describe_blocks((file, block) for block in blocks)
    assert passed_over(described) == []
    rows = described["n_rows"].sum()
    if name == "a.txt":
        assert rows == 1
    elif encoding != "latin-1":
        text = data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        assert rows == sum(bool(line.removeprefix("\ufeff").encode().strip()) for line in text.split("\n"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_the_bytes_of_several_blocks_add_up(tmp_path: Path, name: str) -> None:
    text = "long " * 1_000
    data = (
        b"\xef\xbb\xbf\n"
        + b"".join(json.dumps({"text": text}).encode() + b"\n\n" for _ in range(9))
        + b"\n \n"
    )
    codec = {".gz": "gzip", ".zst": "zstd"}.get(Path(name).suffix, "")
    (tmp_path / name).write_bytes(CODECS[codec](data) if codec else data)
    frame = manifest_of(tmp_path / name, block_bytes=10_000)
    assert frame["n_rows"].to_list() == [2, 2, 2, 2, 1]
    assert frame["extent"].sum() == len(data)
    assert frame["file_extent"].to_list() == [None] * 4 + [len(data)]
    assert frame["unit"].unique().to_list() == ["byte"]
    assert passed_over(frame) == []


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("lost", ["a line", "the rest"])
def test_a_part_that_the_reader_passes_over_is_seen(
    tmp_path: Path, name: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows alone would still be equal to documents and rejected rows together."""
    whole = json_rows._lines

    def careless(*arguments):
        for number, line in enumerate(whole(*arguments)):
            if number == 5 and lost == "the rest":
                return
            if number != 5:
                yield line

    monkeypatch.setattr(json_rows, "_lines", careless)
    (tmp_path / name).write_bytes(gzip.compress(PLAIN) if name.endswith("gz") else PLAIN)
    read = len(PLAIN) - sum(
        len(line.encode()) + 1 for line in (LINES[5:] if lost == "the rest" else LINES[5:6])
    )
    (said,) = passed_over(manifest_of(tmp_path))
    assert said == f"'{tmp_path / name}' has {len(PLAIN)} bytes, its rows account for {read}"


def test_rows_of_a_table_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet")
    frame = manifest_of(tmp_path / "a.parquet")
    assert frame.select("unit", "extent", "file_extent").row(0) == ("row", 12, 12)
    batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda *given, **more: list(batches(*given, **more))[1:]
    )
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "a.parquet", row_group_size=3)
    config = InputConfig(paths=[str(tmp_path)])
    (file,) = resolve_inputs(config)
    read = describe_blocks((file, block) for block in read_blocks(file, config, None, 3))
    assert passed_over(read) == [f"'{tmp_path}/a.parquet' has 12 rows, its rows account for 9"]
