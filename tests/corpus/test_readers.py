"""Reading: every format gives the same rows, blocks depend on the rows alone, and bad input is named."""

import gzip
import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.readers import RAW_SCHEMA, Block, read_blocks, read_corpus
from grasp_pipeline.errors import InputError

TEXTS = ["one", "zwei\nlines", "", None, "漢字 \U0001f600", "tail " * 50]


def blocks_of(path: Path, batch_rows: int | None = None, **settings: object) -> list[Block]:
    config = InputConfig(paths=[str(path)], **settings)
    return [block for file in resolve_inputs(config) for block in read_blocks(file, config, None, batch_rows)]


def rows_of(path: Path, **settings: object) -> pl.DataFrame:
    return pl.concat([block.frame for block in blocks_of(path, **settings)])


def write(path: Path, records: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path, row_group_size=2)
        return path
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".zst":
        data = zstandard.compress(data)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", ["c.parquet", "c.jsonl", "c.json", "c.ndjson", "c.jsonl.gz", "c.jsonl.zst"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    records = [{"text": text, "key": number, "from": "web"} for number, text in enumerate(TEXTS)]
    rows = rows_of(write(tmp_path / name, records), id_column="key", source_column="from")
    assert rows.schema == RAW_SCHEMA
    assert rows["row"].to_list() == list(range(len(TEXTS)))
    assert rows["text"].to_list() == TEXTS
    assert rows["user_id"].to_list() == [str(number) for number in range(len(TEXTS))]
    assert rows["source"].unique().to_list() == ["web"]
    assert rows["n_bytes"].to_list() == [len((text or "").encode()) for text in TEXTS]
    assert rows["fault"].to_list() == [None if text is not None else "missing_text" for text in TEXTS]


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "My letter.v2.txt").write_bytes(b"\xef\xbb\xbfDear all,\n\nbye\n")
    rows = rows_of(tmp_path / "My letter.v2.txt")
    assert rows.row(0) == (0, "Dear all,\n\nbye\n", None, "My letter.v2", 15, None, None)


def test_null_sources_fall_back_to_the_files_name(tmp_path: Path) -> None:
    path = write(tmp_path / "web.jsonl", [{"text": "a", "s": None}, {"text": "b", "s": "a/b's"}])
    assert rows_of(path, source_column="s")["source"].to_list() == ["web", "a/b's"]


@given(st.lists(st.text(st.sampled_from("aé漢"), max_size=8), min_size=1, max_size=40), st.integers(1, 9))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blocks_do_not_depend_on_how_the_file_is_read(
    tmp_path: Path, texts: list[str], batch_rows: int
) -> None:
    texts = [text * 500 for text in texts]
    records = [{"text": text} for text in texts]
    parquet = write(tmp_path / "a.parquet", records)
    blocks = blocks_of(parquet, batch_rows, block_bytes=10_000)
    for other in (
        blocks_of(parquet, None, block_bytes=10_000),
        blocks_of(write(tmp_path / "a.jsonl.zst", records), None, block_bytes=10_000),
    ):
        assert [(b.index, b.first_row, b.n_bytes) for b in other] == [
            (b.index, b.first_row, b.n_bytes) for b in blocks
        ]
        assert all(b.frame.equals(o.frame) for b, o in zip(blocks, other, strict=True))
    assert pl.concat([block.frame for block in blocks])["text"].to_list() == texts
    assert [block.index for block in blocks] == list(range(len(blocks)))
    assert all(block.n_bytes >= 10_000 for block in blocks[:-1])
    assert all(block.n_bytes - block.frame["n_bytes"][-1] < 10_000 for block in blocks)


# Bad rows become rows with a fault


