"""Column lineage names columns that exist, of tables that the step reads or writes."""

from __future__ import annotations

import dagster as dg
import pytest
from workplace import Curated, materialized

from assets import graph as _graph  # noqa: F401  declares every stage
from assets.stages import STAGES
from grasp_pipeline.lineage.columns import COLUMNS, column_sources
from grasp_pipeline.tables import ALL


@pytest.mark.parametrize("table", sorted(COLUMNS))
def test_every_column_exists_and_is_read(table: str) -> None:
    (stage,) = (each for each in STAGES.values() if table in each.writes)
    known = {each.table.name for each in stage.reads} | set(stage.writes)
    found = column_sources(table)
    assert set(found) <= set(ALL[table].schema)
    for sources in found.values():
        assert sources
        for name, column in sources:
            assert name in known
            assert column in ALL[name].schema


def test_kept_text_leads_back_to_its_document(curated: Curated) -> None:
    shown = materialized(curated.result, "pruned_corpus")["dagster/column_lineage"]
    assert shown.deps_by_column["doc_id"] == [dg.TableColumnDep(dg.AssetKey("tokenized_shards"), "doc_id")]
    assert column_sources("tokenized_shards")["doc_id"] == [("documents", "doc_id")]
