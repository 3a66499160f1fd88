"""Keys stand for ids: same order, same places, and the ids back again."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.corpus.row_keys import CHUNK_DIGITS, RowKeys
from grasp_pipeline.errors import StoreError

HEADS = [hashlib.sha256(bytes([i])).hexdigest()[:CHUNK_DIGITS] for i in range(6)] + [
    "0" * 24,
    "00" * 11 + "01",
]
chunk_ids = st.builds(
    "{}{}-{}".format, st.sampled_from(HEADS), st.sampled_from(["", ":2", ":13"]), st.integers(0, 1200)
)
plain = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(st.lists(chunk_ids, min_size=1), st.lists(st.one_of(chunk_ids, plain)))
def test_packed_ids(held: list[str], asked: list[str]) -> None:
    check(held, asked, CHUNK_DIGITS)


@given(st.lists(plain, min_size=1), st.lists(st.one_of(chunk_ids, plain)))
def test_ids_of_any_form(held: list[str], asked: list[str]) -> None:
    check(["not hexadecimal", *held], asked, 0)


def check(held: list[str], asked: list[str], digits: int) -> None:
    keys = RowKeys.distinct([pl.Series(held), pl.Series(held[:1])], CHUNK_DIGITS)
    expected = sorted(set(held), key=lambda each: each.encode())
    assert keys.digits == digits
    assert keys.ids(np.arange(len(expected))) == expected
    assert keys.ids(np.arange(len(expected))[::-1]) == expected[::-1]
    rows, known = keys.find(pl.Series([*asked, *held], dtype=pl.String))
    assert known.tolist() == [each in expected for each in [*asked, *held]]
    assert rows.tolist() == [expected.index(each) for each in [*asked, *held] if each in expected]


def test_two_forms_in_one_table_are_refused() -> None:
    with pytest.raises(StoreError, match="the id 'c1' has another form"):
        RowKeys.distinct([pl.Series([HEADS[0] + "-0"]), pl.Series(["c1"])], CHUNK_DIGITS)


def test_a_chunk_id_takes_sixteen_bytes() -> None:
    keys = RowKeys.distinct([pl.Series([f"{head}-{i}" for head in HEADS for i in (0, 999)])], CHUNK_DIGITS)
    assert keys.keys.itemsize == 16
