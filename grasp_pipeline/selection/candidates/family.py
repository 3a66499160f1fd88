"""A family of candidates: what it ranks chunks by, the corpora that it builds, and its filter for a single new chunk.

One class, one file in `families`. Everything that a candidate's mechanism decides stands there: whether it is always
retrained, what explains its choice, and how tomorrow's chunks are judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.calibration.lcb import Configuration
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import ArmRole, Dedup
from grasp_pipeline.selection.candidates.candidate import Candidate, tokens_of, top_k
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext, last_taken
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter, ChunkInputs
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet

TWICE = "-twice"
"""End of the name of a candidate whose every chunk is trained on twice: half as much text for the same budget."""

DIRECTION = "direction"
"""What a family ranks by whose candidates each have a linear score."""

NOTHING = "nothing"
"""What a family ranks by that keeps everything or draws at random."""


@dataclass(frozen=True, eq=False)
class Choice:
    """What a family chose: kept (n,); allowed: (n,) what its near-de-duplication left; smoothing: as in `Candidate`."""

    kept: Bools
    allowed: Bools
    smoothing: float | None = None


@dataclass(frozen=True, eq=False)
class Ranking:
    """name: as in `drop_reasons.score`; values: (n,) score of every chunk, higher is better.

    Of a family whose values depend on what else is kept also marginal: (n,) value of one more token beside the choice;
    tau: that of the last chunk taken by it; by_task: (n, T) the same for each task alone. None for the others.
    """

    name: str
    values: Floats
    marginal: Floats | None = None
    tau: float | None = None
    by_task: Floats | None = None


@dataclass(frozen=True)
class Search:
    """How optimised candidates are sought.

    selected: the configuration chosen on the calibration subsets; gap: relative duality gap at which the optimiser
    stops; max_passes: its most passes per candidate.
    """

    selected: Configuration
    gap: float
    max_passes: int


class Family:
    """A family of candidates; its members override what is different.

    Attributes:
        name: as in the column `family`; of the first candidate as well.
        description: what a candidate's row says of it; source: the paper, for another method's.
        role: of its candidates.
        ranks_by: `DIRECTION`, `NOTHING`, or the name of the score that `values` returns, as in `drop_reasons.score`.
        comparison: place among the comparison arms, which are always retrained; None for other families.
        follows_tasks: whether the judge standardises over its candidates; the values of those that follow no task
            are far from all others.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    ranks_by: ClassVar[str]
    source: ClassVar[str] = ""
    role: ClassVar[ArmRole] = "simple"
    comparison: ClassVar[int | None] = None
    follows_tasks: ClassVar[bool] = True
    linear: ClassVar[LinearScore | None] = None
    """The linear score of the candidates of `candidate`."""

    def values(self, context: SelectionContext) -> Floats:
        """Return the score of every chunk, (n,), higher is better."""
        raise NotImplementedError

    def choose(self, context: SelectionContext, feasible: FeasibleSet) -> Bools:
        """Return the membership (n,) of what it chooses from a feasible set: by default the highest values."""
        return top_k(self.values(context), feasible)

    def dedup(self, context: SelectionContext, copies: int) -> Dedup:
        """Return how far near duplicates are left out of `candidate`."""
        return "none"

    def describe(self, context: SelectionContext) -> str:
        """Return what a candidate's row says of it."""
        return self.description

    def candidate(self, context: SelectionContext, copies: int = 1) -> Candidate | None:
        """Return the candidate whose chunks each count `copies` times; None where the mechanism gives none."""
        made = self.filling(context, self.dedup(context, copies), copies)
        if copies == 1:
            return made
        return replace(
            made,
            name=f"{self.name}{TWICE}",
            description=f"{made.description.rstrip('.')}, every chunk twice.",
        )

    def filling(self, context: SelectionContext, dedup: Dedup = "none", copies: int = 1) -> Candidate:
        """Return what it chooses from one of the feasible sets."""
        trusted = self.role == "candidate"
        feasible = context.feasible_sets.feasible_set(dedup, copies, trusted)
        membership = self.choose(context, feasible)
        return Candidate(
            self.name,
            self.name,
            self.role,
            membership,
            tokens_of(membership, feasible, copies),
            self.describe(context),
            self.linear,
            dedup,
            copies,
        )

    def further(self, context: SelectionContext, search: Search) -> Iterator[Candidate]:
        """Yield candidates beside those of `candidate`."""
        yield from ()

    def ranking(self, context: SelectionContext, choice: Choice) -> Ranking | None:
        """Return what it ranks by; None for those that rank by one direction, keep everything or draw."""
        if self.ranks_by in (DIRECTION, NOTHING):
            return None
        return Ranking(self.ranks_by, self.values(context))

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter | None:
        """Return its score as a sum of parts that a new chunk has too; None where a single chunk has no such score."""
        return None

    def filter(self, context: SelectionContext, choice: Choice) -> ChunkFilter | None:
        """Return the filter of a candidate that does not rank by one direction, or None as in `parts`.

        The threshold is where the allowed chunks of highest value fill the candidate's tokens.
        """
        made = self.parts(context, choice)
        if made is None:
            return None
        blocks = context.blocks if made.q is not None else None
        inputs = ChunkInputs(context.chunks, blocks, context.losses, context.conditional)
        values = made.values(inputs)
        return replace(made, tau=last_taken(values, context.n_tokens, choice.kept, choice.allowed))


def check_family(family: Family) -> None:
    """Check that whatever a family ranks by explains its choice.

    Raises:
        ConfigError: it does not say what it ranks by, or says another thing than it does.
    """
    said = getattr(family, "ranks_by", None)
    scored = type(family).values is not Family.values
    named = said not in (DIRECTION, NOTHING)
    if said is None:
        fault = "does not say what it ranks by; give `ranks_by` the name of its score, DIRECTION or NOTHING"
    elif named and not scored:
        fault = f"ranks by {said}, and has no `values`; its choice could not be explained"
    elif said == NOTHING and (scored or family.role == "candidate"):
        fault = "chooses by a score that it does not declare; give `ranks_by` the name of that score"
    elif family.linear is not None and said != DIRECTION:
        fault = f"has a linear score and ranks by {said}; give `ranks_by` as DIRECTION"
    else:
        return
    raise ConfigError(f"the family {family.name!r} {fault}")
