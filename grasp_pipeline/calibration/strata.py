"""The subsets of a cell: what differs between them is what differs between real selections.

Strata:
    uniform: chunks uniformly at random, 30 to 50% of the pool's tokens.
    fixed_size: 10% of the tokens, alternately uniform and source-tilted: nothing to learn from the size.
    tilted: 30 to 50%, alternately with tilted shares of the sources and with tilted redundancy.
    task_optimised: finalists of several selectors for several tasks, 28%; for calibration, softened draws towards a
        task instead, since finalists are what a calibration has not seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.calibration.designs import STRATA
from grasp_pipeline.calibration.subsets import Subsets
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator

RANDOM_STRATA = ("uniform", "fixed_size", "tilted")
OPTIMISED = "task_optimised"
LARGE = (0.3, 0.5)
"""Range of the shares of the pool's tokens that a subset of a random stratum holds."""

SMALL = 0.1
"""Share of the pool's tokens in a subset of fixed size."""

OPTIMISED_SHARE = 0.28
"""Share of the pool's tokens in a task-optimised subset."""

_DRAWS: Mapping[str, Sequence[str]] = {
    "uniform": ("uniform",),
    "fixed_size": ("uniform", "source_tilted"),
    "tilted": ("source_tilted", "redundancy_tilted"),
    OPTIMISED: ("task_optimised",),
}


def draw_subsets(
    corpus: ChunkPool, task_scores: NDArray[np.float64], counts: Mapping[str, int], seed_name: str
) -> Subsets:
    """Draw subsets at random.

    Args:
        corpus: the pool.
        task_scores: (n, T) alignment of every example with every task, for draws towards a task.
        counts: subsets per stratum.
        seed_name: name of the draw.

    Raises:
        ConfigError: a stratum is unknown, or the pool is too small for subsets of these sizes.
    """
    unknown = sorted(set(counts) - set(_DRAWS))
    if unknown:
        raise ConfigError(f"Unknown strata {', '.join(unknown)}; choose among {', '.join(_DRAWS)}.")
    if SMALL * corpus.total < corpus.n_tokens.max():
        raise ConfigError(
            f"a tenth of the pool's {corpus.total:,} tokens is below one chunk; raise laboratory.chunks"
        )
    strata, members = [], []
    for stratum, count in counts.items():
        kinds = _DRAWS[stratum]
        for index in range(count):
            rng = generator(seed_name, stratum, index)
            share = {"fixed_size": SMALL, OPTIMISED: OPTIMISED_SHARE}.get(stratum) or rng.uniform(*LARGE)
            kind = kinds[index % len(kinds)]
            # A draw's own number starts at 1: number 0 of task_optimised is a hard top, which finalists stand for.
            number = index // len(kinds) + 1
            members.append(STRATA[kind](corpus, task_scores, round(share * corpus.total), number, rng))
            strata.append(stratum)
    membership = np.stack(members) if members else np.empty((0, corpus.n), dtype=np.bool_)
    return Subsets(tuple(strata), membership, np.full(len(strata), -1, dtype=np.int64))


def budget_of(corpus: ChunkPool) -> int:
    """Return the tokens of a task-optimised subset."""
    return round(OPTIMISED_SHARE * corpus.total)
