"""Several views of the same chunks as one sketch: gradients with n-gram features beside them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.attribution.blocks import Float64, SketchBlocks, StackedBlocks, mean_token_norm
from grasp_pipeline.errors import InputError


def stack_views(
    views: Sequence[tuple[SketchBlocks, ArrayLike]], n_tokens: ArrayLike
) -> tuple[StackedBlocks, Float64]:
    """Return views side by side with their targets, each divided by the mean norm of a token's sketch in it.

    views: (sketches (n, d_k), target (d_k,)) pairs; n_tokens: (n,). F of the result is the sum of the views'
    F, each in units of its own mean squared token norm.

    Raises:
        InputError: a view is zero everywhere, or rows disagree.
    """
    scaled, targets = [], []
    for blocks, target in views:
        norm = mean_token_norm(blocks, n_tokens)
        if not norm > 0:
            raise InputError("a view's sketches are all zero; leave the view out")
        scaled.append((blocks, 1 / norm))
        targets.append(np.asarray(target, dtype=np.float64) / norm)
    return StackedBlocks(scaled), np.concatenate(targets)
