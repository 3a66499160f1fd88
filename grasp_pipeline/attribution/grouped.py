"""Group attribution: an additive method applied to groups of chunks (GGDA, Ley et al., arXiv 2410.09940).

A group is one example: its gradient is that of its mean token loss, and second moments are over groups. Its score
is shared by its chunks in proportion to their tokens, s_it = S_gt w_i / sum_g w.

`group_gradients` (`grasp_pipeline.attribution.group_gradients`) takes one gradient per group, which is what makes the
method cheap; `group_means` has the same gradients from the sketches of chunks, where they are there already.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, tiles
from grasp_pipeline.attribution.protocol import AdditiveAttributor
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import Form


@dataclass(frozen=True)
class Groups:
    """Chunks in groups, with one gradient each.

    Attributes:
        sketches: (G, d) float32, descent direction of a group's mean token loss.
        sizes: (G,) tokens. losses: (G,) mean token losses in nats; None where no method asks for them.
        codes: (n,) each chunk's group, in [0, G). n_tokens: (n,).
        passes: backward passes that the gradients took; 0 where they are means of sketches.
    """

    sketches: NDArray[np.float32]
    sizes: Floats
    losses: Floats | None
    codes: Ints
    n_tokens: Floats
    passes: int = 0


class Grouped(AdditiveScores):
    """An additive attributor over groups of chunks.

    attributor: makes the attributor that scores groups as it would chunks; its form does not matter.

    Raises:
        InputError: `attributor` does not score every group.
    """

    def __init__(
        self, attributor: Callable[[Groups], AdditiveAttributor], groups: Groups, form: Form = "mean"
    ) -> None:
        scores = attributor(groups).scores()
        if scores.ndim != 2 or len(scores) != len(groups.sizes):
            raise InputError(
                f"{len(groups.sizes)} groups got scores of shape {scores.shape}; give one row for each"
            )
        share = groups.n_tokens / groups.sizes[groups.codes]
        super().__init__(scores[groups.codes] * share[:, None], groups.n_tokens, form)


def group_codes(n_tokens: ArrayLike, labels: NDArray[Any]) -> tuple[Ints, Floats]:
    """Return each chunk's group (n,), numbered in the order of their labels, and the groups' tokens (G,).

    Raises:
        InputError: shapes disagree, or a group is without tokens.
    """
    tokens = np.asarray(n_tokens, dtype=np.float64)
    if tokens.ndim != 1 or np.shape(labels) != tokens.shape:
        raise InputError(
            f"token counts {tokens.shape} and labels {np.shape(labels)}; give one of each for every chunk"
        )
    names, codes = np.unique(labels, return_inverse=True)
    sizes = np.bincount(codes, tokens, len(names)).astype(np.float64)
    if not (sizes > 0).all():
        raise InputError(f"group {names[np.argmin(sizes > 0)]} holds no tokens; leave its chunks out")
    return codes.astype(np.int64), sizes


def group_means(
    sketches: SketchBlocks | NDArray[np.floating[Any]],
    n_tokens: ArrayLike,
    labels: NDArray[Any],
    losses: ArrayLike | None = None,
) -> Groups:
    """Return groups with the token-weighted means of their chunks' sketches (n, d) and losses (n,), in one pass.

    n_tokens: (n,). labels: (n,) sortable.

    Raises:
        InputError: shapes disagree, or a group is without tokens.
    """
    blocks, tokens = as_blocks(sketches), np.asarray(n_tokens, dtype=np.float64)
    if tokens.shape != (blocks.n,):
        raise InputError(f"token counts {tokens.shape}; give one for each of {blocks.n} sketches")
    codes, sizes = group_codes(tokens, labels)
    sums = np.zeros((len(sizes), blocks.d))
    for start, tile in tiles(blocks):
        part = slice(start, start + len(tile))
        weights = csr_array(
            (tokens[part], codes[part], np.arange(len(tile) + 1)), shape=(len(tile), len(sizes))
        )
        sums += weights.T @ tile.astype(np.float64)
    mean_losses = None
    if losses is not None:
        mean_losses = np.bincount(codes, tokens * np.asarray(losses, np.float64), len(sizes)) / sizes
    return Groups((sums / sizes[:, None]).astype(np.float32), sizes, mean_losses, codes, tokens)
