"""How a filter fitted on the chunks there were decides of new ones, beside optimising all of them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.attribution.metric import Metric
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.explanation.residual_filter import (
    ResidualFilter,
    kept_agreement,
    token_agreement,
)
from grasp_pipeline.selection.solver.optimiser import Selection, optimise


@dataclass(frozen=True)
class FilterAgreement:
    """How a filter fitted on the old chunks decides beside the optimum on old and new chunks together.

    arrivals: `kept_agreement` on the new chunks, which the filter has not seen; grown: the same on all chunks, the old
    selection with the filtered arrivals against the optimum; decisions: `token_agreement` on the new chunks.
    filtered_tokens, optimal_tokens: tokens that either keeps of the new chunks.
    """

    arrivals: float
    grown: float
    decisions: float
    filtered_tokens: int
    optimal_tokens: int


def filter_agreement(
    old: SketchBlocks,
    new: SketchBlocks,
    old_tokens: ArrayLike,
    new_tokens: ArrayLike,
    target: ArrayLike,
    fraction: float,
    *,
    metric: Metric = None,
    lam: float = 0.7,
    gap: float = 1e-3,
    max_passes: int = 200,
) -> FilterAgreement:
    """Fit on the old chunks, filter the new ones, and compare with optimising all of them at the same budget fraction.

    old, new: features (n_old, d), (n_new, d); old_tokens, new_tokens: tokens per chunk; target: (d,);
    fraction: share of the tokens that is kept, in (0, 1); metric, lam, gap, max_passes: of `optimise`.

    Raises:
        ConfigError: the fraction is not between 0 and 1.
        InputError: shapes disagree.
    """
    if not 0 < fraction < 1:
        raise ConfigError(f"the budget fraction is {fraction}; give one between 0 and 1")
    before, after = (np.asarray(tokens, dtype=np.float64) for tokens in (old_tokens, new_tokens))
    both = np.concatenate([before, after])

    def best(blocks: SketchBlocks, tokens: Floats) -> Selection:
        budget = int(fraction * tokens.sum())
        return optimise(
            blocks, tokens, target, budget, metric=metric, lam=lam, gap=gap, max_passes=max_passes
        )

    fitted = best(old, before)
    optimal = best(_Chained((old, new)), both).membership
    arrived = ResidualFilter.of(fitted.q, fitted.tau).apply(new)
    wanted = optimal[len(before) :]
    return FilterAgreement(
        kept_agreement(arrived, wanted, after),
        kept_agreement(np.concatenate([fitted.membership, arrived]), optimal, both),
        token_agreement(arrived, wanted, after),
        int(after @ arrived),
        int(after @ wanted),
    )


@dataclass(frozen=True)
class _Chained:
    """Blocks one after the other, read as one sequence of rows."""

    parts: tuple[SketchBlocks, ...]

    @property
    def n(self) -> int:
        return sum(part.n for part in self.parts)

    @property
    def d(self) -> int:
        return self.parts[0].d

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        before = 0
        for part in self.parts:
            for start, block in part:
                yield before + start, block
            before += part.n
