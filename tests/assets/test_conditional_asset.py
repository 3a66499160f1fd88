"""The conditional losses of a run: what they are, and when they are computed again."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from workplace import Curated, Workplace, changed_tables, materialized

from grasp_pipeline import tables
from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.proxy import conditional
from grasp_pipeline.proxy.conditional import fine_tune
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.proxy.training import unstack
from resources.models import Models
from resources.store import DeltaStore

LOSSES = tables.CONDITIONAL_LOSSES


def chunk_loss(objective: CausalLM, weights: dict[str, torch.Tensor], bos: int, ids: list[int]) -> float:
    """Mean token loss of one chunk under one model, logits and all."""
    hidden = objective.hidden(weights, torch.tensor([[bos, *ids[:-1]]]))[0]
    return torch.nn.functional.cross_entropy(
        hidden @ objective.output_weight(weights).T, torch.tensor(ids)
    ).item()


def rows_of(place: Workplace, table: tables.Table, column: str, some: pl.DataFrame) -> np.ndarray:
    """Return a column of a table for some chunks, in their order."""
    rows = place.read(table)
    if "sketch_kind" in rows.columns:
        rows = rows.filter(sketch_kind="output")
    return some.select("chunk_id").join(rows, on="chunk_id", maintain_order="left")[column].to_numpy()


def test_losses_are_those_of_one_model_on_one_chunk(curated: Curated) -> None:
    """Before fine-tuning as the sketching pass stored them, and after it on either split."""
    place = curated.place
    models = Models(store=DeltaStore(root=str(place.store)))
    version = place.delta.pin(tables.PROXY_CHECKPOINTS).version
    model, recipe = models.proxy(version, "reference").objective, models.proxy(version, "initial").recipe
    bos = models.tokenizer(place.delta.pin(tables.TOKENIZER).version).encoder.bos
    chunks = place.read(tables.TOKENIZED_SHARDS).sort("chunk_id")[::40]
    assert chunks.height > 3

    def slow(weights: dict[str, torch.Tensor]) -> list[float]:
        return [chunk_loss(model, weights, bos, ids) for ids in chunks["input_ids"].to_list()]

    before = rows_of(place, tables.GRADIENT_SKETCHES, "loss", chunks)
    np.testing.assert_allclose(before, slow(dict(model.parameters())), rtol=1e-3)
    for split in ("query", "judge"):
        texts = TokenLists.of_column(
            place.read(tables.TASKS).filter(split=split).sort("task", "chunk_id")["input_ids"]
        )
        tuned = fine_tune(model, model.parameters(), {split: texts}, recipe, bos)
        np.testing.assert_allclose(rows_of(place, LOSSES, split, chunks), slow(unstack(tuned, 0)), rtol=1e-3)


class TestWhatIsComputedAgain:
    @pytest.fixture(autouse=True)
    def _counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tuned = 0

        def counted(*given: object, **more: object) -> object:
            self.tuned += 1
            return fine_tune(*given, **more)  # pyright: ignore[reportArgumentType]

        monkeypatch.setattr(conditional, "fine_tune", counted)

    def test_another_budget_computes_nothing(self, copied: Workplace) -> None:
        before = copied.versions()
        only = ["candidates", "conditional_losses"]
        result = copied.run(changes={"candidates": {"budget_fraction": 0.2}}, only=only)
        assert materialized(result, "conditional_losses")["shards_scored"] == 0
        assert self.tuned == 0
        assert changed_tables(before, copied.versions()) == {"candidates"}

    def test_another_target_computes_all(self, copied: Workplace) -> None:
        task = copied.read(tables.TASKS)["task"].sort()[0]
        before, rows = copied.versions(), copied.read(LOSSES)
        only = ["candidates", "conditional_losses"]
        result = copied.run(changes={"candidates": {"target": task}}, only=only)
        assert materialized(result, "conditional_losses")["shards_scored"] == 2
        assert self.tuned == 1
        assert changed_tables(before, copied.versions()) == {"candidates", LOSSES.name}
        moved = rows.join(copied.read(LOSSES), on="chunk_id", suffix="_after")
        assert moved.height == rows.height
        assert moved.select((pl.col("query") != pl.col("query_after")).mean()).item() > 0.9


def test_nothing_is_held_where_no_losses_are_asked_for(copied: Workplace) -> None:
    asked = {
        "changes": {"conditional_losses": {"enabled": False}},
        "only": ["candidates", "conditional_losses"],
    }
    assert materialized(copied.run(**asked), "conditional_losses")["enabled"] is False
    assert copied.read(LOSSES).is_empty()
    before = copied.versions()
    copied.run(**asked)
    assert changed_tables(before, copied.versions()) == set()
