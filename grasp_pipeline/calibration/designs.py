"""Designs of the subsets that are retrained to calibrate and to evaluate the surrogate.

Subsets must differ in what real selections differ in: how many tokens, which sources, how much redundancy,
how well aligned with a task. Each stratum varies one of these. Calibration and evaluation subsets are the
same design under two seed names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Bools, Floats, Ints
from grasp_pipeline.calibration.rank import finite
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator, seed_for

PROPORTIONS: dict[str, float] = {
    "uniform": 0.20,
    "uniform_small": 0.10,
    "source_tilted": 0.30,
    "redundancy_tilted": 0.15,
    "task_optimised": 0.25,
}
"""Share of the subsets in each stratum."""

ATTEMPTS = 64
"""Draws tried for one design before it is reported that no new subset can be found."""


@dataclass(frozen=True)
class Design:
    """One subset: its stratum, (n,) membership of the chunks, and the seed its draw came from."""

    stratum: str
    membership: Bools
    seed: int


def design_subsets(
    pool: ChunkPool,
    task_scores: ArrayLike,
    budget_tokens: int,
    count: int,
    seed_name: str,
    proportions: Mapping[str, float] = PROPORTIONS,
) -> list[Design]:
    """Return `count` distinct subsets, stratum by stratum in the declared proportions.

    Strata:
        uniform: chunks uniformly at random, at the budget.
        uniform_small: the same at half the budget.
        source_tilted: token shares of the sources from a Dirichlet distribution with concentration .3, 1 or
            3; a source that runs out leaves its share to the others. Every third subset is at half the
            budget.
        redundancy_tilted: whole documents, alternately those of the largest near-duplicate clusters first and
            the longest documents first (few distinct documents), each softened by Gumbel noise.
        task_optimised: for each task in turn (the seed name decides which comes first), a Gumbel top-k of its
            standardised scores at a random temperature (.1 to 3), a random share of it (0 to half) uniform.
            The first is the hard top of a random nine tenths of the chunks: without that, calibration and
            evaluation would share one subset.

    Every subset fills its target (the budget or half of it) up to less than the smallest chunk left out, and
    never exceeds it. Counts per stratum follow by largest remainder. A subset depends on the pool, the
    budget, the seed name, its stratum and its number within it.

    Args:
        pool: n chunks.
        task_scores: (n, T) alignment of the chunks with the tasks; append a column for a mean over tasks if
            that is the target.
        budget_tokens: token budget of a full-size subset.
        count: number of subsets.
        seed_name: name of the draw, such as "calibration/0".
        proportions: share per stratum; strata may be left out.

    Returns:
        Designs with distinct memberships.

    Raises:
        ConfigError: half the budget is below one chunk, the budget exceeds the corpus, a stratum is unknown,
            or there are not `count` distinct subsets to find.
        ValueError: there is not a score of every chunk, or one is not finite.
    """
    scores = finite("task_scores", task_scores)
    if scores.ndim != 2 or scores.shape[0] != pool.n or scores.shape[1] < 1:
        raise ValueError(f"task_scores have shape {scores.shape}; expected ({pool.n}, tasks).")
    _check_budget(pool, budget_tokens)
    first_task = seed_for(seed_name, "first task") % scores.shape[1]
    scores = np.roll(scores, -first_task, axis=1)
    designs: list[Design] = []
    seen: set[bytes] = set()
    for stratum, number in _allocate(proportions, count).items():
        small = stratum == "uniform_small"
        for index in range(number):
            half = small or (stratum == "source_tilted" and index % 3 == 2)
            target = budget_tokens // 2 if half else budget_tokens
            design = _draw(pool, scores, stratum, index, target, seed_name, seen)
            if design is None:
                raise ConfigError(
                    f"Found only {len(designs)} of {count} distinct subsets of {target:,} tokens in a corpus "
                    f"of {pool.n:,} chunks and {pool.total:,} tokens; ask for "
                    "fewer subsets or a smaller budget."
                )
            designs.append(design)
    return designs


def _draw(
    pool: ChunkPool, scores: Floats, stratum: str, index: int, target: int, seed_name: str, seen: set[bytes]
) -> Design | None:
    for attempt in range(ATTEMPTS):
        name = (seed_name, "subset", stratum, index, attempt)
        membership = STRATA[stratum](pool, scores, target, index, generator(*name))
        key = np.packbits(membership).tobytes()
        if key not in seen:
            seen.add(key)
            return Design(stratum, membership, seed_for(*name))
    return None


def _uniform(pool: ChunkPool, scores: Floats, target: int, index: int, rng: np.random.Generator) -> Bools:
    return fill(rng.permutation(pool.n), pool.n_tokens, target)


def _source_tilted(
    pool: ChunkPool, scores: Floats, target: int, index: int, rng: np.random.Generator
) -> Bools:
    """Take each source's chunks in random order, at speeds in proportion to its drawn share."""
    _, code = np.unique(pool.source, return_inverse=True)
    n_sources = int(code.max()) + 1
    share = rng.dirichlet(np.full(n_sources, rng.choice([0.3, 1.0, 3.0]))) + 1e-9
    order = rng.permutation(len(code))
    order = order[np.argsort(code[order], kind="stable")]
    tokens = np.cumsum(pool.n_tokens[order])
    starts = np.concatenate([[0], np.cumsum(np.bincount(code, pool.n_tokens, n_sources))[:-1]])
    within = tokens - starts[code[order]]
    return fill(order[np.argsort(within / share[code[order]], kind="stable")], pool.n_tokens, target)


