"""The normal form of text."""

import hashlib
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.corpus.normalize import document_id, normalize_text, repair_surrogates

ANY = st.text(st.characters(exclude_categories=()))  # every code point, lone surrogates too
AWKWARD = st.text(
    st.sampled_from("a\u0301 é\n\r\t\x00\u200b\ufeff\u2028\u0085\ud83d\ude00\u00a0\u1100\u1161\u2000")
)


@given(ANY | AWKWARD)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalize_text(text)
    assert normalize_text(once) == once


@given(ANY | AWKWARD)
def test_the_normal_form_is_composed_encodable_and_free_of_controls(text: str) -> None:
    normal = normalize_text(text)
    normal.encode("utf-8")
    assert unicodedata.is_normalized("NFC", normal)
    assert not any(unicodedata.category(one) == "Cc" and one not in "\n\t" for one in normal)
    assert all(line == line.rstrip() for line in normal.split("\n"))
    assert "\n" * 5 not in normal


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("\ufeffe\u0301\u200b \t\nx\x00y", "\u00e9\nxy"),
        ("a\n\n\n\n\n\n\nb", "a\n\n\n\nb"),
        ("a\n\n\n\nb", "a\n\n\n\nb"),
        ("\n  indented\n", "indented"),
        ("x\ud83d\ude00y\ud800z", "x\U0001f600y\ufffdz"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        (" \x00\u200b\n", ""),
    ],
)
def test_examples(raw: str, normal: str) -> None:
    assert normalize_text(raw) == normal


def test_a_long_run_of_spaces_takes_linear_time() -> None:
    assert normalize_text("a" + " " * 5_000_000 + "b").endswith("b")


def test_the_id_is_the_digest_of_the_text() -> None:
    assert document_id("é") == hashlib.sha256("é".encode()).hexdigest()
    assert repair_surrogates("plain") == "plain"
