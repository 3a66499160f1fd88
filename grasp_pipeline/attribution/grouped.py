"""Group attribution: an additive method applied to groups of chunks (GGDA, Ley et al., arXiv 2410.09940).

A group is one example: its gradient is that of its mean token loss, and second moments are over groups. Its score
is shared by its chunks in proportion to their tokens, s_it = S_gt w_i / sum_g w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, tiles
from grasp_pipeline.attribution.protocol import AdditiveAttributor
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import Form


class Grouped(AdditiveScores):
    """An additive attributor over groups of chunks.

    build: makes the attributor from the groups' mean sketches (G, d) float32 and token counts (G,); its form
    does not matter. sketches: (n, d). n_tokens: (n,). labels: (n,) sortable; groups come in the order of labels.

    Raises:
        InputError: shapes disagree, a group is without tokens, or `build` does not score every group.
    """

    def __init__(
        self,
        build: Callable[[NDArray[np.float32], Floats], AdditiveAttributor],
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        labels: NDArray[Any],
        form: Form = "mean",
    ) -> None:
        tokens = np.asarray(n_tokens, dtype=np.float64)
        means, sizes, codes = group_means(sketches, tokens, labels)
        scores = build(means, sizes).scores()
        if scores.ndim != 2 or len(scores) != len(sizes):
            raise InputError(f"{len(sizes)} groups got scores of shape {scores.shape}; give one row for each")
        super().__init__(scores[codes] * (tokens / sizes[codes])[:, None], tokens, form)


def group_means(
    sketches: SketchBlocks | NDArray[np.floating[Any]], n_tokens: ArrayLike, labels: NDArray[Any]
) -> tuple[NDArray[np.float32], Floats, NDArray[np.intp]]:
    """Return token-weighted mean sketches (G, d), tokens (G,) of the groups, and each chunk's group (n,).

    One pass. Groups are numbered in the order of their labels.

    Raises:
        InputError: shapes disagree, or a group is without tokens.
    """
    blocks, tokens = as_blocks(sketches), np.asarray(n_tokens, dtype=np.float64)
    if tokens.shape != (blocks.n,) or np.shape(labels) != (blocks.n,):
        raise InputError(
            f"token counts {tokens.shape} and labels {np.shape(labels)}; give one for each of {blocks.n} sketches"
        )
    names, codes = np.unique(labels, return_inverse=True)
    sizes = np.bincount(codes, tokens, len(names)).astype(np.float64)
    if not (sizes > 0).all():
        raise InputError(f"group {names[np.argmin(sizes > 0)]} holds no tokens; leave its chunks out")
    sums = np.zeros((len(names), blocks.d))
    for start, tile in tiles(blocks):
        part = slice(start, start + len(tile))
        weights = csr_array(
            (tokens[part], codes[part], np.arange(len(tile) + 1)), shape=(len(tile), len(names))
        )
        sums += weights.T @ tile.astype(np.float64)
    return (sums / sizes[:, None]).astype(np.float32), sizes, codes
