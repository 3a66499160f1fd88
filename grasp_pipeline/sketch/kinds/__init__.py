"""The kinds of sketches. A new one is a file here and a place in `KINDS`."""

from __future__ import annotations

from grasp_pipeline.registry import Registry
from grasp_pipeline.sketch.kinds.full import Full
from grasp_pipeline.sketch.kinds.kind import Kind
from grasp_pipeline.sketch.kinds.layers import Layers
from grasp_pipeline.sketch.kinds.output import Output

KINDS: Registry[Kind] = Registry("kind of sketch", (Output(), Full(), Layers()))
