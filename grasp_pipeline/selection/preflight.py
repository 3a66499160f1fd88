"""What a run can be refused for before it trains anything: each rule takes facts and returns a sentence, or None.

Where a later stage has the rule itself, it is asked here with what is known by now, so that there is one rule and one
sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from grasp_pipeline.calibration.budget import Budget
from grasp_pipeline.calibration.designs import design_subsets
from grasp_pipeline.config import ConstraintsConfig, FinalistsConfig, ProtocolConfig, SubsetsConfig
from grasp_pipeline.corpus.pool import ChunkPool
from grasp_pipeline.errors import ConfigError, nearest
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.target import Target


def refusal(of: Callable[[], object]) -> str | None:
    """Return the sentence that something is refused with; None where it is not."""
    try:
        of()
    except ConfigError as error:
        return str(error)
    return None


def wrong_target(protocol: ProtocolConfig, tasks: Collection[str]) -> str | None:
    """The target or a weight is of no task."""
    return refusal(lambda: Target.of(protocol.target, sorted(tasks), protocol.task_weights))


def no_retraining_left(config: FinalistsConfig, fresh: int, refits: int) -> str | None:
    """The limit on retrainings is used up by the random draws, the fresh runs and the refits."""
    beside = config.random_draws + fresh + (refits if config.refit else 0)
    if not config.max_retrainings or config.max_retrainings > beside:
        return None
    return (
        f"finalists.max_retrainings is {config.max_retrainings}; random draws, fresh runs and refits take {beside}, so "
        f"no finalist could be retrained: raise it by {beside + 1 - config.max_retrainings}, or lower "
        "finalists.random_draws"
    )


def unknown_sources(constraints: ConstraintsConfig, sources: Collection[str]) -> str | None:
    """A floor or cap is of a source that no document comes from."""
    for field in ("source_floors", "source_caps"):
        for name in getattr(constraints, field):
            if name not in sources:
                return (
                    f"finalists.constraints.{field} names the source {name!r}, which no document comes from; "
                    f"{nearest(name, sources)}"
                )
    return None


def old_sealed_subsets(drawn_from: int, corpus: int) -> str | None:
    """The sealed subsets are of another version of `tokenized_shards` than the corpus that would be judged."""
    if drawn_from == corpus:
        return None
    return (
        f"The sealed subsets were drawn from version {drawn_from} of tokenized_shards, and the corpus has changed "
        f"since (version {corpus}): what they are worth would say nothing of it. Run the job curate, which draws and "
        "retrains them again"
    )


def impossible_budget(budget: Budget, tokens: int, documents: int) -> str | None:
    """The budget is nothing, or more than the corpus."""
    return refusal(lambda: budget.resolve(tokens, documents))


def too_few_subsets(config: SubsetsConfig, pool: ChunkPool, budget: int) -> str | None:
    """Not as many distinct subsets fit the budget as are to be retrained.

    The real draws follow the tasks' scores; these follow random ones.
    """
    scores = generator("preflight").standard_normal((pool.n, 1))
    for count in (config.calibration_subsets, config.evaluation_subsets):
        told = refusal(lambda count=count: design_subsets(pool, scores, budget, count, "preflight"))
        if told is not None:
            return told
    return None
