"""A kind of sketch is one class with its own settings: registered, it is configured, built and stored."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from grasp_pipeline.config import SketchConfig
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.section import Section, all_of
from grasp_pipeline.sketch.build import StoredSettings, build_sketcher
from grasp_pipeline.sketch.kinds import KINDS
from grasp_pipeline.sketch.kinds.kind import Kind
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.protocol import Sketcher


class ToySettings(Section):
    width: int = Field(default=2, ge=1, description="Both sides of `toy_square`.")


class ToySquare(Kind):
    name = "toy_square"
    description = "output layer with equal sides."
    Settings = ToySettings

    def build(
        self, objective: CausalLM, parameters: Any, settings: ToySettings, seed: int, device: Any
    ) -> Sketcher:
        return OutputSketcher(objective, parameters, settings.width, settings.width, seed, device)


def test_a_toy_kind_is_configured_built_and_stored(llama: CausalLM) -> None:
    with KINDS.joined(ToySquare()):

        class Config(SketchConfig, all_of([ToySettings])): ...

        class Stored(StoredSettings, Config): ...

        config = Config.model_validate({"kinds": ["toy_square", "full"], "width": 3})
        assert build_sketcher("toy_square", llama, config).d == 9
        stored = Stored(**config.model_dump())
        assert stored.of_kind("toy_square") == {
            "pca_dim": 0,
            "seed": 0,
            "projection_sha256": "",
            "width": 3,
        }
        assert "width" not in stored.of_kind("full")
    with pytest.raises(ValidationError, match="name each of output, full, layers at most once"):
        SketchConfig(kinds=["toy_square"])


@pytest.mark.parametrize("name", ["ouput", "output_late", "outputs"])
def test_an_unknown_kind_is_refused_by_name(llama: CausalLM, name: str) -> None:
    for ask in (
        lambda: build_sketcher(name, llama, SketchConfig()),
        lambda: StoredSettings().of_kind(name),
    ):
        with pytest.raises(ConfigError, match=r"no kind of sketch 'ou.*; did you mean 'output'"):
            ask()


def test_the_configuration_has_the_fields_of_every_kind() -> None:
    fields = list(SketchConfig.model_fields)
    own = [name for kind in KINDS for name in kind.Settings.model_fields]
    assert fields == ["kinds", *own, "pca_dim", "seed"]
    assert len(set(own)) == len(own), "no two kinds share a field"
