"""What a run is refused for before training: every rule is silent about sound facts and tells of others."""

from __future__ import annotations

import numpy as np
import pytest

from grasp_pipeline.calibration.budget import Budget
from grasp_pipeline.config import ConstraintsConfig, FinalistsConfig, ProtocolConfig, SubsetsConfig
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection import preflight

CHUNKS = 400


def budget(**given: float) -> Budget:
    return Budget.of({"budget_fraction": None, "budget_tokens": None, "budget_documents": None} | given)


def test_only_the_project_s_own_refusals_are_sentences() -> None:
    def refused() -> None:
        raise ConfigError("give another")

    def broken() -> None:
        raise ZeroDivisionError

    assert preflight.refusal(refused) == "give another"
    assert preflight.refusal(lambda: 3) is None
    with pytest.raises(ZeroDivisionError):
        preflight.refusal(broken)


def test_a_target_and_weights_are_of_known_tasks() -> None:
    def told(**given: object) -> str | None:
        return preflight.wrong_target(ProtocolConfig.model_validate(given), {"code", "mail"})

    assert told(target="code") is None
    assert told(target="mean", task_weights={"mail": 2.0}) is None
    assert "cod" in (told(target="cod") or "")
    assert "'code'" in (told(target="cod") or "").replace('"', "'")
    assert "male" in (told(task_weights={"male": 1.0}) or "")


@pytest.mark.parametrize("refit", [True, False])
def test_a_limit_must_leave_one_finalist_to_retrain(refit: bool) -> None:
    """Draws 4 and fresh runs 4 are used up first, 2 refits too where there are any."""
    used = 10 if refit else 8

    def told(limit: int) -> str | None:
        config = FinalistsConfig(random_draws=4, refit=refit, max_retrainings=limit)
        return preflight.no_retraining_left(config, fresh=4, refits=2)

    assert told(used + 1) is None
    assert f"take {used}" in (told(used) or "")
    assert "raise it by 1," in (told(used) or "")
    assert "raise it by 3," in (told(used - 2) or "")
    unlimited = FinalistsConfig(random_draws=4, refit=refit)
    assert preflight.no_retraining_left(unlimited, fresh=400, refits=2) is None


@pytest.mark.parametrize("field", ["source_floors", "source_caps"])
def test_floors_and_caps_are_of_sources_that_are_there(field: str) -> None:
    def told(source: str) -> str | None:
        constraints = ConstraintsConfig.model_validate({field: {source: 0.2}})
        return preflight.unknown_sources(constraints, ["web", "mail"])

    assert told("web") is None
    said = told("wbe") or ""
    assert field in said
    assert "'wbe'" in said
    assert "web" in said


def test_sealed_subsets_are_of_the_corpus_that_is_judged() -> None:
    assert preflight.old_sealed_subsets(3, 3) is None
    for drawn, corpus in ((3, 4), (4, 3)):
        said = preflight.old_sealed_subsets(drawn, corpus) or ""
        assert f"version {drawn} of" in said
        assert f"(version {corpus})" in said
        assert "curate" in said


def test_a_budget_lies_between_nothing_and_the_corpus() -> None:
    assert preflight.impossible_budget(budget(budget_tokens=1000), 5000, 10) is None
    assert preflight.impossible_budget(budget(budget_tokens=6000), 5000, 10) is not None
    assert preflight.impossible_budget(budget(budget_documents=11), 5000, 10) is not None


@pytest.mark.parametrize(("calibration", "evaluation"), [(500, 8), (8, 500)])
def test_as_many_distinct_subsets_as_are_wanted_must_fit(calibration: int, evaluation: int) -> None:
    """Three chunks have three subsets of one; forty chunks have enough."""

    def told(n: int, keep: int, config: SubsetsConfig) -> str | None:
        sizes = np.full(n, 64, dtype=np.int64)
        own = np.arange(n)
        pool = ChunkPool(n_tokens=sizes, source=own, document=own, cluster=own)
        return preflight.too_few_subsets(config, pool, keep * 64)

    few = SubsetsConfig(calibration_subsets=8, evaluation_subsets=8)
    many = SubsetsConfig(calibration_subsets=calibration, evaluation_subsets=evaluation)
    assert told(40, 12, few) is None
    assert told(3, 1, many) is not None
