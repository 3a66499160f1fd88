"""Shared fixtures: toy models."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from toys import tiny_model

from grasp_pipeline.proxy.objective import CausalLM

# "ci" (built into hypothesis) draws the same examples every time: a verdict on a change depends on the change alone.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(params=["llama", "gpt2", "neox"])
def objective(request: pytest.FixtureRequest) -> CausalLM:
    return tiny_model(request.param)


@pytest.fixture
def llama() -> CausalLM:
    return tiny_model("llama")
