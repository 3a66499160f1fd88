"""The kinds of sketches. A new one is a file here and a place in `KINDS`."""

from __future__ import annotations

from grasp_pipeline.names import CheckpointRole
from grasp_pipeline.registry import Registry
from grasp_pipeline.sketch.kinds.full import Full
from grasp_pipeline.sketch.kinds.kind import Kind
from grasp_pipeline.sketch.kinds.layers import Layers
from grasp_pipeline.sketch.kinds.output import Output

KINDS: Registry[Kind] = Registry("kind of sketch", (Output(), Full(), Layers()))

_EARLY = "_early"

EARLY = f"{Output.name}{_EARLY}"
"""Kind `output` at the early checkpoint: evidence for the judge that no optimiser has seen."""


def kind_of(name: str) -> Kind:
    """Return the kind of a stored name, which may end with the checkpoint that it is taken at.

    Raises:
        ConfigError: there is no such kind.
    """
    return KINDS[name if name in KINDS.names else name.removesuffix(_EARLY)]


def checkpoint_role(name: str) -> CheckpointRole:
    """Return the role of the checkpoint at which the kind of a stored name is taken; errors as in `kind_of`."""
    return "reference" if kind_of(name).name == name else "early"
