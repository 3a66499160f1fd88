"""Several views of the same chunks as one sketch: gradients with n-gram features beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, StackedBlocks, mean_token_norm
from grasp_pipeline.errors import InputError


def stack_views(
    views: Sequence[tuple[SketchBlocks, ArrayLike]],
    n_tokens: ArrayLike,
    weights: Sequence[float] | None = None,
) -> tuple[StackedBlocks, Floats]:
    """Return views side by side with their targets, each divided by the mean norm of a token's sketch in it.

    views: (sketches (n, d_k), target (d_k,) or targets (T, d_k)) pairs; n_tokens: (n,); weights: one above 0 per view,
    by default all 1. F of the result is the weighted sum of the views' F, each in units of its own mean squared token
    norm.

    Raises:
        InputError: a view is zero everywhere, or rows disagree.
    """
    scaled, targets = [], []
    for (blocks, target), weight in zip(views, weights or [1.0] * len(views), strict=True):
        norm = mean_token_norm(blocks, n_tokens)
        if not norm > 0:
            raise InputError("a view's sketches are all zero; leave the view out")
        factor = float(np.sqrt(weight)) / norm
        scaled.append((blocks, factor))
        targets.append(np.asarray(target, dtype=np.float64) * factor)
    return StackedBlocks(scaled), np.concatenate(targets, axis=-1)
