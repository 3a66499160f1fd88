"""Every table of `curate` holds the same, to the bit, whoever did the work."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from workplace import Curated, Workplace

from grasp_pipeline.tables import ALL, Table


def rows(place: Workplace, table: Table) -> pl.DataFrame:
    """Return what a table holds, in order of its key, without what was timed and which run it was."""
    frame = place.read(table).sort(table.key)
    return frame.select(
        column for column in frame.columns if "seconds" not in column and column not in ("time", "run_id")
    )


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param({"workers": 1}, marks=pytest.mark.slow, id="one worker"),
        pytest.param({"workers": 2}, marks=pytest.mark.slow, id="two workers"),
        pytest.param({"workers": 4}, marks=pytest.mark.slow, id="four workers"),
        pytest.param({"workers": 4, "engine": "ray"}, marks=pytest.mark.ray, id="four raylets"),
    ],
)
def test_tables_do_not_depend_on_the_workers(
    curated: Curated, compute: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if "engine" in compute:
        request.getfixturevalue("cluster")
    for inputs in ("corpus", "tasks"):
        shutil.copytree(curated.place.folder / inputs, tmp_path / inputs)
    place = Workplace(tmp_path)
    place.compute = place.compute | compute
    place.run()
    names = [name for name, table in ALL.items() if curated.place.delta.exists(table)]
    assert {"gradient_sketches", "conditional_losses", "subset_utilities", "pruned_corpus"} < set(names)
    for name in names:
        expected, found = rows(curated.place, ALL[name]), rows(place, ALL[name])
        assert [c for c in expected.columns if not expected[c].equals(found[c])] == [], name
