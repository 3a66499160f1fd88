"""The finalists: which candidate corpora enter, and which of them are worth a retraining.

Ranking arbitrary subsets well is not choosing the best one, so the last step is finite as well. Optimised corpora,
simple rules and the full corpus enter (`families`); those that follow a score are judged by evidence that no optimiser
has seen (`judge`), and the best are retrained together with the comparison arms that every certificate is measured
against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.memberships import Memberships
from grasp_pipeline.names import ArmRole
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.families import COMPARISON_ARMS, FAMILIES, OUTLYING, TWINS
from grasp_pipeline.selection.candidates.family import DIRECTION, Search
from grasp_pipeline.selection.candidates.judge import Judgement, judge, judge_coverage

BUILT: tuple[ArmRole, ...] = ("full", "simple", "candidate")
"""Roles in the order in which their candidates are built. Of equal ones the first enters."""


def build_finalists(
    context: SelectionContext,
    selected: Configuration,
    gap: float,
    max_passes: int,
    listener: Listener = silent,
) -> list[Candidate]:
    """Build all candidates but the random draws; those with equal memberships appear once, under the first name.

    Args:
        context: what they are built from.
        selected, gap, max_passes: of `Search`.
        listener: told every candidate that was optimised.

    Raises:
        ConfigError: the budget or the constraints cannot be met, or a family builds what it cannot explain.
    """
    seen: set[bytes] = set()
    kept = []
    for made in _every(context, Search(selected, gap, max_passes)):
        if made.selection is not None:
            listener(f"{made.name}: {made.n_chunks:,} chunks, relative gap {made.relative_gap:.1e}")
        key = np.packbits(made.membership).tobytes()
        if key not in seen:
            seen.add(key)
            kept.append(made)
    return kept


def judge_finalists(
    context: SelectionContext,
    finalists: Sequence[Candidate],
    judges: Sequence[TokenLists],
    conditional: Floats | None,
) -> Judgement:
    """Judge candidates by what the judge documents say, over the near ones.

    Args:
        context: what the candidates were built from.
        finalists: the candidates.
        judges: judge documents of each of the T tasks, whether it counts or not.
        conditional: (n,) loss reduction of every chunk by the judge documents, where it was measured.
    """
    texts, _ = context.target.texts(judges)
    likelihood = judge_coverage(context.chunks, texts)
    near = np.array([finalist.name not in OUTLYING for finalist in finalists])
    membership = Memberships.of((finalist.membership for finalist in finalists), len(context.n_tokens))
    return judge(membership, context.n_tokens, likelihood, near, conditional)


def _every(context: SelectionContext, search: Search) -> Iterator[Candidate]:
    """Yield the candidates of every family, role by role: once, where chunks may count twice with twins, and others."""
    for role in BUILT:
        families = [family for family in FAMILIES if family.role == role]
        for copies in (1, 2) if context.repeatable else (1,):
            for family in families:
                made = family.candidate(context, copies)
                if made is not None:
                    yield made
        for family in families:
            for made in family.further(context, search):
                if (made.linear is not None) != (family.ranks_by == DIRECTION):
                    raise ConfigError(f"{made.name} and its family {family.name!r} rank by different things")
                yield made


def shortlist(
    candidates: Sequence[Candidate], score: Floats, size: int, most: int | None = None
) -> list[bool]:
    """Return which candidates are retrained.

    The best-judged optimised one, and of every family that an optimiser builds, so that one function's corpora do not
    crowd out another's; the `size` best-judged ones; as many of `TWINS`, the best-judged; and `COMPARISON_ARMS`.

    Args:
        candidates: c of them.
        score: (c,) the judge's score.
        size: how many by score.
        most: how many in all, None for no limit; comparison arms go first, the last of `COMPARISON_ARMS` before the
            others, then the worst-judged of `TWINS`, then the worst-judged.

    Raises:
        ConfigError: the limit is below 1.
    """
    if most is not None and most < 1:
        raise ConfigError(
            "finalists.max_retrainings leaves no room for a finalist beside the random draws and the fresh runs; raise "
            f"it by {1 - most}, or lower finalists.random_draws"
        )
    order = sorted(range(len(candidates)), key=lambda i: (-score[i], candidates[i].name))
    optimised = [i for i in order if candidates[i].role == "candidate"][:1]
    built = [i for i in order if candidates[i].selection is not None]
    optimised += {candidates[i].family: i for i in reversed(built)}.values()
    by_score = [i for i in order if candidates[i].name not in (*COMPARISON_ARMS, *TWINS)][:size]
    twins = [i for i in order if candidates[i].name in TWINS][:size]
    place = {candidate.name: i for i, candidate in enumerate(candidates)}
    always = [place[name] for name in COMPARISON_ARMS if name in place]
    wanted = dict.fromkeys([*optimised, *by_score, *twins, *always])
    chosen = set(list(wanted)[:most])
    return [i in chosen for i in range(len(candidates))]
