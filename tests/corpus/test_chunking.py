"""Tokenizer, and chunks that tile the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
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
    chunks = chunk_documents(documents, ENCODER, length, batch_bytes=150)
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
    assert chunk_documents(documents[::-1], ENCODER, 16, batch_bytes=90).equals(whole)


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
    with pytest.raises(InputError, match=r"tokenizer '.*missing' does not exist; give a folder"):
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


def byte_level(**options: Any) -> Tokenizer:
    """Pieces are single bytes and the special tokens; with ignore_merges a whole text may be a piece."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: number for number, piece in enumerate(["<s>", "</s>", *alphabet])}
    backend: Any = Tokenizer(models.BPE(vocab=vocabulary, merges=[], **options))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>", "</s>"])
    return backend


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), *((c, -3.0) for c in "▁abcdefg</>skun|")]
    backend: Any = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


def whole_words() -> Tokenizer:
    vocabulary = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", "a", "<", "s>", "/s>"])}
    backend: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    return backend


@pytest.mark.parametrize(
    "text",
    ["<s>", "</s>", "a<s>b</s></s> c", "a </s> <s> a", "<|endoftext|>", "a<|endoftext|>b<s>", "<s<s>>"],
)
@pytest.mark.parametrize(
    "encoder",
    [
        ENCODER,
        TextEncoder(byte_level(), 0, 258),
        TextEncoder(byte_level(ignore_merges=True), 1, 258),
        TextEncoder(unigram(), 1, 18),
    ],
    ids=["trained", "bytes", "whole pieces", "unigram"],
)
def test_text_that_spells_a_special_token_is_text(encoder: TextEncoder, text: str) -> None:
    ids, starts = next(encoder.encode([text]))
    special = {
        number for number, token in encoder.backend.get_added_tokens_decoder().items() if token.special
    }
    unknown = {0} if encoder.backend.token_to_id("<unk>") == 0 else set()
    assert set(ids).isdisjoint(special - unknown)
    if not unknown & set(ids):
        assert encoder.backend.decode(ids, skip_special_tokens=False) == text
    assert starts == sorted(starts)
    documents = frame_of([text])
    chunks = chunk_documents(documents, encoder, 2)
    assert "".join(text[a:b] for a, b in chunks.sort("position").select("start", "end").iter_rows()) == text


def test_a_word_that_spells_a_special_token_is_cut_at_the_right_place() -> None:
    ids, starts = next(TextEncoder(whole_words(), 1, 7).encode(["a <s> </s> odd <unk>"]))
    assert ids == [3, 4, 5, 4, 6, 0, 4, 0]
    assert starts == [0, 2, 3, 6, 7, 11, 15, 16]


def test_special_tokens_of_a_hugging_face_tokenizer_are_text_in_tasks_too(tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<s>", additional_special_tokens=["<|im_start|>"]
    )
    wrapped.save_pretrained(tmp_path)
    loaded = load_pretrained(TokenizerConfig(name=str(tmp_path)))
    text = "<|im_start|>system<s> a </s>"
    rows = [("t", "query", 0, "d0", text)]
    chunks = chunk_tasks(pl.DataFrame(rows, schema=TASK_DOCUMENTS.schema, orient="row"), loaded, 64, 1)
    ids = chunks["input_ids"][0].to_list()
    assert len(ids) == len(text)
    assert loaded.backend.decode(ids, skip_special_tokens=False) == text
    loaded.save(tmp_path / "saved")
    assert next(load_saved(tmp_path / "saved", loaded.bos).encode([text]))[0] == ids


def test_a_separator_that_stands_for_unknown_text_is_refused() -> None:
    encoder = TextEncoder(whole_words(), 0, 7)
    assert next(encoder.encode(["a a"]))[0] == [3, 3]
    with pytest.raises(InputError, match=r"makes its special token '<unk>' of ordinary text.*byte-level"):
        next(encoder.encode(["a odd"]))
