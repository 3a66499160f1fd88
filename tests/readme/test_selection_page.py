"""The configuration of docs/selection.md is one that a run accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from assets import graph as _graph  # noqa: F401  declares every stage
from assets.stages import check_run_config, sections
from grasp_pipeline.config import FinalistsConfig
from grasp_pipeline.errors import ConfigError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "selection.md").read_text()


def test_the_example_is_accepted_and_names_every_constraint() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    ops = yaml.safe_load(block)["ops"]
    check_run_config(ops)
    for step, values in ops.items():
        assert sections()[step].model_validate(values["config"]) != sections()[step]()
    shown = set(ops["finalists"]["config"]["constraints"])
    known = set(type(FinalistsConfig().constraints).model_fields)
    # The maximum in tokens is the one alternative to that in units.
    assert known - shown == {"cluster_max_tokens"}
    ops["finalists"]["config"]["constraints"]["cluster_max_tokens"] = 5
    with pytest.raises(ConfigError, match="set one of them to 0"):
        check_run_config(ops)


def test_every_comparison_arm_is_listed() -> None:
    from grasp_pipeline.selection.candidates.families import COMPARISON_ARMS
    from grasp_pipeline.selection.candidates.families.surrogate import NGRAM_WEIGHTS

    (row,) = [line for line in PAGE.splitlines() if line.startswith("| comparison |")]
    assert len(COMPARISON_ARMS) == len(row.split("|")[2].split(":")[0].split(","))
    assert NGRAM_WEIGHTS == (0.5, 1.0, 2.0)
