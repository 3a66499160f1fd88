"""Kind `layers`: every linear layer's and embedding's gradient, projected on both sides (see `sketch.layers`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from grasp_pipeline.section import Section
from grasp_pipeline.sketch.kinds.kind import Kind

if TYPE_CHECKING:
    import torch

    from grasp_pipeline.proxy.objective import CausalLM, Parameters
    from grasp_pipeline.sketch.protocol import Sketcher


class LayersSettings(Section):
    """Dimensions of `layers`."""

    layers_input_dim: int = Field(
        default=8,
        ge=1,
        le=64,
        description="Projected input side of each layer of `layers`. Its dimension is the number of layers times "
        "both sides: 1,024 for the preset tiny.",
    )
    layers_output_dim: int = Field(
        default=8, ge=1, le=64, description="Projected output side of each layer of `layers`."
    )


class Layers(Kind):
    """LoGRA (arXiv 2405.13954), one block per layer."""

    name = "layers"
    description = "every linear layer and embedding, projected on both sides, one block per layer."
    Settings = LayersSettings

    def build(
        self,
        objective: CausalLM,
        parameters: Parameters,
        settings: LayersSettings,
        seed: int,
        device: torch.device | str,
    ) -> Sketcher:
        """Return the sketcher."""
        from grasp_pipeline.sketch.layers import LayersSketcher

        return LayersSketcher(
            objective, parameters, settings.layers_input_dim, settings.layers_output_dim, seed, device
        )
