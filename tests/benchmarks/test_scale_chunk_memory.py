"""The benchmark of selection's memory: its synthetic store is a store, and it counts what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale.chunk_memory import PER_DOCUMENT, SUBSETS, make_store, measure, measure_apart


def test_a_synthetic_store_is_indexed_and_its_subsets_are_bits(tmp_path: Path) -> None:
    make_store(tmp_path, 4_000)
    told = measure_apart(tmp_path, 4_000)
    assert told["documents"] == 4_000 // PER_DOCUMENT
    assert told["subsets"] == pytest.approx(SUBSETS * 4_000 / 8, rel=0.2)
    assert told["held"] > told["subsets"] + 30 * 4_000
    assert told["peak"] > told["held"]
    with pytest.raises(ValueError, match="4000 chunks of 5000"):
        measure(str(tmp_path), 5_000)
