"""The token budget, given as a count or as a share of the corpus."""

from __future__ import annotations

from grasp_pipeline.errors import ConfigError


def resolve_budget(budget_tokens: int, budget_fraction: float, total: int) -> int:
    """Return the budget in tokens; a `budget_tokens` of 0 means `budget_fraction` of `total`.

    Raises:
        ConfigError: the budget is 0 or larger than the corpus.
    """
    budget = budget_tokens if budget_tokens > 0 else int(budget_fraction * total)
    if budget <= 0:
        raise ConfigError(
            f"the budget is {budget} tokens of a corpus of {total:,}; raise candidates.budget_fraction or "
            "candidates.budget_tokens"
        )
    if budget > total:
        raise ConfigError(
            f"the budget of {budget:,} tokens is above the corpus's {total:,}; lower candidates.budget_tokens, or set "
            "candidates.budget_fraction to 1 to keep everything"
        )
    return budget
