"""Configuration: bounds, sentences, and the same fields in Dagster."""

from __future__ import annotations

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets import graph as _graph  # noqa: F401  declares every stage
from assets.sections import SketchRun
from assets.stages import check_run_config, sections
from grasp_pipeline.config import ProtocolConfig, SketchConfig
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.progress import Progress, duration
from grasp_pipeline.seeds import digest, generator, seed_for


def test_every_section_has_defaults_and_descriptions() -> None:
    check_run_config({})
    for name, section in sections().items():
        section.model_validate({"paths": ["x"]} if name == "filtered_shards" else {})
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} is not described"


def test_every_section_is_a_dagster_config() -> None:
    assert {"manifest", "documents", "finalists", "export", "vision_fidelity"} < set(sections())
    assert all(issubclass(section, dg.Config) for section in sections().values())


@pytest.mark.parametrize(
    ("ops", "message"),
    [
        ({"candidates": {"config": {"budget_fraction": 0}}}, r"candidates.*budget_fraction is 0.*above 0"),
        ({"candidates": {"config": {"joint_smoothings": [0.6, 0]}}}, r"smoothing 0.*finite number above 0"),
        (
            {"candidates": {"config": {"conditional_smoothings": [float("inf")]}}},
            r"smoothing inf.*finite number above 0",
        ),
        ({"candidates": {"config": {"budget_fraction": 1.5}}}, r"budget_fraction is 1.5"),
        ({"candidates": {"config": {"budget_tokens": -3}}}, r"budget_tokens is -3"),
        ({"candidates": {"config": {"lambdas": [0.5]}}}, r"must contain 0"),
        ({"sketchers": {"config": {"kinds": ["output", "output"]}}}, r"kinds is .*at most once"),
        ({"sketchers": {"config": {"kinds": ["nonsense"]}}}, r"kinds is .*output, full"),
        (
            {"proxy_checkpoints": {"config": {"learning_rate": -1}}},
            r"proxy_checkpoints\.learning_rate.*greater than 0",
        ),
        (
            {"manifest": {"config": {"path": "x"}}},
            r"manifest\.path: there is no such field; did you mean 'paths'",
        ),
        ({"subsets": {"config": {"seeds": 1}}}, r"subsets\.seeds"),
        ({"vision_fidelity": {"config": {"lambdas": [1.4]}}}, r"vision_fidelity.*must contain 0"),
        ({"vision_fidelity": {"config": {"data_set": "cifar"}}}, r"vision_fidelity\.data_set.*'digits'"),
    ],
)
def test_bad_values_are_named_with_what_to_do(ops: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_run_config(ops)


def test_all_faults_are_told_at_once() -> None:
    ops = {"subsets": {"config": {"seeds": 0}}, "finalists": {"config": {"random_draws": 1}}}
    with pytest.raises(ConfigError, match=r"subsets\.seeds.*finalists\.random_draws"):
        check_run_config(ops)


def test_digest_follows_the_values_alone() -> None:
    assert ProtocolConfig().digest() == ProtocolConfig(target="mean").digest()
    assert ProtocolConfig().digest() != ProtocolConfig(target="x").digest()
    assert (
        SketchRun.model_validate({"full_dim": 64}).digest()
        == SketchConfig.model_validate({"full_dim": 64}).digest()
    )


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_named_draws_repeat_and_differ(name: list[str]) -> None:
    assert seed_for(*name) == seed_for(*name)
    assert seed_for(*name) != seed_for(*name, "x")
    assert generator(*name).random() == generator(*name).random()


def test_digest_separates_its_parts() -> None:
    assert digest("a", "b") != digest("ab")
    assert digest(["a"], "b") != digest(["a", "b"])


def test_progress_tells_rate_and_remaining_time() -> None:
    now = [0.0]
    lines: list[str] = []
    progress = Progress("sketching", 100, "tokens", lines.append, every=5, clock=lambda: now[0])
    for _ in range(10):
        now[0] += 2
        progress.advance(10)
    assert lines[0] == "sketching: 30 of 100 tokens, 5.00 tokens/s, 14 s left"
    assert len(lines) == 3
    assert duration(3725) == "1 h 02 min"
    assert duration(65) == "1 min 05 s"
