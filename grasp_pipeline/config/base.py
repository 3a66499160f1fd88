"""What every configuration section shares."""

from __future__ import annotations

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from grasp_pipeline.seeds import digest


class Section(BaseModel):
    """Base of every configuration section: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def digest(self) -> str:
        """Return a digest of all values; it decides, with the upstream versions, whether a table is current."""
        return digest(self.model_dump(mode="json"))


def check_choices(field: str, values: list[str], known: tuple[str, ...]) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown or len(set(values)) != len(values):
        raise ValueError(
            f"{field} is {values}; name each of {', '.join(known)} at most once, and nothing else"
        )


def check_amounts(field: str, values: Mapping[str, float]) -> None:
    """Raise ValueError where an amount by name is negative or not finite."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{field}.{name} is {value}; give a number of 0 or more")


def check_grid(metrics: list[float], lambdas: list[float]) -> None:
    """Raise ValueError where a grid has no additive configuration or a negative value."""
    if 0.0 not in lambdas:
        raise ValueError("lambdas must contain 0, the additive configuration; add 0.0")
    if min(lambdas) < 0 or min(metrics) < 0:
        raise ValueError("lambdas and metrics must not be negative; remove the negative values")
