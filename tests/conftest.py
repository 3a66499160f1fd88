"""Shared fixtures: toy models."""

from __future__ import annotations

import pytest
from toys import tiny_model

from grasp_pipeline.proxy.objective import CausalLM


@pytest.fixture(params=["llama", "gpt2", "neox"])
def objective(request: pytest.FixtureRequest) -> CausalLM:
    return tiny_model(request.param)


@pytest.fixture
def llama() -> CausalLM:
    return tiny_model("llama")
