"""Sketch engines from what can be sent to a worker, and the function that a worker maps over groups of chunks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.proxy.objective import CausalLM
from grasp_pipeline.sketch.batch_size import automatic_batch_tokens
from grasp_pipeline.sketch.build import StoredSettings, build_sketcher
from grasp_pipeline.sketch.pca import PcaSketcher, Projection
from grasp_pipeline.sketch.protocol import Sketcher
from grasp_pipeline.sketch.run import SketchEngine, Texts


@dataclass(frozen=True)
class EngineParts:
    """What an engine of one kind is made of.

    Attributes:
        kind: of sketch.
        objective: the proxy; used by this engine alone.
        settings: of the kind, as stored.
        projection: fitted to the kind's sketches, where there is one.
        chunk_tokens: L, of the longest chunk.
        batch_tokens: most padded tokens per batch; 0: chosen for the device.
        dtype: name of the type of the weights.
        device: where to compute.
    """

    kind: str
    objective: CausalLM
    settings: StoredSettings
    projection: Projection | None
    chunk_tokens: int
    batch_tokens: int = 0
    dtype: str = "float32"
    device: torch.device | str = "cpu"

    def engine(self, listen: Listener = silent) -> SketchEngine:
        """Return the engine; listen: told when memory ran out and the batch gets smaller."""
        dtype = getattr(torch, self.dtype)
        sketcher: Sketcher = build_sketcher(self.kind, self.objective, self.settings, self.device, dtype)
        if self.projection is not None:
            sketcher = PcaSketcher(sketcher, self.projection, self.device)
        tokens = self.batch_tokens or automatic_batch_tokens(sketcher, self.chunk_tokens, self.device)
        return SketchEngine(sketcher, tokens, listen, self.device)


class Chunks(NamedTuple):
    """A group of chunks to sketch by one kind: their ids, for errors, and their tokens."""

    kind: str
    ids: list[str]
    tokens: TokenLists


class GroupSketches(NamedTuple):
    """Sketches (n, d) float32 and mean token losses (n,) float32 in nats of a group, and what was said meanwhile."""

    sketches: NDArray[np.float32]
    losses: NDArray[np.float32]
    said: list[str]


@dataclass(frozen=True)
class GroupSketcher:
    """Makes, in a worker, the function that sketches groups of any of some kinds; bos: id that starts each chunk."""

    parts: tuple[EngineParts, ...]
    bos: int

    def __call__(self) -> Callable[[Chunks], GroupSketches]:
        """Return the function; a kind's engine is built with its first group."""
        parts = {each.kind: each for each in self.parts}
        engines: dict[str, SketchEngine] = {}
        said: list[str] = []

        def sketch(chunks: Chunks) -> GroupSketches:
            if chunks.kind not in engines:
                engines[chunks.kind] = parts[chunks.kind].engine(said.append)
            found = engines[chunks.kind].sketch(Texts(chunks.tokens, self.bos), chunks.ids)
            told = said.copy()
            said.clear()
            return GroupSketches(*found, told)

        return sketch
