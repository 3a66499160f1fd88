"""Assets that one step makes together can be selected alone."""

from __future__ import annotations

import dagster as dg
import pytest
from workplace import Workplace, materialized

from grasp_pipeline import tables
from grasp_pipeline.definitions import defs

EVERY = sorted(key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys)


@pytest.mark.parametrize("asset", EVERY)
def test_every_asset_can_be_selected_alone(asset: str) -> None:
    whole = defs.resolve_implicit_global_asset_job_def()
    alone = whole.get_subset(asset_selection={dg.AssetKey(asset)})
    assert alone.asset_layer.selected_asset_keys == {dg.AssetKey(asset)}


def test_the_neighbour_of_a_selected_asset_is_logged_too(place: Workplace) -> None:
    place.run(only=["manifest", "task_documents"])
    result = place.run(only=["documents"])
    assert place.read(tables.REJECTED_DOCUMENTS).height > 0
    assert materialized(result, "documents")["up_to_date"] is False
    logged = place.instance.get_latest_materialization_event(dg.AssetKey("rejected_documents"))
    assert logged is not None
    assert logged.run_id == result.run_id
    (check,) = [c for c in result.get_asset_check_evaluations() if c.check_name == "no_document_lost"]
    assert check.passed
