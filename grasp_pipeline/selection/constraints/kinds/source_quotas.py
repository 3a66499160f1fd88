"""Constraint `source_quotas`: the least and the most to keep of a source."""

from __future__ import annotations

import math
from typing import Self

from pydantic import Field, model_validator

from grasp_pipeline.section import Section, check_amounts
from grasp_pipeline.selection.constraints.kinds.constraint import Chunks, Constraint, Demands


class SourceQuotasSettings(Section):
    """Fields of `source_quotas`."""

    source_floors: dict[str, float] = Field(
        default={},
        description="Least to keep of a source, by name: above 1 in tokens, up to 1 as a share of the budget.",
    )
    source_caps: dict[str, float] = Field(
        default={},
        description="Most to keep of a source, by name: above 1 in tokens, up to 1 as a share of the budget.",
    )

    @model_validator(mode="after")
    def _source_quotas(self) -> Self:
        check_amounts("source_floors", self.source_floors)
        check_amounts("source_caps", self.source_caps)
        for name, low in self.source_floors.items():
            high = self.source_caps.get(name, math.inf)
            if (low <= 1) == (high <= 1) and low > high:
                raise ValueError(
                    f"source_floors.{name} is {low}, above source_caps.{name} of {high}; lower the floor to {high} or "
                    f"raise the cap to {low}"
                )
        shares = {name: low for name, low in self.source_floors.items() if low <= 1}
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(
                f"the shares in source_floors ({', '.join(shares)}) sum to {sum(shares.values()):.4g}; lower them by "
                f"{sum(shares.values()) - 1:.4g} in all"
            )
        return self


class SourceQuotas(Constraint):
    """A floor and a cap per source."""

    name = "source_quotas"
    equation = "floor_s <= sum_{i in s} w_i n_i <= cap_s"
    source = "greedy over nested sets: Federgruen & Groenevelt 1986, Operations Research 34"
    Settings = SourceQuotasSettings

    def ask(self, settings: SourceQuotasSettings, chunks: Chunks, demands: Demands) -> None:
        demands.floors, demands.caps = settings.source_floors, settings.source_caps
