"""Streaming over sketches: any cut into blocks gives the same bits, and the same values as plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks.read_ahead import ReadAhead
from grasp_pipeline.attribution.blocks import (
    TILE_ROWS,
    ArrayBlocks,
    StackedBlocks,
    gather,
    mean_token_norm,
    project,
    project_single,
    row_norms,
    sum_and_gather,
    tiles,
    weighted_sum,
)
from grasp_pipeline.attribution.metric import second_moment
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import generator


class Cut:
    """Blocks of given sizes: what a store with shards of unequal length would yield."""

    def __init__(self, sketches: NDArray[Any], sizes: list[int], claimed: int | None = None) -> None:
        self.sketches, self.sizes = sketches, sizes
        self.n, self.d = claimed or len(sketches), sketches.shape[1]

    def __iter__(self) -> Iterator[tuple[int, NDArray[Any]]]:
        start = 0
        for size in self.sizes:
            yield start, self.sketches[start : start + size]
            start += size


def test_tiles_are_aligned_whatever_the_blocks() -> None:
    sketches = generator("tiles").standard_normal((2 * TILE_ROWS + 100, 3)).astype(np.float32)
    for sizes in (
        [len(sketches)],
        [1, TILE_ROWS, 99, TILE_ROWS],
        [TILE_ROWS, TILE_ROWS, 100],
        [0, 2000, 148],
    ):
        found = [(start, tile.copy()) for start, tile in tiles(Cut(sketches, sizes))]
        assert [start for start, _ in found] == [0, TILE_ROWS, 2 * TILE_ROWS]
        np.testing.assert_array_equal(np.concatenate([tile for _, tile in found]), sketches)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_results_do_not_depend_on_block_size(data: st.DataObject) -> None:
    n, d = 2 * TILE_ROWS + 77, 5
    draw = generator("blocks")
    sketches = draw.standard_normal((n, d)).astype(np.float32)
    weights = draw.random(n) * (draw.random(n) < 0.3)
    members = draw.random((4, n)) < 0.5
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=6)))
    cut = Cut(sketches, np.diff([0, *cuts, n]).tolist())
    whole = ArrayBlocks(sketches)
    np.testing.assert_array_equal(project(cut, np.arange(d)), project(whole, np.arange(d)))
    np.testing.assert_array_equal(weighted_sum(cut, weights), weighted_sum(whole, weights))
    np.testing.assert_array_equal(second_moment(cut, weights), second_moment(whole, weights))
    np.testing.assert_array_equal(
        subset_means(cut, weights, members).means, subset_means(whole, weights, members).means
    )


def test_sums_and_projections_equal_loops() -> None:
    draw = generator("loops")
    half = draw.standard_normal((1500, 4)).astype(np.float16)
    scale = draw.random(1500)
    blocks = ArrayBlocks(half, scale, block_rows=333)
    sketches = half.astype(np.float64) * scale[:, None]
    tokens, direction = draw.integers(1, 129, 1500), draw.standard_normal(4)
    np.testing.assert_allclose(project(blocks, direction), [row @ direction for row in sketches], atol=1e-5)
    np.testing.assert_allclose(
        weighted_sum(blocks, tokens), sum(w * row for w, row in zip(tokens, sketches, strict=True)), rtol=1e-4
    )
    norms = [np.sqrt(row @ row) for row in sketches]
    np.testing.assert_allclose(row_norms(blocks), norms, rtol=1e-5)
    assert mean_token_norm(blocks, tokens) == pytest.approx(np.average(norms, weights=tokens), rel=1e-5)
    rows = np.array([0, 5, 1023, 1024, 1499])
    np.testing.assert_allclose(gather(blocks, rows), sketches[rows], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_one_scale_for_all_rows_is_as_good_as_one_for_each(dtype: type[np.floating[Any]]) -> None:
    draw = generator("one scale")
    sketches = draw.standard_normal((TILE_ROWS + 7, 5)).astype(dtype)
    direction = draw.standard_normal(5)
    each = project(ArrayBlocks(sketches, np.full(len(sketches), 0.25), 100), direction)
    np.testing.assert_array_equal(project(ArrayBlocks(sketches, 0.25, 300), direction), each)
    scaled = ArrayBlocks(sketches.astype(np.float32) * np.float32(0.25))
    np.testing.assert_array_equal(project(scaled, direction), each)


def test_every_half_is_read_as_it_is_from_memory_that_may_not_be_written() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = every[np.isfinite(every)].reshape(-1, 64)
    halves.flags.writeable = False
    found = np.concatenate([tile.copy() for _, tile in tiles(ArrayBlocks(halves, block_rows=300))])
    np.testing.assert_array_equal(found, halves.astype(np.float32))
    assert np.signbit(found).sum() == np.signbit(halves).sum()


def test_one_read_gives_what_two_do() -> None:
    draw = generator("one read")
    n = 2 * TILE_ROWS + 50
    blocks = ArrayBlocks(draw.standard_normal((n, 4)).astype(np.float16), block_rows=700)
    weights, rows = draw.random(n).astype(np.float32), np.flatnonzero(draw.random(n) < 0.1)
    summed = draw.random(n) < 0.8
    total, found = sum_and_gather(blocks, weights, rows, summed)
    np.testing.assert_allclose(total, weighted_sum(blocks, weights * summed), rtol=1e-5)
    np.testing.assert_array_equal(found, gather(blocks, rows))
    np.testing.assert_array_equal(sum_and_gather(blocks, weights, rows)[0], weighted_sum(blocks, weights))
    q = draw.standard_normal(4)
    np.testing.assert_array_equal(project_single(blocks, q), project(blocks, q))


def test_reading_ahead_changes_nothing_and_hides_no_error() -> None:
    sketches = generator("ahead").standard_normal((2000, 3)).astype(np.float32)
    cut = Cut(sketches, [5, 1000, 0, 995])
    ahead = ReadAhead(cut)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate([block for _, block in ahead]), sketches)
    next(iter(ahead))  # left in the middle: the next reading starts anew
    np.testing.assert_array_equal(project(ahead, np.ones(3)), project(cut, np.ones(3)))

    class Torn(Cut):
        def __iter__(self) -> Iterator[tuple[int, NDArray[Any]]]:
            yield 0, self.sketches[:5]
            raise InputError("row 5 is torn")

    with pytest.raises(InputError, match="row 5 is torn"):
        project(ReadAhead(Torn(sketches, [])), np.ones(3))


def test_stacked_views_stand_side_by_side() -> None:
    draw = generator("stack")
    left, right = draw.standard_normal((1100, 3)), draw.standard_normal((1100, 2))
    stacked = StackedBlocks(
        [
            (ArrayBlocks(left.astype(np.float32), block_rows=100), 0.5),
            (ArrayBlocks(right.astype(np.float16)), 2.0),
        ]
    )
    assert (stacked.n, stacked.d) == (1100, 5)
    np.testing.assert_allclose(
        gather(stacked, np.arange(1100)), np.hstack([0.5 * left, 2 * right]), rtol=2e-3, atol=1e-3
    )


def test_refusals() -> None:
    sketches = np.zeros((10, 2), dtype=np.float32)
    with pytest.raises(InputError, match="hold 6 rows; expected 10"):
        project(Cut(sketches, [6]), [1, 1])
    with pytest.raises(InputError, match="starts at row 6"):
        project(Cut(sketches, [6, 4], claimed=8), [1, 1])
    with pytest.raises(InputError, match="n rows and d columns"):
        ArrayBlocks(np.zeros(3, dtype=np.float32))
    with pytest.raises(InputError, match="one factor per sketch"):
        ArrayBlocks(sketches, np.ones(3))
    with pytest.raises(InputError, match="one row per chunk"):
        StackedBlocks([(ArrayBlocks(sketches), 1.0), (ArrayBlocks(sketches[:5]), 1.0)])
