"""Labelled texts from a file, the head fitted to them, and the trained similarity as a family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_finalists import SELECTED, ingredients

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.methods.airrep import Encoder, Task
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.candidates.families import FAMILIES
from grasp_pipeline.selection.candidates.families.airrep import similarity
from grasp_pipeline.selection.candidates.families.quality_head import quality_head
from grasp_pipeline.selection.candidates.family import Choice
from grasp_pipeline.selection.candidates.finalists import build_finalists
from grasp_pipeline.selection.candidates.learned import Labels, Learned, read_labels


def encode(texts: Iterable[str]) -> Iterator[list[int]]:
    for text in texts:
        yield [ord(letter) for letter in text]


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_labels_are_read_from_files(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame({"text": ["good one"] * 11 + ["b"] * 10, "label": ["Good "] * 11 + ["0"] * 10})
    path = tmp_path / f"labels.{ending}"
    {"parquet": frame.write_parquet, "csv": frame.write_csv, "jsonl": frame.write_ndjson}[ending](path)
    made = read_labels(str(path), encode)
    assert (made.good.n, made.bad.n) == (11, 10)
    assert made.good.chunk(3) == [ord(letter) for letter in "good one"]


def test_numbers_and_truth_are_labels_too(tmp_path: Path) -> None:
    path = tmp_path / "labels.parquet"
    for column in (pl.Series("label", [1, 0] * 10), pl.Series("label", [True, False] * 10)):
        pl.DataFrame({"text": ["t"] * 20, "label": column}).write_parquet(path)
        assert read_labels(str(path), encode).good.n == 10


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ({"text": ["a"] * 20}, "no column 'label'"),
        ({"text": ["a"] * 21, "label": ["good"] * 10 + ["fair"] + ["bad"] * 10}, "row 11 .* 'fair'"),
        ({"text": ["a"] * 21, "label": ["good"] * 10 + [None] + ["bad"] * 10}, "row 11 .* None"),
        ({"text": ["a"] * 20, "label": ["good"] * 11 + ["bad"] * 9}, "9 texts labelled bad"),
        ({"text": ["a"] * 19 + [""], "label": ["good"] * 10 + ["bad"] * 10}, "9 texts labelled bad"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(tmp_path: Path, frame: dict, told: str) -> None:
    path = tmp_path / "labels.parquet"
    pl.DataFrame(frame).write_parquet(path)
    with pytest.raises(InputError, match=told):
        read_labels(str(path), encode)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_labels(str(tmp_path / "none.csv"), encode)
    with pytest.raises(InputError, match=r"\.parquet, \.csv or \.jsonl"):
        read_labels(str(tmp_path / "labels.xml"), encode)


def test_what_was_learned_is_kept_whole(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    encoder = Encoder.untrained(draw.normal(size=(5, 3)), 2.0)
    labels = Labels(TokenLists.of([[1, 2], [3]]), TokenLists.of([[4]]))
    Learned(np.arange(3.0), encoder, labels).save(tmp_path)
    again = Learned.load(tmp_path)
    assert again.similarity is not None
    assert again.encoder is not None
    assert again.labels is not None
    np.testing.assert_array_equal(again.similarity, np.arange(3.0))
    np.testing.assert_array_equal(again.encoder(np.eye(3)), encoder(np.eye(3)))
    assert [again.labels.good.chunk(0), again.labels.bad.chunk(0)] == [[1, 2], [4]]
    Learned().save(tmp_path)
    assert vars(Learned.load(tmp_path)) == vars(Learned())


def test_labels_decide_what_the_quality_head_finds() -> None:
    """The words of the chunks from 80 on are labelled good, against the target's: the head follows the labels."""
    draw = np.random.default_rng(1)
    good, bad = (
        TokenLists.of([draw.integers(low, high, 30) for _ in range(40)]) for low, high in ((30, 200), (1, 30))
    )
    context = replace(ingredients(), learned=Learned(labels=Labels(good, bad)))
    values = quality_head(context).values(context.chunks)
    assert values[80:].mean() > values[:80].mean()
    assert quality_head(ingredients()).values(context.chunks)[:80].mean() > 0


def test_similarity_is_the_inner_product_of_embeddings() -> None:
    draw = np.random.default_rng(2)
    chunks, queries = draw.normal(size=(6, 4)).astype(np.float32), draw.normal(size=(3, 4)).astype(np.float32)
    shares, weights = np.array([[0.5, 0.5, 0], [0, 0, 1]]), np.array([0.25, 0.75])
    encoder = Encoder.untrained(chunks)
    none = np.empty((0, 6), bool), np.empty((0, 2))
    found = similarity(encoder, Task(chunks, queries, shares, np.ones(6, int), *none), weights)
    for i in range(6):
        each = [float(encoder(chunks)[i] @ encoder(queries)[q]) for q in range(3)]
        wanted = 0.25 * (0.5 * each[0] + 0.5 * each[1]) + 0.75 * each[2]
        assert found[i] == pytest.approx(wanted, rel=1e-4)


def test_the_trained_similarity_is_a_candidate_only_where_it_was_asked_for() -> None:
    plain = ingredients()
    assert "airrep" not in {one.name for one in build_finalists(plain, SELECTED, 1e-3, 200)}
    with pytest.raises(InputError, match=r"finalists\.airrep"):
        FAMILIES["airrep"].values(plain)
    values = np.random.default_rng(3).normal(size=plain.chunks.n)
    context = replace(plain, learned=Learned(values))
    made = {one.name: one for one in build_finalists(context, SELECTED, 1e-3, 200)}
    one = made["airrep"]
    assert "airrep-twice" in made
    assert values[one.membership].min() > np.median(values)
    choice = Choice(one.membership, context.feasible_sets.allowed(one.dedup))
    ranked = FAMILIES["airrep"].ranking(context, choice)
    assert ranked is not None
    np.testing.assert_array_equal(ranked.values, values)
    assert FAMILIES["airrep"].filter(context, choice) is None
