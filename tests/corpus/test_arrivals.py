"""Rows of new files: each is a document or a rejection, as cleaning the whole corpus would have it."""

from __future__ import annotations

import polars as pl
import pytest
from toys import toy_texts

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.arrivals import CORPUS, Arrivals
from grasp_pipeline.corpus.cleaning import clean_documents
from grasp_pipeline.corpus.manifest import PLACED_SCHEMA
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.corpus.readers import RAW_SCHEMA
from grasp_pipeline.tables import TASK_DOCUMENTS

NEWS, FRENCH = toy_texts("news", 12), toy_texts("french", 6)
HELD_OUT = {"french/query/d0": FRENCH[0]}
ALONE = CleaningConfig(near_duplicates="all", perplexity_quantile=1.0)
"""Cleaning without what compares a document with the whole corpus."""

ROWS: list[tuple[str | None, str | None, str | None]] = [
    *((text, None, None) for text in NEWS[:6]),
    (NEWS[2], None, None),
    (NEWS[3] + "   \r\n", None, None),
    ("short", None, None),
    ("short", None, None),
    ("\x00\x01", None, None),
    (None, "invalid_utf8", "byte 3 is not UTF-8"),
    ("Before it. " + FRENCH[0], None, None),
    (FRENCH[1], None, None),
]


def block(rows: list[tuple[str | None, str | None, str | None]], first: int = 0) -> pl.DataFrame:
    columns = [
        (first + i, text, f"key{first + i}", "web", len((text or "").encode()), fault, detail)
        for i, (text, fault, detail) in enumerate(rows)
    ]
    return pl.DataFrame(columns, schema=RAW_SCHEMA, orient="row")


def sorter(known: dict[str, str] | None = None, config: CleaningConfig = ALONE) -> Arrivals:
    return Arrivals(config, HELD_OUT, {} if known is None else known)


def test_every_row_is_a_document_or_rejected() -> None:
    documents, rejected = sorter().sort(block(ROWS), "a.parquet", "a")
    origins = [*documents["origin"], *rejected["origin"]]
    assert sorted(origins) == sorted(f"a.parquet#{i} (key{i})" for i in range(len(ROWS)))
    assert rejected["doc_id"].n_unique() == rejected.height
    reasons = dict(zip(rejected["origin"].str.extract(r"#(\d+)"), rejected["reason"], strict=True))
    assert reasons == {
        "6": "exact_duplicate",
        "7": "exact_duplicate",
        "8": "too_short",
        "9": "too_short",
        "10": "empty_text",
        "11": "invalid_utf8",
        "12": "contamination",
    }
    copy = rejected.filter(reason="exact_duplicate")["duplicate_of"]
    assert copy.to_list() == [document_id(normalize_text(NEWS[i])) for i in (2, 3)]


def test_it_decides_as_cleaning_the_whole_corpus_does() -> None:
    rows = block(ROWS)
    raw = rows.with_columns(
        arrival=pl.lit(0), uri=pl.lit("a.parquet"), shard=pl.lit("a"), founding=pl.lit(True)
    ).select(list(PLACED_SCHEMA))
    tasks = pl.DataFrame(
        [("french", "query", None, "d0", FRENCH[0])], schema=TASK_DOCUMENTS.schema, orient="row"
    )
    slow = clean_documents(raw.cast(PLACED_SCHEMA), ALONE, tasks)
    documents, rejected = sorter().sort(rows, "a.parquet", "a")
    same = ["doc_id", "text", "source", "shard", "n_bytes", "origin"]
    assert documents.select(same).equals(slow.documents.select(same))
    told = ["stage", "reason", "value", "duplicate_of", "source", "shard", "origin", "n_bytes"]
    assert rejected.select(told).equals(slow.rejected.select(told))


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_blocks_do_not_matter(cut: int) -> None:
    whole = sorter().sort(block(ROWS), "a.parquet", "a")
    arrivals = sorter()
    parts = [
        arrivals.sort(block(ROWS[start : start + cut], start), "a.parquet", "a")
        for start in range(0, len(ROWS), cut)
    ]
    for one, frames in zip(whole, zip(*parts, strict=True), strict=True):
        assert one.equals(pl.concat(frames))


def test_documents_that_are_there_already_are_copies() -> None:
    known = {document_id(normalize_text(NEWS[0])): "shard-0000"}
    arrivals = sorter(known)
    documents, rejected = arrivals.sort(block(ROWS[:2]), "a.parquet", "a")
    assert documents.height == rejected.height == 1
    assert rejected["duplicate_of"].to_list() == list(known)[:1]
    again, refused = arrivals.sort(block(ROWS[:2]), "b.parquet", "b")
    assert again.height == 0
    assert refused.height == 2
    arrivals.forget("a")
    once_more, _ = arrivals.sort(block(ROWS[:2]), "a.parquet", "a")
    assert once_more.equals(documents)


def test_the_rules_can_be_switched_off() -> None:
    config = ALONE.model_copy(update={"noise_rules": False, "contamination_share": 1.0})
    documents, rejected = sorter(config=config).sort(block(ROWS), "a.parquet", "a")
    assert "short" in documents["text"].to_list()
    assert set(rejected["stage"]) == {"read", "exact_duplicate"}


def test_contamination_in_scripts_without_spaces_is_rejected() -> None:
    held_out = (
        "数据管道的第一步是把原始文件读入内存并检查每一行是否完整。如果某一行缺少文本字段,就写入拒绝表。"
    )
    late = Arrivals(ALONE, {"zh/query/d0": held_out}, {})
    documents, rejected = late.sort(
        block([("新闻" + held_out[2:] + held_out[:-9], None, None)]), "a.parquet", "a"
    )
    assert (documents.height, rejected["reason"].to_list()) == (0, ["contamination"])
    assert rejected["detail"].item() == "holds 100% of the 13-grams of the task document zh/query/d0"


def test_what_a_file_let_go_of_is_nobodys_and_what_the_corpus_holds_stays() -> None:
    ids = [document_id(normalize_text(text)) for text in NEWS[:3]]
    late = sorter({ids[0]: CORPUS})
    late.sort(block([(NEWS[1], None, None)]), "a.parquet", "a")
    late.sort(block([(text, None, None) for text in NEWS[:3]]), "b.parquet", "b")
    assert late.holders(ids) == {"a", "b"}
    assert late.knows(ids)
    late.forget({"a", CORPUS + "x"})
    assert not late.knows(ids)
    assert late.knows([ids[0], ids[2]])
    assert late.holders(ids) == {"b"}
    documents, rejected = late.sort(block([(text, None, None) for text in NEWS[:3]]), "c.parquet", "c")
    assert documents["doc_id"].to_list() == [ids[1]]
    assert rejected["duplicate_of"].to_list() == [ids[0], ids[2]]
