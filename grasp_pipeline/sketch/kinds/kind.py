"""A kind of sketch: its name, its settings, and how it is built. One file each, light enough for the configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from grasp_pipeline.section import Section

if TYPE_CHECKING:
    import torch

    from grasp_pipeline.proxy.objective import CausalLM, Parameters
    from grasp_pipeline.sketch.protocol import Sketcher


class Kind(ABC):
    """A kind of sketch.

    Attributes:
        name: as in `sketchers.kinds` and in the column `sketch_kind`.
        description: what is sketched, for the run configuration.
        Settings: the fields of the run configuration that this kind depends on beside the seed and the projection.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    Settings: ClassVar[type[Section]]

    @abstractmethod
    def build(
        self,
        objective: CausalLM,
        parameters: Parameters,
        settings: Any,
        seed: int,
        device: torch.device | str,
    ) -> Sketcher:
        """Return the sketcher at some weights; settings: of the class `Settings`."""
