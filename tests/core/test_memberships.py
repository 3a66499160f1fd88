"""Subsets as packed bits: every product, and every method that takes subsets, against plain booleans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline import memberships
from grasp_pipeline.arrays import Bools, TokenLists
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.calibration.near_copies import overlap_clusters
from grasp_pipeline.corpus.events import count_events
from grasp_pipeline.memberships import Memberships, NamedMemberships, columns_of, sums_over
from grasp_pipeline.selection.candidates.judge import judge

shapes = st.tuples(st.integers(0, 5), st.integers(1, 70), st.integers(0, 10**6))


def drawn(m: int, n: int, seed: int) -> Bools:
    return np.random.default_rng(seed).random((m, n)) < 0.4


@given(shapes, st.data())
def test_packed_rows_and_ranges_are_the_plain_ones(shape: tuple[int, int, int], data: st.DataObject) -> None:
    plain, n = drawn(*shape), shape[1]
    packed = Memberships.of(plain, n)
    assert packed.shape == plain.shape
    assert np.array_equal(np.asarray(packed), plain)
    assert np.array_equal(np.array(list(packed)).reshape(plain.shape), plain)
    stored = Memberships.of_bytes([np.packbits(row).tobytes() for row in plain], n)
    assert np.array_equal(stored.bits, packed.bits)
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    assert np.array_equal(packed.columns(start, stop), plain[:, start:stop])
    assert np.array_equal(columns_of(plain, start, stop), plain[:, start:stop])
    joined = Memberships.join([packed[::2], packed[:1]])
    assert np.array_equal(np.asarray(joined), np.concatenate([plain[::2], plain[:1]]))


@pytest.mark.parametrize("held", [8, 1 << 16])
def test_sums_are_those_of_the_whole_array(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memberships, "RANGE", held)
    plain, rng = drawn(4, 61, 1), np.random.default_rng(2)
    packed = Memberships.of(plain, 61)
    for values in (rng.normal(size=61), rng.normal(size=(61, 3)), np.arange(61)):
        slow = np.stack([values[row].sum(axis=0) for row in plain])
        for each in (plain, plain.astype(np.float32), packed):
            assert sums_over(each, values) == pytest.approx(slow)
        assert packed @ values == pytest.approx(slow)
    shares = rng.random((2, 61))
    assert sums_over(shares, np.arange(61)) == pytest.approx(shares @ np.arange(61))


def test_a_subset_is_found_among_them_and_bits_of_another_corpus_are_refused() -> None:
    plain = drawn(3, 20, 5)
    packed = Memberships.of(plain, 20)
    assert packed.has(plain[1])
    assert not packed.has(~plain[1])
    with pytest.raises(ValueError, match=r"shape \(3, 3\) do not fit subsets of 25 chunks"):
        Memberships(packed.bits, 25)


def test_names_give_what_was_stored() -> None:
    plain = drawn(2, 13, 7)
    named = NamedMemberships(13, {"first": np.packbits(plain[0]).tobytes()})
    named["second"] = plain[1]
    assert list(named) == ["first", "second"]
    assert all(np.array_equal(named[name], row) for name, row in zip(named, plain, strict=True))
    del named["first"]
    assert len(named) == 1


def test_what_is_computed_from_subsets_is_the_same_for_packed_bits() -> None:
    rng = np.random.default_rng(11)
    chunks = TokenLists.of([rng.integers(0, 12, rng.integers(3, 9)) for _ in range(50)])
    tokens = chunks.lengths
    plain = drawn(6, 50, 13)
    packed = Memberships.of(plain, 50)
    sketches = rng.normal(size=(50, 4)).astype(np.float32)
    slow, fast = (subset_means(sketches, tokens, each) for each in (plain, packed))
    assert np.array_equal(slow.means, fast.means)
    assert np.array_equal(slow.tokens, fast.tokens)
    queries = TokenLists.of([rng.integers(0, 12, 8) for _ in range(4)])
    counts = count_events(chunks, queries, np.array([0, 0, 1, 1]), 2)
    for slow_rate, fast_rate in zip(counts.rates(plain), counts.rates(packed), strict=True):
        assert np.array_equal(slow_rate, fast_rate)
    additive = AdditiveScores(rng.normal(size=(50, 2)), tokens)
    assert np.array_equal(additive.predict(plain), additive.predict(packed))
    assert np.array_equal(overlap_clusters(plain, tokens), overlap_clusters(packed, tokens))
    likelihood = LogCoverage(count_events(chunks, queries, np.zeros(4, dtype=np.int64), 1), 0.5)
    gains = rng.normal(size=50)
    slow_judge, fast_judge = (judge(each, tokens, likelihood, conditional=gains) for each in (plain, packed))
    assert np.array_equal(slow_judge.score, fast_judge.score)
