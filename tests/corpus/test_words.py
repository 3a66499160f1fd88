"""Hashed words against a slow twin that keeps the words themselves."""

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.corpus import words as words_module
from grasp_pipeline.corpus.words import INVISIBLE, LONE, character_kinds, hash_ngrams, hash_words

# Among them: a kana and its voice mark, Thai vowels, a virama, full-width and half-width forms, a soft hyphen, a
# variation selector, a joiner.
TEXT = st.text(
    st.sampled_from(
        "abAB1 é\n.-_漢字カガ\u3099\uff76\uff9eＡｂ９กา\u0e35ह\u094d\u0301\u00ad\ufe0f\u200dß\ufb01\U0002000b\U0001f600"
    ),
    max_size=30,
)


def slow_words(text: str) -> list[str]:
    """The definition, character by character."""
    out: list[str] = []
    joins = marks = False  # whether a letter, whether a mark would go on with the last word
    for character in unicodedata.normalize("NFKC", text):
        kind, category = character_kinds()[ord(character)], unicodedata.category(character)[0]
        folded = character.casefold() if len(character.casefold()) == 1 else character
        if kind == INVISIBLE:
            continue
        if category == "M":
            if marks:
                out[-1] += folded
            continue
        letter = category in "LN" or character == "_"
        lone = kind == LONE
        if letter and (lone or not joins):
            out.append(folded)
        elif letter:
            out[-1] += folded
        joins, marks = letter and not lone, letter
    return out


def same_words(one: str, other: str) -> bool:
    return hash_words([one]).hashes.tolist() == hash_words([other]).hashes.tolist()


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
    assert slow_words(text) == re.findall("[a-z0-9_]+", text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天天气很好。", "今 天 天 气 很 好"),
        ("データを読む", "デ ー タ を 読 む"),
        ("LLMの学習data2つ", "llm の 学 習 data2 つ"),
        ("ที่นี่", "ที่ นี่"),
        ("ភាសាខ្មែរ", "ភា សា ខ្ មែ រ"),
        ("မြန်မာ", "မြ န် မာ"),
        ("ພາສາລາວ", "ພ າ ສ າ ລ າ ວ"),
        ("हिन्दी में", "हिन्दी में"),
        ("한국어 문장", "한국어 문장"),
        ("العَرَبِيَّة", "العَرَبِيَّة"),
        ("snake_case x\u0301y", "snake_case x\u0301y"),
    ],
)
def test_words_of_many_scripts(text: str, expected: str) -> None:
    assert slow_words(text) == unicodedata.normalize("NFKC", expected).split()
    assert same_words(text, expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ＧＰＵ ２０２６", "gpu 2026"),
        ("ｶﾞｲﾄﾞ", "ガイド"),
        ("カ\u3099", "ガ"),
        ("con\u00adtami\u200dnation", "contamination"),
        ("葛\U000e0100飾", "葛飾"),
        ("\ufb01le", "FILE"),
        ("ΟΔΟΣ", "οδος"),
        ("cafe\u0301", "CAFÉ"),
    ],
)
def test_forms_of_the_same_text_have_the_same_words(one: str, other: str) -> None:
    assert same_words(one, other)


@pytest.mark.parametrize(
    ("one", "other"), [("नमक", "निमक"), ("ไม่", "ไม้"), ("resume", "resumé"), ("大人", "人大")]
)
def test_marks_and_order_tell_words_apart(one: str, other: str) -> None:
    assert not same_words(one, other)


def test_a_mark_after_a_space_or_a_symbol_is_no_word() -> None:
    assert hash_words(["\u0301 \u0301 !\u0301"]).hashes.tolist() == []
