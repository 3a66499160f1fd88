"""Hashed words against a slow twin that keeps the words themselves."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.corpus import words as words_module
from grasp_pipeline.corpus.words import LONE, WORD, character_kinds, hash_ngrams, hash_words

TEXT = st.text(st.sampled_from("abAB1 é\n.-_漢字カ한กा\U0001f600"), max_size=30)


def slow_words(text: str) -> list[str]:
    kinds = character_kinds()
    out: list[str] = []
    previous = None
    for character in text:
        kind = kinds[ord(character)]
        if kind == LONE or (kind == WORD and previous != WORD):
            out.append(character.lower())
        elif kind == WORD:
            out[-1] += character.lower()
        previous = kind
    return out


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_words_agree_with_the_slow_twin(texts: list[str]) -> None:
    words = hash_words(texts)
    expected = [slow_words(text) for text in texts]
    assert words.lengths.tolist() == [len(word) for one in expected for word in one]
    assert (words.offsets[1:] - words.offsets[:-1]).tolist() == [len(one) for one in expected]
    flat = [word for one in expected for word in one]
    names = dict(zip(words.hashes.tolist(), flat, strict=True))
    assert len(names) == len(set(flat))
    assert [names[value] for value in words.hashes.tolist()] == flat


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_a_texts_words_do_not_depend_on_its_neighbours(texts: list[str]) -> None:
    together = hash_words(texts)
    alone = [hash_words([text]).hashes.tolist() for text in texts]
    assert together.hashes.tolist() == [value for one in alone for value in one]


@given(st.lists(TEXT, min_size=1, max_size=5), st.integers(1, 9))
def test_pieces_change_nothing(texts: list[str], piece: int) -> None:
    whole = hash_words(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_PIECE", piece)
        pieces = hash_words(texts)
    assert pieces.hashes.tolist() == whole.hashes.tolist()
    assert pieces.lengths.tolist() == whole.lengths.tolist()
    assert pieces.offsets.tolist() == whole.offsets.tolist()


@given(st.lists(st.sampled_from("abc"), max_size=12), st.integers(1, 5))
def test_ngrams_are_equal_where_the_windows_are(letters: list[str], n: int) -> None:
    hashes = hash_ngrams(hash_words([" ".join(letters)]).hashes, n)
    windows = [tuple(letters[start : start + n]) for start in range(len(letters) - n + 1)]
    assert len(hashes) == len(windows)
    assert (
        len(set(zip(hashes.tolist(), windows, strict=True))) == len(set(hashes.tolist())) == len(set(windows))
    )


def test_ascii_words_are_those_of_a_regular_expression() -> None:
    text = "The quick_brown fox, 2nd of its kind; jumped -- over."
    assert slow_words(text) == re.findall("[a-z0-9]+", text.lower())
