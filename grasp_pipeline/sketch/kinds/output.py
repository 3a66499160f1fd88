"""Kind `output`: the output layer's gradient, phi = -(1/n) sum_t A'(p_t - e_{y_t}) (h_t' B) (see `sketch.output`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from grasp_pipeline.section import Section
from grasp_pipeline.sketch.kinds.kind import Kind

if TYPE_CHECKING:
    import torch

    from grasp_pipeline.proxy.objective import CausalLM, Parameters
    from grasp_pipeline.sketch.protocol import Sketcher


class OutputSettings(Section):
    """Dimensions of `output`."""

    output_hidden_dim: int = Field(default=64, ge=1, le=512, description="Projected hidden side of `output`.")
    output_vocab_dim: int = Field(
        default=64, ge=1, le=4096, description="Projected vocabulary side of `output`."
    )


class Output(Kind):
    """LoGRA (arXiv 2405.13954) restricted to the last layer."""

    name = "output"
    description = "output layer, forward pass only."
    Settings = OutputSettings

    def build(
        self,
        objective: CausalLM,
        parameters: Parameters,
        settings: OutputSettings,
        seed: int,
        device: torch.device | str,
    ) -> Sketcher:
        """Return the sketcher."""
        from grasp_pipeline.sketch.output import OutputSketcher

        return OutputSketcher(
            objective, parameters, settings.output_hidden_dim, settings.output_vocab_dim, seed, device
        )