def test_bad_json_lines_become_faults(tmp_path: Path) -> None:
    lines = [
        b'{"text": "good"}',
        b'{"text": "SECRET" oops}',
        b"",
        b'{"text": "caf\xe9 SECRET"}',
        b'["SECRET"]',
        b'{"other": 1}',
        b'{"text": null}',
        b'{"text": 7}',
        b'{"text": "lone \\ud800 and \\ud83d\\ude00"}',
        b'{"text": "x", "n": ' + b"9" * 5_000 + b"}",
        b"[" * 100_000,
        b'{"text": "no newline at the end"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    rows = rows_of(tmp_path / "a.jsonl")
    assert dict(zip(rows["row"], rows["fault"], strict=True)) == {
        0: None,
        1: "unparsable_json",
        3: "invalid_utf8",
        4: "not_an_object",
        5: "missing_text",
        6: "missing_text",
        7: "text_not_string",
        8: None,
        9: None,
        10: "unparsable_json",
        11: None,
    }
    details = rows["fault_detail"].drop_nulls().to_list()
    assert details[0].startswith("line 2, column 19: Expecting")
    assert not any("SECRET" in detail for detail in details)
    assert rows.filter(pl.col("row") == 8)["text"].item() == "lone \ufffd and \U0001f600"
    assert rows.filter(pl.col("fault").is_not_null())["text"].null_count() == 7


def test_invalid_utf8_in_text_and_parquet_becomes_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    row = rows_of(tmp_path / "a.txt").row(0, named=True)
    assert (row["text"], row["fault"], row["fault_detail"]) == (None, "invalid_utf8", "byte 3 is not UTF-8")
    binary = pa.array([b"good", b"b\xffd", None], type=pa.binary())
    strings = pa.StringArray.from_buffers(3, binary.buffers()[1], binary.buffers()[2], binary.buffers()[0])
    pq.write_table(pa.table({"text": strings, "s": strings}), tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet", source_column="s")
    assert rows["text"].to_list() == ["good", None, None]
    assert rows["fault"].to_list() == [None, "invalid_utf8", "missing_text"]
    assert rows["source"].to_list() == ["good", "b\ufffdd", "a"]


def test_a_number_of_any_length_beside_the_text_loses_nothing(tmp_path: Path) -> None:
    digits = "7" * 5_000
    (tmp_path / "a.jsonl").write_text(f'{{"text": "x", "n": [{digits}], "key": {digits}, "small": 7}}\n')
    assert rows_of(tmp_path / "a.jsonl", id_column="key").row(0)[:3] == (0, "x", digits)
    assert rows_of(tmp_path / "a.jsonl", id_column="small")["user_id"].to_list() == ["7"]


def test_a_byte_order_mark_of_any_joined_part_is_passed_over(tmp_path: Path) -> None:
    part = b'\xef\xbb\xbf{"text": "a"}\n{"text": "\xef\xbb\xbf"}\n'
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(part) + gzip.compress(part))
    assert rows_of(tmp_path / "a.jsonl.gz")["text"].to_list() == ["a", "\ufeff"] * 2


def test_a_key_that_is_there_twice_loses_no_text_in_silence(tmp_path: Path) -> None:
    lines = ['{"text": "a", "text": "b"}', '{"kind": "text", "text": "c", "more": {"text": 1, "text": 2}}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = rows_of(tmp_path / "a.jsonl")
    assert rows["fault"].to_list() == ["repeated_text", None]
    assert rows["text"].to_list() == [None, "c"]


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_a_column_of_nulls_gives_faults_as_json_lines_do(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"text": pa.nulls(3).cast(kind)}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text('{"text": null}\n' * 3)
    for name in ("a.parquet", "a.jsonl"):
        assert rows_of(tmp_path / name)["fault"].to_list() == ["missing_text"] * 3


def test_binary_ids_and_sources_are_text_or_hexadecimal(tmp_path: Path) -> None:
    keys = pa.array([b"page-1", b"caf\xc3\xa9", b"\xff\x00", None])
    for kind in (pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.binary())):
        table = pa.table({"text": list("abcd"), "key": keys.cast(kind)})
        pq.write_table(table, tmp_path / "a.parquet")
        rows = rows_of(tmp_path / "a.parquet", id_column="key", source_column="key")
        assert rows["user_id"].to_list() == ["page-1", "café", "ff00", None]
        assert rows["source"].to_list() == ["page-1", "café", "ff00", "a"]


def test_dictionary_and_large_string_columns_are_text(tmp_path: Path) -> None:
    for kind in (pa.dictionary(pa.int32(), pa.string()), pa.large_string()):
        pq.write_table(pa.table({"text": pa.array(["a", None, "a"]).cast(kind)}), tmp_path / "a.parquet")
        assert rows_of(tmp_path / "a.parquet")["text"].to_list() == ["a", None, "a"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.txt"])
def test_a_document_of_50_megabytes_is_oversized(tmp_path: Path, name: str) -> None:
    path, text = tmp_path / name, "long text " * 5_000_000
    if path.suffix == ".txt":
        path.write_text(text)
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"text": [text, "short"]}), path, compression="zstd")
    else:
        with gzip.open(path, "wt", compresslevel=1) as stream:
            stream.write(json.dumps({"text": text}) + "\n" + json.dumps({"text": "short"}))
    rows = rows_of(path)
    assert rows["fault"][0] == "oversized"
    assert rows["n_bytes"][0] == 50_000_000
    assert rows["text"].to_list() == [None, "short"][: rows.height]
    assert rows_of(path, max_document_bytes=50_000_000)["fault"][0] is None


