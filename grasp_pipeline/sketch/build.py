"""Sketchers by kind, and the scale at which each kind is stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grasp_pipeline.config import SketchConfig
from grasp_pipeline.proxy.objective import CausalLM, Parameters
from grasp_pipeline.section import part_of
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.kinds import KINDS
from grasp_pipeline.sketch.protocol import Sketcher
from grasp_pipeline.sketch.run import sketch_chunks
from grasp_pipeline.sketch.storage import power_of_two_scale


class StoredSettings(SketchConfig):
    """Settings of one kind as the table `sketchers` keeps them.

    projection: folder of the fitted projection in the store, empty without one; projection_sha256: of its file.
    """

    projection: str = ""
    projection_sha256: str = ""

    def of_kind(self, name: str) -> dict[str, Any]:
        """Return the settings that a kind depends on: its own, the seed and the projection."""
        own = {*KINDS[name].Settings.model_fields, "seed", "pca_dim", "projection_sha256"}
        return self.model_dump(mode="json", include=own)


def build_sketcher(
    name: str,
    objective: CausalLM,
    config: SketchConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Sketcher:
    """Return the sketcher of a kind at the objective's current weights.

    Raises:
        ConfigError: there is no such kind.
    """
    kind = KINDS[name]
    parameters: Parameters = {each: p.to(dtype) for each, p in objective.parameters().items()}
    return kind.build(objective, parameters, part_of(config, kind.Settings), config.seed, device)


def storage_scale(
    sketcher: Sketcher,
    vocab_size: int,
    chunk_tokens: int,
    bos: int,
    device: torch.device | str = "cpu",
) -> float:
    """Return the power of two by which a kind is divided before it is stored as float16.

    It comes from sketches of 16 seeded chunks of random tokens, so it depends on the checkpoint and the sketcher
    alone: every shard, today's or tomorrow's, is stored at the same scale.
    """
    draw: NDArray[np.int64] = generator("storage scale", chunk_tokens).integers(
        0, vocab_size, (16, chunk_tokens)
    )
    names = [f"probe {row}" for row in range(16)]
    sketches, _ = sketch_chunks(sketcher, draw.tolist(), names, bos, 16 * chunk_tokens, device=device)
    return power_of_two_scale(sketches)
