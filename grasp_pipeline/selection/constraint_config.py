"""The configuration section of a selection's constraints, and the constraint set that it makes of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from grasp_pipeline.config import Section
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.constraints import ConstraintSet
from grasp_pipeline.selection.quotas import Bools


class ConstraintsConfig(Section):
    """What the selection must respect beside its budget, and how several tasks are weighed."""

    unit: Literal["chunk", "document"] = Field(
        default="chunk", description="What is kept or dropped as one: `chunk`, or a whole `document`."
    )
    budget_documents: int = Field(
        default=0,
        ge=0,
        description="Budget as a number of documents: as many tokens as that many documents hold on average; 0 uses "
        "the budget in tokens or as a fraction.",
    )
    source_floors: dict[str, float] = Field(
        default={},
        description="Least to keep of a source, by name: above 1 in tokens, up to 1 as a share of the budget.",
    )
    source_caps: dict[str, float] = Field(
        default={},
        description="Most to keep of a source, by name: above 1 in tokens, up to 1 as a share of the budget.",
    )
    cluster_max_units: int = Field(
        default=0,
        ge=0,
        description="Most chunks, or documents where the unit is `document`, to keep of a near-duplicate cluster; 0: "
        "no limit.",
    )
    cluster_max_tokens: int = Field(
        default=0, ge=0, description="Most tokens to keep of a near-duplicate cluster; 0: no limit."
    )
    must_keep: list[str] = Field(
        default=[], description="Ids of documents or chunks that are kept whatever they are worth."
    )
    must_drop: list[str] = Field(default=[], description="Ids of documents or chunks that are never kept.")
    objective: Literal["weighted_mean", "worst_task"] = Field(
        default="weighted_mean",
        description="`weighted_mean` of the tasks, or `worst_task`: the least gain over the whole corpus, divided by "
        "the task's weight, is made as large as possible.",
    )
    task_weights: dict[str, float] = Field(
        default={},
        description="Weight of every task, rescaled to sum to 1; empty: all equal; tasks not named have 0.",
    )

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        for field in ("source_floors", "source_caps", "task_weights"):
            for name, value in getattr(self, field).items():
                if not (np.isfinite(value) and value >= 0):
                    raise ValueError(f"{field}.{name} is {value}; give a number of 0 or more")
        for name, low in self.source_floors.items():
            high = self.source_caps.get(name, np.inf)
            if (low <= 1) == (high <= 1) and low > high:
                raise ValueError(
                    f"source_floors.{name} is {low}, above source_caps.{name} of {high}; lower the floor to {high} or "
                    f"raise the cap to {low}"
                )
        shares = {name: low for name, low in self.source_floors.items() if low <= 1}
        if sum(shares.values()) > 1 + 1e-9:
            raise ValueError(
                f"the shares in source_floors ({', '.join(shares)}) sum to {sum(shares.values()):.4g}; lower them by "
                f"{sum(shares.values()) - 1:.4g} in all"
            )
        if self.cluster_max_units and self.cluster_max_tokens:
            raise ValueError("cluster_max_units and cluster_max_tokens are both set; set one of them to 0")
        if both := sorted(set(self.must_keep) & set(self.must_drop)):
            raise ValueError(f"must_keep and must_drop both hold {', '.join(both[:5])}; take them out of one")
        if self.task_weights and not any(self.task_weights.values()):
            raise ValueError("task_weights are all 0; give one task a weight above 0")
        return self


def listed_chunks(
    ids: Sequence[str], chunk_ids: NDArray[Any], document_ids: NDArray[Any], field: str
) -> Bools:
    """Return (n,) whether a chunk, or its document, is in a list of ids; chunk_ids, document_ids: (n,) strings.

    Raises:
        ConfigError: an id is neither; names the first few.
    """
    if not ids:
        return np.zeros(len(chunk_ids), dtype=np.bool_)
    wanted = np.array(sorted(set(ids)))
    found = np.isin(wanted, chunk_ids.astype(str)) | np.isin(wanted, document_ids.astype(str))
    if not found.all():
        missing = wanted[~found]
        raise ConfigError(
            f"{field} holds {len(missing):,} ids that are neither a document nor a chunk of the clean corpus, such as "
            f"{', '.join(missing[:3])}; correct or remove them (rejected_documents tells why a document was rejected)"
        )
    return np.isin(chunk_ids.astype(str), wanted) | np.isin(document_ids.astype(str), wanted)


def documents_to_tokens(budget_documents: int, n_tokens: int, n_documents: int) -> int:
    """Return the tokens that a number of documents hold on average in a corpus.

    Raises:
        ConfigError: the corpus has fewer documents.
    """
    if not 0 < budget_documents <= n_documents:
        raise ConfigError(
            f"the budget is {budget_documents:,} documents of a corpus of {n_documents:,}; set budget_documents to "
            f"between 1 and {n_documents:,}"
        )
    return budget_documents * n_tokens // n_documents


def build_constraints(
    config: ConstraintsConfig,
    budget: int,
    n_tokens: NDArray[np.integer[Any]],
    *,
    chunk_ids: NDArray[Any],
    document_ids: NDArray[Any],
    sources: NDArray[Any],
    clusters: NDArray[Any],
    allowed: Bools | None = None,
) -> ConstraintSet:
    """Return the constraint set of a configuration for a corpus of n chunks.

    n_tokens: (n,); chunk_ids, document_ids, sources, clusters: (n,) names; allowed: (n,) chunks that may be chosen at
    all, or None. With config.budget_documents above 0 that is the budget, else `budget` tokens.

    Raises:
        ConfigError: an id or source is unknown, or the constraints cannot be met together.
    """
    documents, document_codes = np.unique(document_ids, return_inverse=True)
    names, source_codes = np.unique(sources, return_inverse=True)
    if config.budget_documents:
        budget = documents_to_tokens(config.budget_documents, int(n_tokens.sum()), len(documents))
    drop = listed_chunks(config.must_drop, chunk_ids, document_ids, "must_drop")
    limited = config.cluster_max_units or config.cluster_max_tokens
    return ConstraintSet(
        n_tokens,
        budget,
        documents=document_codes if config.unit == "document" else None,
        sources=source_codes,
        source_names=[str(name) for name in names],
        floors=config.source_floors,
        caps=config.source_caps,
        clusters=np.unique(clusters, return_inverse=True)[1] if limited else None,
        cluster_units=config.cluster_max_units or None,
        cluster_tokens=config.cluster_max_tokens or None,
        keep=listed_chunks(config.must_keep, chunk_ids, document_ids, "must_keep"),
        drop=drop if allowed is None else drop | ~allowed,
    )
