"""Constraint `whole_documents`: the chunks of a document are kept or dropped as one."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from grasp_pipeline.section import Section
from grasp_pipeline.selection.constraints.kinds.constraint import Chunks, Constraint, Demands


class UnitSettings(Section):
    """Field of `whole_documents`."""

    unit: Literal["chunk", "document"] = Field(
        default="chunk", description="What is kept or dropped as one: a `chunk`, or a whole `document`."
    )


class WholeDocuments(Constraint):
    """One weight per document; asked before what counts units."""

    name = "whole_documents"
    equation = "w_i = w_j for chunks i, j of one document"
    Settings = UnitSettings

    def ask(self, settings: UnitSettings, chunks: Chunks, demands: Demands) -> None:
        if settings.unit == "document":
            demands.documents = np.unique(chunks.documents, return_inverse=True)[1]
