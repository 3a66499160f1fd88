"""Every column of every table is described, and nothing else is."""

from __future__ import annotations

import pytest

from grasp_pipeline.columns import MEANINGS, OWN, meaning
from grasp_pipeline.tables import ALL


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_column_is_described(name: str) -> None:
    for column in ALL[name].schema:
        said = meaning(ALL[name], column)
        assert said.endswith(".")
        assert said[0].isupper() or said.split()[0].rstrip(",") in (
            "candidate",
            "doc_id",
            "initial",
            "mean",
            "low_alignment",
            "text",
        )


def test_no_description_is_of_a_column_that_is_gone() -> None:
    columns = {(table.name, column) for table in ALL.values() for column in table.schema}
    assert set(OWN) <= columns
    assert set(MEANINGS) == {column for _, column in columns}
