"""Tokenizer, and chunks that tile the text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import WORDS, toy_texts

from grasp_pipeline.config import TokenizerConfig
from grasp_pipeline.corpus.chunking import chunk_documents, chunk_id, chunk_starts, chunk_tasks
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.corpus.tokenizer import TextEncoder, load_pretrained, load_saved, sample_texts, train_bpe
from grasp_pipeline.errors import InputError
from grasp_pipeline.tables import DOCUMENTS, TASK_DOCUMENTS

ENCODER = train_bpe([text for source in WORDS for text in toy_texts(source, 20)], 300)


def frame_of(texts: list[str]) -> pl.DataFrame:
    texts = list(dict.fromkeys(normalize_text(text) for text in texts))
    rows = [
        (document_id(t), t, "s", "shard-0000", len(t.encode()), "f#0", document_id(t), True)
        for t in texts
        if t
    ]
    return DOCUMENTS.conform(pl.DataFrame(rows, schema=DOCUMENTS.schema, orient="row"))


@given(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=5), st.integers(1, 40))
@settings(max_examples=80, deadline=None)
def test_chunks_tile_any_text(texts: list[str], length: int) -> None:
    documents = frame_of(texts)
    chunks = chunk_documents(documents, ENCODER, length, batch=2)
    for row in documents.iter_rows(named=True):
        mine = chunks.filter(pl.col("doc_id") == row["doc_id"]).sort("position")
        assert "".join(row["text"][a:b] for a, b in mine.select("start", "end").iter_rows()) == row["text"]
        assert mine["position"].to_list() == list(range(mine.height))
        ids = [token for tokens in mine["input_ids"].to_list() for token in tokens]
        assert ids == next(ENCODER.encode([row["text"]]))[0]
        assert mine.height == -(-len(ids) // length)
        assert mine["n_tokens"].max() <= length
        assert (mine["n_tokens"][:-2] == length).all()
        assert mine["n_tokens"].min() >= min(len(ids), length / 4)


@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (0, []),
        (3, [3]),
        (16, [16]),
        (17, [9, 8]),
        (19, [10, 9]),
        (20, [16, 4]),
        (33, [16, 9, 8]),
        (31, [16, 15]),
    ],
)
def test_a_rest_too_short_to_judge_shares_the_chunk_before_it(n: int, sizes: list[int]) -> None:
    """With L = 16 a rest of 4 tokens or more stays, one of 1 to 3 is evened out."""
    assert np.diff([*chunk_starts(n, 16), n]).tolist() == sizes


def test_chunks_do_not_depend_on_batches_or_order() -> None:
    documents = frame_of(toy_texts("news", 30))
    whole = chunk_documents(documents, ENCODER, 16)
    assert chunk_documents(documents[::-1], ENCODER, 16, batch=3).equals(whole)


def test_copies_have_chunks_of_their_own() -> None:
    digest = "a" * 64
    assert len({chunk_id(digest, 0), chunk_id(f"{digest}:2", 0), chunk_id(digest, 1)}) == 3


def test_the_tokenizer_survives_saving(tmp_path: Path) -> None:
    ENCODER.save(tmp_path)
    again = load_saved(tmp_path, ENCODER.bos)
    assert again.tokenizer_id == ENCODER.tokenizer_id
    text = "déjà vu 😀 import self"
    assert list(again.encode([text])) == list(ENCODER.encode([text]))


def test_a_hugging_face_tokenizer_is_loaded_by_folder(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=ENCODER.backend, eos_token="<|endoftext|>")
    wrapped.save_pretrained(tmp_path)
    loaded = load_pretrained(TokenizerConfig(name=str(tmp_path)))
    assert isinstance(loaded, TextEncoder)
    assert loaded.bos == 0
    assert list(loaded.encode(["import self"])) == list(ENCODER.encode(["import self"]))


def test_tokenizers_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer '.*missing' cannot be loaded.*give a folder"):
        load_pretrained(TokenizerConfig(name=str(tmp_path / "missing")))
    with pytest.raises(InputError, match=r"too small for a vocabulary of 5000.*vocab_size"):
        train_bpe(["short text"], 5000)


def test_the_training_sample_does_not_depend_on_order() -> None:
    documents = frame_of(toy_texts("news", 40))
    assert sample_texts(documents, 3000) == sample_texts(documents[::-1], 3000)
    assert len(sample_texts(documents, 3000)) < 40


def test_task_chunks_are_limited_per_document() -> None:
    rows = [("t", "query", 0, f"d{i}", text) for i, text in enumerate(toy_texts("code", 5))]
    documents = pl.DataFrame(rows, schema=TASK_DOCUMENTS.schema, orient="row")
    chunks = chunk_tasks(documents, ENCODER, 16, 2)
    assert chunks.group_by("document").len()["len"].to_list() == [2] * 5
    first = chunks.filter(chunk_id="d0-0")["input_ids"][0].to_list()
    assert first == next(ENCODER.encode([rows[0][4]]))[0][:16]
