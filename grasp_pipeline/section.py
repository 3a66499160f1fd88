"""What every section of the run configuration shares, and sections that are composed of members' settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from types import new_class
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from grasp_pipeline.seeds import digest


class Section(BaseModel):
    """Base of every configuration section: immutable, unknown fields refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def digest(self) -> str:
        """Return a digest of all values; it decides, with the upstream versions, whether a table is current."""
        return digest(self.model_dump(mode="json"))


Part = TypeVar("Part", bound=Section)


def all_of(parts: Iterable[type[Section]]) -> Any:
    """Return a section with the fields of all parts, in order: a base of one that the parts' owners add fields to.

    Which fields those are is not known before the run, hence `Any`.
    """
    return new_class("Parts", tuple(reversed(list(parts))))


def part_of(whole: Section, part: type[Part]) -> Part:
    """Return the fields of a section that it has from one of its bases."""
    return part(**{name: getattr(whole, name) for name in part.model_fields})


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
