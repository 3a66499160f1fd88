"""How long finalists are trained, and on what, where the planned training is not affordable."""

from __future__ import annotations

from typing import Any

import pytest
from workplace import Workplace

from assets.selection import planned_training, regime
from grasp_pipeline import tables
from grasp_pipeline.config import FinalistsConfig

END = ("finalists", "document_losses", "refitted_finalists", "certificates")


@pytest.mark.parametrize(
    ("given", "planned"),
    [
        ({}, (0, 1.0)),
        ({"training_passes": 2}, (2000, 1.0)),
        ({"training_passes": 2, "max_training_tokens": 2000}, (2000, 1.0)),
        ({"training_passes": 2, "max_training_tokens": 500}, (500, 0.25)),
        ({"training_passes": 2, "max_training_tokens": 500, "scale_model": False}, (500, 1.0)),
        ({"max_training_tokens": 500}, (0, 1.0)),
    ],
)
def test_the_cap_makes_a_scale_model(given: dict[str, Any], planned: tuple[int, float]) -> None:
    assert planned_training(FinalistsConfig(**given), 1000) == planned


def test_a_certificate_says_how_it_was_measured() -> None:
    assert regime(1.0, 1.0) == "Each retraining made 1 pass over the budget."
    assert regime(2.0, 1.0) == "Each retraining made 2 passes over the budget."
    assert "saw 0.5 of the budget once" in regime(0.5, 1.0)
    assert "2 passes over a scale model: 0.25 of the clusters" in regime(0.5, 0.25)


def test_finalists_are_measured_on_a_scale_model(copied: Workplace) -> None:
    asked = {"training_passes": 2.0, "max_training_tokens": 1500, "refit": False, "max_retrainings": 9}
    copied.run(only=END, changes={"finalists": asked})
    statements = copied.read(tables.CERTIFICATES)["statement"].to_list()
    assert all("passes over a scale model" in statement for statement in statements)
    short = copied.read(tables.DOCUMENT_LOSSES)
    copied.run(only=END, changes={"finalists": {**asked, "scale_model": False}})
    cut = copied.read(tables.DOCUMENT_LOSSES)
    assert all("of the budget once" in text for text in copied.read(tables.CERTIFICATES)["statement"])
    keys = ["subset_id", "seed", "task", "document"]
    both = cut.join(short, on=keys, suffix="_scale")
    assert both.height
    assert (both["loss_sum"] != both["loss_sum_scale"]).any(), "other text was trained on"
