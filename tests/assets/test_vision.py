"""The job curate_vision on a toy pool: rows beside those of text, nothing written twice, older tables refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from deltalake import DeltaTable
from workplace import Workplace, materialized

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.evaluation.fidelity import TEXT, fidelity_rows
from grasp_pipeline.seeds import generator
from resources.delta.commits import Provenance

TOY = {
    "pool": 100,
    "query_images": 4,
    "evaluation_images": 6,
    "calibration_subsets": 12,
    "evaluation_subsets": 28,
    "optimised_tasks": 1,
    "steps": 10,
    "batch_images": 8,
    "metrics": [1.0],
    "lambdas": [0.0, 0.7],
    "bootstrap": 200,
    "full_dim": 32,
    "output_hidden_dim": 4,
}
BY_HAND = Provenance("run", "fidelity", "1", "config")


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """An empty folder: images bring their own data."""
    return Workplace(tmp_path, sections={"vision_fidelity": dict(TOY)})


def text_rows() -> pl.DataFrame:
    """Return rows of text with the methods, strata and task names that vision has too."""
    rng = generator("text rows")
    methods = {
        (name, form): rng.random((16, 1)) for name in ("surrogate", "GradDot") for form in ("mean", "sum")
    }
    strata = ["uniform"] * 8 + ["tilted"] * 8
    rows = fidelity_rows(
        methods, rng.random((16, 1, 2)), strata, ["original"], ("surrogate", "mean"), 200, 0.95, "text"
    )
    return pl.DataFrame(rows, schema=tables.FIDELITY.schema)


def in_terminal(place: Workplace, **changes: object) -> int:
    """Run the job as `python -m assets.run curate_vision` does; returns the exit status."""
    config = place.run_config({"vision_fidelity": changes}, "curate_vision")
    del config["loggers"]
    path = place.folder / "vision.yaml"
    path.write_text(yaml.safe_dump(config))
    return place.run_file(path, "curate_vision")


def test_vision_rows_stand_beside_those_of_text(place: Workplace) -> None:
    before = text_rows()
    place.delta.write(tables.FIDELITY, before, BY_HAND, {"corpus": TEXT})
    result = place.run("curate_vision")

    frame = place.read(tables.FIDELITY)
    assert not frame.select(tables.FIDELITY.key).is_duplicated().any()
    assert DeltaTable(place.delta.uri(tables.FIDELITY)).metadata().partition_columns == ["corpus"]
    text, vision = (frame.filter(corpus=corpus) for corpus in (TEXT, "digits"))
    assert text.sort(tables.FIDELITY.key).equals(before.sort(tables.FIDELITY.key))
    assert text.height + vision.height == frame.height
    assert set(vision["stratum"]) == {
        "digits/all",
        "digits/uniform",
        "digits/fixed_size",
        "digits/tilted",
    } | ({"digits/task_optimised"} & set(vision["stratum"]))
    assert set(vision["task"]) == {
        *("inverted", "inverted_rotated", "noisy_low", "original", "rotated"),
        "mean_over_tasks",
    }
    assert {("surrogate", "mean"), ("GradDot", "sum")} <= set(vision.select("method", "form").iter_rows())
    assert np.isfinite(vision["rank_correlation"].to_numpy()).all()

    (check,) = result.get_asset_check_evaluations()
    assert check.check_name == "fidelity_keys_unique"
    assert check.passed
    metadata = materialized(result, "vision_fidelity")
    assert metadata["dagster/row_count"] == vision.height
    assert metadata["up_to_date"] is False
    assert metadata["methods"].startswith("![rank correlations of the methods")
    assert metadata["choice"]

    utilities = place.read(tables.SUBSET_UTILITIES)
    assert set(utilities["split"]) == {"vision"}
    assert not utilities.select(tables.SUBSET_UTILITIES.key).is_duplicated().any()

    stored = place.delta_versions()
    again = place.run("curate_vision")
    assert place.delta_versions() == stored
    metadata = materialized(again, "vision_fidelity")
    assert metadata["up_to_date"] is True
    assert metadata["dagster/row_count"] == vision.height

    place.delta.write(tables.FIDELITY, before.head(9), BY_HAND, {"corpus": TEXT})
    assert place.read(tables.FIDELITY).filter(corpus="digits").equals(vision)


def test_a_new_grid_measures_nothing_again(place: Workplace) -> None:
    place.run("curate_vision")
    measured = place.delta_versions()["subset_utilities"]
    result = place.run("curate_vision", {"vision_fidelity": {"lambdas": [0.0, 1.4]}})
    assert materialized(result, "vision_fidelity")["up_to_date"] is False
    assert place.delta_versions()["subset_utilities"] == measured
    assert place.read(tables.FIDELITY).height


@pytest.mark.usefixtures("home")
def test_the_terminal_prints_the_choice_and_the_methods(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_terminal(place) == 0
    printed = capsys.readouterr().out
    assert "predictions took" in printed
    assert "Configuration of the surrogate" in printed
    assert "TRAK, default damping" in printed
    assert "reference" in printed


@pytest.mark.usefixtures("home")
def test_wrong_settings_are_refused_before_anything_runs(
    place: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    for field, value, message in (
        ("data_set", "cifar", "vision_fidelity.data_set"),
        ("label_noise", 1.5, "vision_fidelity.label_noise"),
        ("lambdas", [0.7], "must contain 0"),
        ("metrics", [-1.0, 1.0], "must not be negative"),
        ("steps", 0, "vision_fidelity.steps"),
    ):
        assert in_terminal(place, **{field: value}) == 1
        assert message in capsys.readouterr().out.replace("\n", " ")
    assert in_terminal(place, pool=5000) == 1
    assert "lower pool" in capsys.readouterr().out.replace("\n", " ")
    assert not (place.store / "fidelity").exists()


def test_a_table_of_an_older_version_is_refused_with_what_to_do(place: Workplace) -> None:
    columns = {name: dtype for name, dtype in tables.FIDELITY.schema.items() if name != "corpus"}
    older = replace(tables.FIDELITY, schema=columns, partition_by=())
    place.delta.write(older, text_rows().drop("corpus"), BY_HAND)
    for use in (
        lambda: place.delta.latest(tables.FIDELITY, {"corpus": TEXT}),
        lambda: place.delta.read(tables.FIDELITY, 1),
        lambda: place.delta.write(tables.FIDELITY, text_rows(), BY_HAND, {"corpus": TEXT}),
    ):
        with pytest.raises(
            StoreError, match=r"no column corpus.*by nothing instead of corpus\. Delete .*/fidelity"
        ):
            use()
    assert place.delta.read(older, 1).collect().height == text_rows().height
