"""Bytes of sketches: the layout, what float16 loses, regular columns, and cutting frames anew."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.errors import InputError
from grasp_pipeline.sketch.storage import decode_half, encode, in_groups, view_half


@given(st.integers(0, 20), st.integers(1, 9), st.integers(-8, 8))
def test_a_column_is_the_rows_bytes(n: int, d: int, power: int) -> None:
    values = np.random.default_rng(n).standard_normal((n, d)).astype(np.float32)
    column = encode(values, 2.0**power, [str(i) for i in range(n)])
    slow = [(row / np.float32(2.0**power)).astype("<f2").tobytes() for row in values]
    assert column.dtype == pl.Binary
    assert column.to_list() == slow
    np.testing.assert_array_equal(
        decode_half(column, d), np.array([np.frombuffer(b, "<f2") for b in slow]).reshape(n, d)
    )


@given(
    st.integers(1, 12),
    st.integers(0, 5),
    st.integers(0, 5),
    st.sampled_from(["binary", "large_binary", "binary_view"]),
)
def test_slices_of_columns_are_viewed_at_their_place(n: int, before: int, after: int, kind: str) -> None:
    rows = np.arange((before + n + after) * 3, dtype="<f2").reshape(-1, 3)
    column = pa.array([row.tobytes() for row in rows], type=getattr(pa, kind)()).slice(before, n)
    np.testing.assert_array_equal(view_half(column, 3), rows[before : before + n])


@pytest.mark.parametrize("rows", [[b"1234", None], [b"12", b"123456"], [b"12345678"]])
def test_irregular_columns_are_refused(rows: list[bytes | None]) -> None:
    with pytest.raises(InputError, match="does not hold 2 float16 values"):
        view_half(pa.array(rows, type=pa.binary()), 2)


def test_little_is_lost_at_the_scale() -> None:
    values = np.random.default_rng(0).standard_normal((1000, 1000)).astype(np.float32)
    half = decode_half(encode(values, 1.0, [""] * 1000), 1000).astype(np.float32)
    assert np.abs(half - values).max() <= np.abs(values).max() * 2**-11
    assert np.mean(half[values != 0] == 0) < 1e-5
    small = encode(np.array([[1.0, 2**-24, 2**-26, 0.0]], dtype=np.float32), 1.0, [""])
    assert decode_half(small, 4).tolist() == [[1.0, 2**-24, 0.0, 0.0]]


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 7))
def test_frames_are_cut_anew_in_order(heights: list[int], rows: int) -> None:
    whole = pl.DataFrame({"a": range(sum(heights))}, schema={"a": pl.Int64})
    places = np.concatenate([[0], np.cumsum(heights)]).astype(int)
    pieces = [whole[a:b] for a, b in pairwise(places)]
    groups = list(in_groups(iter(pieces), rows))
    assert [g.height for g in groups] == [min(rows, whole.height - s) for s in range(0, whole.height, rows)]
    assert [v for g in groups for v in g["a"]] == list(range(whole.height))