def _redundancy_tilted(
    pool: ChunkPool, scores: Floats, target: int, index: int, rng: np.random.Generator
) -> Bools:
    """Order whole clusters by how many documents they hold, or documents by length, with Gumbel noise."""
    _, document = np.unique(pool.document, return_inverse=True)
    strength = rng.uniform(0.5, 3.0)
    if index % 2:
        group, weight = document, np.bincount(document, pool.n_tokens)
    else:
        _, group = np.unique(pool.cluster, return_inverse=True)
        weight = np.bincount(np.unique(np.stack([group, document]), axis=1)[0])
    key = strength * np.log(weight) + rng.gumbel(size=len(weight))
    shuffled = rng.permutation(int(document.max()) + 1)
    return fill(np.lexsort((shuffled[document], -key[group])), pool.n_tokens, target)


def _task_optimised(
    pool: ChunkPool, scores: Floats, target: int, index: int, rng: np.random.Generator
) -> Bools:
    n, n_tasks = scores.shape
    scores = scores[:, index % n_tasks]
    if index == 0:
        left_out = rng.random(n) < 0.1
        return fill(np.lexsort((-scores, left_out)), pool.n_tokens, target)
    deviation = scores.std()
    standard = (scores - scores.mean()) / deviation if deviation > 0 else np.zeros(n)
    temperature = np.exp(rng.uniform(np.log(0.1), np.log(3.0)))
    top = fill(np.argsort(-(standard / temperature + rng.gumbel(size=n))), pool.n_tokens, target)
    mixed = round(target * rng.uniform(0.0, 0.5))
    kept = fill(rng.permutation(np.flatnonzero(top)), pool.n_tokens, target - mixed)
    return fill(np.lexsort((rng.random(n), ~kept)), pool.n_tokens, target)


STRATA: dict[str, Callable[[ChunkPool, Floats, int, int, np.random.Generator], Bools]] = {
    "uniform": _uniform,
    "uniform_small": _uniform,
    "source_tilted": _source_tilted,
    "redundancy_tilted": _redundancy_tilted,
    "task_optimised": _task_optimised,
}
"""Stratum -> draw of one membership from (pool, scores (n, T), target tokens, number within the stratum, generator)."""


def fill(order: ArrayLike, n_tokens: Ints, target: int) -> Bools:
    """Return the membership that takes chunks in `order` while they fit and skips those that do not.

    Args:
        order: (k,) distinct chunk indices, first choice first.
        n_tokens: (n,) tokens per chunk, each at least 1.
        target: tokens to reach and not to exceed.

    Returns:
        (n,) membership; no chunk of `order` left out would still fit.
    """
    left = np.asarray(order, dtype=np.int64)
    membership = np.zeros(len(n_tokens), dtype=bool)
    room = target
    while len(left) and room > 0:
        total = np.cumsum(n_tokens[left])
        prefix = int(np.searchsorted(total, room, side="right"))
        if prefix:
            membership[left[:prefix]] = True
            room -= int(total[prefix - 1])
        left = left[prefix:]
        left = left[n_tokens[left] <= room]
    return membership


def _allocate(proportions: Mapping[str, float], count: int) -> dict[str, int]:
    """Return subsets per stratum by largest remainder, ties to the stratum named first."""
    unknown = sorted(set(proportions) - set(STRATA))
    if unknown:
        raise ConfigError(f"Unknown strata {', '.join(unknown)}; choose among {', '.join(STRATA)}.")
    names = list(proportions)
    share = np.array([proportions[name] for name in names], dtype=np.float64)
    if count < 1 or not len(share) or not np.isfinite(share).all() or share.min() < 0 or share.sum() <= 0:
        raise ConfigError(
            f"{count} subsets in proportions {dict(proportions)} cannot be designed; ask for at least one "
            "subset and give shares that are not negative and not all 0."
        )
    exact = count * share / share.sum()
    numbers = np.floor(exact + 1e-9).astype(int)
    largest = np.argsort(-np.round(exact - numbers, 9), kind="stable")
    numbers[largest[: count - int(numbers.sum())]] += 1
    return dict(zip(names, numbers.tolist(), strict=True))


def _check_budget(pool: ChunkPool, budget_tokens: int) -> None:
    total, largest = pool.total, int(pool.n_tokens.max())
    if budget_tokens // 2 < largest:
        raise ConfigError(
            f"The budget of {budget_tokens:,} tokens is too small: subsets of half the budget would hold "
            f"less than one chunk of {largest:,} tokens. Raise it to at least {2 * largest:,}."
        )
    if budget_tokens > total:
        raise ConfigError(
            f"The budget of {budget_tokens:,} tokens exceeds the corpus, which has {total:,}. Lower it or "
            "add documents."
        )