def test_a_line_beyond_every_limit_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "' + "x" * 2_000_000 + '"}\n{"text": "after"}\n')
    rows = rows_of(tmp_path / "a.jsonl", max_document_bytes=1_000)
    assert rows["fault"].to_list() == ["oversized", None]
    assert rows["n_bytes"][0] == 2_000_013
    assert rows["text"][1] == "after"


def test_blocks_end_after_many_small_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grasp_pipeline.corpus.readers.BLOCK_ROWS", 4)
    path = write(tmp_path / "a.jsonl", [{"text": None}] * 9 + [{"text": "a"}])
    assert [block.frame.height for block in blocks_of(path)] == [4, 4, 2]


# Bad files are errors of one sentence


def assert_one_sentence(error: pytest.ExceptionInfo) -> None:
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "Traceback" not in message


@pytest.mark.parametrize("keep", [0, 3, 200, -8, -100])
def test_a_truncated_parquet_file_is_named(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "a.parquet", [{"text": f"text {number}"} for number in range(500)])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(
        InputError, match=r"a\.parquet' is not a complete Parquet file .*write it again"
    ) as error:
        blocks_of(path)
    assert_one_sentence(error)


def test_a_parquet_file_with_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"text": f"text {number}"} for number in range(500)])
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet' is not a complete Parquet file") as error:
        blocks_of(path)
    assert_one_sentence(error)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_compressed_file_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path / name, [{"text": f"text {number * 7919}"} for number in range(5_000)])
    path.write_bytes(path.read_bytes()[:-40] if damage == "truncated" else b"no compressed data")
    with pytest.raises(InputError, match=rf"{name}' is not a complete (gzip|zstd)-compressed") as error:
        blocks_of(path)
    assert_one_sentence(error)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
@pytest.mark.parametrize(
    ("columns", "missing"),
    [({"text_column": "body"}, "body"), ({"id_column": "key"}, "key"), ({"source_column": "web"}, "web")],
)
def test_a_missing_column_is_named_with_those_there_are(
    tmp_path: Path, name: str, columns: dict, missing: str
) -> None:
    path = write(tmp_path / name, [{"text": "a", "url": "b"}])
    with pytest.raises(InputError, match=f"no column '{missing}'; its columns are 'text', 'url'") as error:
        blocks_of(path, **columns)
    assert_one_sentence(error)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_text_column_of_numbers_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"text": 1}, {"text": 2}])
    with pytest.raises(InputError, match=r"column 'text' .*a\..* holds int(64)?, not text") as error:
        blocks_of(path)
    assert_one_sentence(error)


@pytest.mark.parametrize("columns", [{}, {"text_column": "b", "id_column": "text"}])
def test_columns_of_one_name_are_refused_where_they_are_read(tmp_path: Path, columns: dict) -> None:
    table = pa.table([["a"], ["b"], ["c"], ["d"], ["e"]], names=["text", "b", "text", "c", "c"])
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    with pytest.raises(InputError, match=r"a\.parquet' has more than one column 'text'; rename") as error:
        blocks_of(path, **columns)
    assert_one_sentence(error)
    pq.write_table(table.select([0, 1, 3, 4]), path)
    assert rows_of(path)["text"].to_list() == ["a"]


def test_a_column_of_bytes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"text": b"a"}])
    with pytest.raises(InputError, match="holds binary, not text"):
        blocks_of(path)


@pytest.mark.parametrize(
    "content", ['[{"text": "a"}]', '[\n{"text": "a"}\n]', '[{"text": "a"},\n{"text": "b"}]']
)
def test_a_json_array_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match="JSON array; write it as JSON lines") as error:
        blocks_of(tmp_path / "a.json")
    assert_one_sentence(error)


def test_a_file_that_vanishes_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "a"}])
    config = InputConfig(paths=[str(path)])
    files = resolve_inputs(config)
    path.unlink()
    with pytest.raises(InputError, match=r"a\.jsonl' has gone"):
        list(read_blocks(files[0], config))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_an_empty_corpus_is_refused(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, [])
    with pytest.raises(InputError, match="has no rows") as error:
        list(read_corpus(InputConfig(paths=[str(tmp_path)])))
    assert_one_sentence(error)


def test_an_empty_parquet_table_is_an_empty_corpus(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has no rows"):
        list(read_corpus(InputConfig(paths=[str(tmp_path)])))
