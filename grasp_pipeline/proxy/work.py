"""How long work with a model takes, roughly: what decides whether workers are worth their start."""

from __future__ import annotations

from grasp_pipeline.proxy.objective import Parameters

CORE_OPERATIONS = 1e10
"""Floating-point operations that one CPU core does in a second with a model of some 10^5 parameters."""


def core_seconds(parameters: Parameters, tokens: float, passes: float = 3.0) -> float:
    """Return about how many seconds of one core tokens take, within a factor of three.

    passes: forward passes that the work is worth; a training step is one forward and, backward, twice that.
    """
    return 2 * passes * tokens * sum(p.numel() for p in parameters.values()) / CORE_OPERATIONS
