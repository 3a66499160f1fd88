"""Gradients of groups of examples, one backward pass each (GGDA, Ley et al., arXiv 2410.09940, section 3.1).

The gradient of a sum of losses is the sum of their gradients, so a group's costs one forward and one backward pass over
its examples together: there are as many backward passes as groups, and no example's own gradient is ever formed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from grasp_pipeline.attribution.grouped import Groups, group_codes
from grasp_pipeline.errors import TrainingError
from grasp_pipeline.proxy.objective import Parameters
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.run import Examples

PROJECTED_TOGETHER = 16
"""Gradients held until they are projected together, since the projection is read once for all of them."""


def group_gradients(
    sketcher: FullSketcher,
    examples: Examples,
    labels: NDArray[Any],
    batch_tokens: int = 1 << 16,
    device: torch.device | str = "cpu",
) -> Groups:
    """Return the groups of n examples with one sketched gradient each: `group_means` of their sketches, at less cost.

    labels: (n,) sortable. batch_tokens: most padded tokens of a pass; a group of more takes several.

    Raises:
        InputError: shapes disagree, or a group is without tokens.
        TrainingError: a group's loss or gradient is not finite.
    """
    sizes = examples.sizes
    codes, tokens = group_codes(sizes, labels)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(tokens) + 1))
    sketches = np.empty((len(tokens), sketcher.d), dtype=np.float32)
    losses = np.empty(len(tokens))
    held: list[Parameters] = []
    passes = 0
    for group, size in enumerate(tokens):
        members = order[bounds[group] : bounds[group + 1]]
        total: Parameters | None = None
        loss = 0.0
        for batch in _batches(members, sizes, batch_tokens):
            rows, counts = (part.to(device) for part in examples.pack(batch))
            gradient, nats = sketcher.sum_gradient(rows, counts)
            total = gradient if total is None else {n: p.add_(gradient[n]) for n, p in total.items()}
            loss += float(nats)
            passes += 1
        assert total is not None, "a group has tokens, so it has members"
        held.append({name: p / size for name, p in total.items()})
        losses[group] = loss / size
        if len(held) == PROJECTED_TOGETHER or group == len(tokens) - 1:
            sketches[group + 1 - len(held) : group + 1] = sketcher.project(held).cpu().numpy()
            held = []
    bad = np.flatnonzero(~(np.isfinite(sketches).all(axis=1) & np.isfinite(losses)))
    if len(bad):
        raise TrainingError(
            f"the gradient of group {int(bad[0])} is not finite; check the proxy checkpoint's weights"
        )
    return Groups(sketches, tokens, losses, codes, sizes.astype(np.float64), passes)


def _batches(
    members: NDArray[np.int64], sizes: NDArray[np.int64], batch_tokens: int
) -> list[NDArray[np.int64]]:
    """Return members (k,), sorted by size, in batches of at most `batch_tokens` padded tokens, one member at least."""
    by_size = members[np.argsort(-sizes[members], kind="stable")]
    batches: list[NDArray[np.int64]] = []
    start = 0
    while start < len(by_size):
        most = max(1, batch_tokens // max(1, int(sizes[by_size[start]])))
        batches.append(by_size[start : start + most])
        start += most
    return batches
