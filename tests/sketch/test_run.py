"""The engine: any batch, group and piece gives the same sketches in the given order; memory and numbers that fail."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.proxy.objective import pad_chunks
from grasp_pipeline.sketch import run, storage
from grasp_pipeline.sketch.run import (
    SketchEngine,
    Texts,
    out_of_memory,
    sketch_chunks,
    sketch_rows,
    sketch_stream,
)

CHUNKS = st.lists(st.lists(st.integers(0, 60), max_size=9), max_size=40)


class Counting:
    """A cheap linear sketch of a chunk's tokens: sums of cosines; its loss is the mean token."""

    kind = "counting"
    d = 3

    def __init__(self, memory: int = 10**9, error: type[RuntimeError] = RuntimeError) -> None:
        self.memory, self.error = memory, error
        self.shapes: list[tuple[int, int]] = []

    def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        if rows.numel() > self.memory:
            raise self.error("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")
        self.shapes.append((rows.shape[0], rows.shape[1]))
        inside = (torch.arange(rows.shape[1] - 1) < sizes[:, None]).float()
        tokens = rows[:, 1:].float()
        waves = torch.stack([(torch.cos(tokens * k) * inside).sum(1) for k in (1, 2, 3)], dim=1)
        return waves, (tokens * inside).sum(1) / sizes.clamp_min(1)


def slowly(chunks: list[list[int]]) -> np.ndarray:
    """The slow twin, a loop over tokens."""
    return np.array([[sum(np.cos(t * k) for t in chunk) for k in (1, 2, 3)] for chunk in chunks]).reshape(
        -1, 3
    )


def named(chunks: list[list[int]]) -> list[str]:
    return [f"c{i}" for i in range(len(chunks))]


def frame_of(chunks: list[list[int]]) -> pl.DataFrame:
    columns = {"chunk_id": named(chunks), "input_ids": chunks}
    return pl.DataFrame(columns, schema={"chunk_id": pl.String, "input_ids": pl.List(pl.Int32)})


@given(CHUNKS, st.integers(1, 50), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_any_batch_group_and_piece_gives_the_same(
    chunks: list[list[int]], batch: int, group: int, piece: int
) -> None:
    told: list[int] = []
    frames = frame_of(chunks).iter_slices(piece)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "group_rows", lambda d: group)
        groups = list(sketch_stream(SketchEngine(Counting(), batch), frames, 0, told.append))
        whole, losses = sketch_chunks(Counting(), chunks, named(chunks), 0, batch)
    assert [g.chunks.height for g in groups[:-1]] == [group] * (len(groups) - 1)
    assert [c for g in groups for c in g.chunks["chunk_id"]] == named(chunks)
    streamed = np.concatenate([np.empty((0, 3)), *(g.sketches for g in groups)])
    np.testing.assert_allclose(streamed, slowly(chunks), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole, slowly(chunks), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(losses, [np.mean(c) if c else 0 for c in chunks], rtol=1e-5)
    assert sum(told) == sum(map(len, chunks))


@given(CHUNKS.filter(bool), st.data())
@settings(max_examples=60, deadline=None)
def test_packing_is_padding(chunks: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(chunks) - 1), min_size=1, max_size=8))
    picked = [chunks[i] for i in chosen]
    rows, sizes = pad_chunks(picked, 7, max(map(len, picked)))
    for tokens in (
        Texts(TokenLists.of(chunks), 7),
        Texts(TokenLists.of_column(frame_of([[1], *chunks])["input_ids"][1:]), 7),
    ):
        fast, counts = tokens.pack(np.array(chosen))
        assert fast.dtype == counts.dtype == torch.int64
        assert torch.equal(fast, rows)
        assert torch.equal(counts, sizes)


def test_a_batch_holds_chunks_of_similar_length() -> None:
    rng = np.random.default_rng(0)
    chunks = [[1] * int(n) for n in rng.integers(1, 100, 300)]
    sketcher = Counting()
    sketch_chunks(sketcher, chunks, named(chunks), 0, 400)
    padded = sum(count * (width - 1) for count, width in sketcher.shapes)
    assert padded < 1.05 * sum(map(len, chunks))
    assert all(count * (width - 1) <= 400 for count, width in sketcher.shapes)


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError])
def test_where_memory_runs_out_the_batch_is_halved_and_stays_so(error: type[RuntimeError]) -> None:
    chunks = [[t % 50] * (1 + t % 8) for t in range(200)]
    told: list[str] = []
    sketcher = Counting(memory=100, error=error)
    engine = SketchEngine(sketcher, 1000, told.append)
    tokens = Texts(TokenLists.of(chunks), 0)
    sketches, _ = engine.sketch(tokens, named(chunks))
    np.testing.assert_allclose(sketches, slowly(chunks), rtol=1e-5, atol=1e-5)
    assert told
    assert all("memory ran out on cpu" in line and "tokens a batch" in line for line in told)
    learned, events = engine.batch_tokens, len(told)
    assert learned < 100
    again, _ = engine.sketch(tokens, named(chunks))
    assert (engine.batch_tokens, len(told)) == (learned, events)
    np.testing.assert_array_equal(again, sketches)


def test_one_chunk_that_does_not_fit_is_named() -> None:
    with pytest.raises(
        TrainingError, match=r"sketch chunk c1 of 30 tokens by itself.*lower tokenizer.chunk_tokens"
    ):
        sketch_chunks(Counting(memory=20), [[1] * 5, [1] * 30], ["c0", "c1"], 0, 64)


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    class Broken(Counting):
        def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        sketch_chunks(Broken(), [[1], [2]], ["a", "b"], 0, 64)
    assert not out_of_memory(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError) as told:
        torch.empty(2**60)
    assert out_of_memory(told.value)


@pytest.mark.parametrize("where", ["sketch", "loss"])
def test_the_first_number_that_is_not_finite_is_named(where: str) -> None:
    class Poisoned(Counting):
        def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
            sketches, losses = super().sketch(rows, sizes)
            poison = torch.where((rows == 13).any(1), torch.inf, 0.0)
            return (sketches + poison[:, None], losses) if where == "sketch" else (sketches, losses + poison)

    chunks = [[1], [2, 2], [13], [13, 13, 13]]
    with pytest.raises(TrainingError, match="counting sketch of chunk c2 is not finite"):
        sketch_chunks(Poisoned(), chunks, named(chunks), 0, 2)


def test_laid_out_rows_are_cut_to_the_batch() -> None:
    chunks = [[5], [6, 7, 8], [9, 1], [2] * 6]
    rows, sizes = pad_chunks(chunks, 0, 10)
    sketcher = Counting()
    sketches, _ = sketch_rows(sketcher, rows, sizes, named(chunks), 6)
    np.testing.assert_allclose(sketches, slowly(chunks), rtol=1e-5)
    assert [width for _, width in sketcher.shapes] == [7, 4, 2]


def test_a_sketcher_with_a_graph_leaves_none_behind() -> None:
    class Graph(Counting):
        def sketch(self, rows: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
            one = torch.ones(1, requires_grad=True)
            sketches, losses = super().sketch(rows, sizes)
            return sketches * one, losses * one

    sketches, _ = sketch_chunks(Graph(), [[1], [2, 3]], ["a", "b"], 0, 1)
    np.testing.assert_allclose(sketches, slowly([[1], [2, 3]]), rtol=1e-5)


def test_groups_are_bounded_in_values() -> None:
    assert storage.group_rows(256) == storage.GROUP_ROWS
    assert storage.group_rows(65_536) * 65_536 == storage.GROUP_VALUES
    assert storage.group_rows(2**30) == 1
