"""Constraint `cluster_maximum`: the most to keep of near duplicates."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from grasp_pipeline.corpus.duplicates import repeat_groups
from grasp_pipeline.section import Section
from grasp_pipeline.selection.constraints.kinds.constraint import Chunks, Constraint, Demands


class ClusterMaximumSettings(Section):
    """Fields of `cluster_maximum`."""

    cluster_max_units: int = Field(
        default=0,
        ge=0,
        description="Most copies to keep of near duplicates: documents of a cluster where the unit is `document`, else "
        "chunks at one place of its documents; 0: no limit.",
    )
    cluster_max_tokens: int = Field(
        default=0,
        ge=0,
        description="The same maximum in tokens, at least those of the longest unit that may be kept; 0: no limit.",
    )

    @model_validator(mode="after")
    def _one_cluster_maximum(self) -> Self:
        if self.cluster_max_units and self.cluster_max_tokens:
            raise ValueError("cluster_max_units and cluster_max_tokens are both set; set one of them to 0")
        return self


class ClusterMaximum(Constraint):
    """A maximum per cluster: of documents where they are the unit, else of the chunks at one place."""

    name = "cluster_maximum"
    equation = "sum_{i in c} w_i <= max_c, or sum_{i in c} w_i n_i <= max_c"
    source = "prices where clusters cross sources: Dantzig & Wolfe 1960, Operations Research 8"
    Settings = ClusterMaximumSettings

    def ask(self, settings: ClusterMaximumSettings, chunks: Chunks, demands: Demands) -> None:
        if settings.cluster_max_units or settings.cluster_max_tokens:
            groups = chunks.clusters
            if demands.documents is None:
                groups = repeat_groups(groups, chunks.positions)
            demands.clusters = np.unique(groups, return_inverse=True)[1]
            demands.cluster_units = settings.cluster_max_units or None
            demands.cluster_tokens = settings.cluster_max_tokens or None
