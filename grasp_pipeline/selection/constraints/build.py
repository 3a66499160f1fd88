"""The constraint set that a configuration makes of a corpus."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools
from grasp_pipeline.config import ConstraintsConfig
from grasp_pipeline.section import part_of
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.constraints.kinds import CONSTRAINTS
from grasp_pipeline.selection.constraints.kinds.constraint import Chunks, Demands
from grasp_pipeline.selection.constraints.relaxation import DROP


def build_constraints(
    config: ConstraintsConfig,
    budget: int,
    n_tokens: NDArray[np.integer[Any]],
    *,
    allowed: Bools | None = None,
    keep: Bools | None = None,
    **corpus: Any,
) -> ConstraintSet:
    """Return the constraint set of a configuration for a corpus of n chunks.

    budget: in tokens; n_tokens: (n,); corpus: the other fields of `Chunks`. allowed: (n,) chunks that may be chosen at
    all, besides those that must be kept, or None for all; keep: (n,) more chunks that are kept unless a constraint
    drops them.

    Raises:
        ConfigError: an id or source is unknown, or the constraints cannot be met together.
    """
    chunks = Chunks(n_tokens, **corpus)
    asked = Demands(np.zeros(len(n_tokens), dtype=np.bool_))
    for each in CONSTRAINTS:
        each.ask(part_of(config, each.Settings), chunks, asked)
    listed, drop = asked.keep, asked.drop
    dropped = np.logical_or.reduce(list(drop.values()))
    if allowed is not None:
        drop = drop | {DROP: drop[DROP] | (~allowed & ~listed)}
    return ConstraintSet(
        n_tokens,
        budget,
        documents=asked.documents,
        sources=chunks.sources.astype(np.int64),
        source_names=list(chunks.source_names),
        floors=asked.floors,
        caps=asked.caps,
        clusters=asked.clusters,
        cluster_units=asked.cluster_units,
        cluster_tokens=asked.cluster_tokens,
        keep=listed if keep is None else listed | (keep & ~dropped),
        drop=drop,
    )
