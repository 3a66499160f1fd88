"""Notes in commits: what was written is what is read, and anything else is an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from resources import notes
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables
from resources.notes import FinalistsNote, UtilitiesNote

SAID: dict[str, Any] = {
    "allow_uncertified": False,
    "confidence": 0.95,
    "fresh_runs": 2,
    "max_passes": 200,
    "optimiser_gap": 0.001,
    "refit": True,
    "trust_share": 0.0,
}
"""What `finalists` stored before its note had a class."""


def committed(folder: Path, statistics: dict[str, Any]) -> Any:
    made = Provenance("run", "finalists", "5", "config")
    return DeltaTables(str(folder)).write(tables.FINALISTS, tables.FINALISTS.empty(), made, {}, statistics)


def test_a_note_is_stored_as_its_keys_and_values_and_read_back(tmp_path: Path) -> None:
    commit = committed(tmp_path, FinalistsNote(**SAID).to_json())
    assert commit.metadata["statistics"] == json.dumps(SAID)
    assert FinalistsNote.of(commit) == FinalistsNote(**SAID)


def test_only_what_was_given_is_stored() -> None:
    assert UtilitiesNote(models=3).to_json() == {"models": 3}
    assert UtilitiesNote(models=3, seconds=1.5).to_json() == {"models": 3, "seconds": 1.5}


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        ({k: v for k, v in SAID.items() if k != "trust_share"}, "trust_share: Field required"),
        (SAID | {"trust_sahre": 0.5}, "trust_sahre: Extra inputs are not permitted"),
        (SAID | {"refit": "yes"}, "refit: Input should be a valid boolean"),
    ],
)
def test_a_note_that_is_not_as_its_readers_expect_names_table_and_remedy(
    tmp_path: Path, wrong: dict[str, Any], fault: str
) -> None:
    commit = committed(tmp_path, wrong)
    remedy = "delete the table finalists from the store and materialize the asset that writes it again"
    with pytest.raises(StoreError, match=rf"commit 1 of the table finalists .*{fault}.*{remedy}"):
        FinalistsNote.of(commit)


def test_assets_read_no_statistic_by_a_key() -> None:
    """What a commit left is read through its note alone."""
    root = Path(notes.__file__).parents[1]
    for path in [*(root / "assets").rglob("*.py"), *(root / "resources").glob("*.py")]:
        text = path.read_text()
        allowed = path.name == "notes.py"
        assert allowed or ".statistics" not in text, f"{path.name} reads statistics past a note"
