"""Kind `full`: the whole gradient by a sparse Johnson-Lindenstrauss projection (see `sketch.full`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from grasp_pipeline.section import Section
from grasp_pipeline.sketch.kinds.kind import Kind

if TYPE_CHECKING:
    import torch

    from grasp_pipeline.proxy.objective import CausalLM, Parameters
    from grasp_pipeline.sketch.protocol import Sketcher


class FullSettings(Section):
    """Dimensions of `full`."""

    full_dim: int = Field(default=1024, ge=8, le=65_536, description="Dimension of `full`.")
    full_sparsity: int = Field(
        default=4, ge=1, le=64, description="Non-zeros per parameter in the sparse JL."
    )


class Full(Kind):
    """Every parameter's gradient."""

    name = "full"
    description = "whole gradient, sparse JL projection."
    Settings = FullSettings

    def build(
        self,
        objective: CausalLM,
        parameters: Parameters,
        settings: FullSettings,
        seed: int,
        device: torch.device | str,
    ) -> Sketcher:
        """Return the sketcher."""
        from grasp_pipeline.sketch.full import FullSketcher

        return FullSketcher(objective, parameters, settings.full_dim, settings.full_sparsity, seed, device)
