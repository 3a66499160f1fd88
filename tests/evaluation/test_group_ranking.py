"""Groups ranked by influence: the parts that the command puts together."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from toys import VOCAB, tiny_model

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.group_ranking import DAMPING, group_frame, rank_groups, ranking_text
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.run import sketch_chunks


def chunks() -> list[list[int]]:
    draw = generator("group ranking")
    return [draw.integers(0, VOCAB, draw.integers(4, 12)).tolist() for _ in range(30)]


@pytest.mark.parametrize("by", ["sketches", "representations", "random"])
def test_groups_are_worth_the_influence_of_their_mean_gradient(by: str) -> None:
    model, texts = tiny_model("llama"), chunks()
    pool, asked, task = texts[:24], texts[24:], np.array([0, 0, 1, 1, 1, 0])
    found = rank_groups(model, TokenLists.of(pool), TokenLists.of(asked), task, 0, 6, by)  # type: ignore[arg-type]
    groups = found.groups
    assert groups.passes == len(groups.sizes) <= 4
    sketcher = FullSketcher(model, model.parameters(), 1024, 4, 0)
    sketches, _ = sketch_chunks(sketcher, texts, [""] * 30, 0, 512)
    tokens = np.array([len(text) for text in texts], dtype=np.float64)

    def mean(rows: np.ndarray) -> np.ndarray:
        return np.average(sketches[rows], axis=0, weights=tokens[rows])

    means = np.stack([mean(np.flatnonzero(groups.codes == g)) for g in range(len(groups.sizes))])
    targets = np.stack([mean(24 + np.flatnonzero(task == t)) for t in range(2)])
    scores = DampedInfluence(means, groups.sizes, targets, DAMPING).scores() / groups.sizes[:, None]
    np.testing.assert_allclose(found.worth, scores, rtol=1e-2, atol=1e-3 * np.abs(scores).max())
    frame = group_frame(found, pl.Series(["a", "b", "b"] * 8), ["one", "two"])
    assert frame["worth"].is_sorted(descending=True)
    assert frame["chunks"].sum() == 24
    best = frame.row(0, named=True)
    members = [["a", "b", "b"][i % 3] for i in np.flatnonzero(groups.codes == best["group"])]
    assert best["share"] == pytest.approx(members.count(best["source"]) / len(members))
    assert best["share"] >= 0.5
    text = ranking_text(frame, groups.passes, 24, 1)
    assert f"{frame.height} groups of 24 chunks" in text
    with pytest.raises(ConfigError, match="smaller --size"):
        rank_groups(model, TokenLists.of(pool), TokenLists.of(asked), task, 0, 13, "random")
