"""Constraint `listed_ids`: documents or chunks that are kept, or dropped, whatever they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from pydantic import Field, model_validator

from grasp_pipeline.arrays import Bools
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.section import Section
from grasp_pipeline.selection.constraints.kinds.constraint import Chunks, Constraint, Demands


class ListedIdsSettings(Section):
    """Fields of `listed_ids`."""

    must_keep: list[str] = Field(
        default=[], description="Ids of documents or chunks that are kept whatever they are worth."
    )
    must_drop: list[str] = Field(default=[], description="Ids of documents or chunks that are never kept.")

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if both := sorted(set(self.must_keep) & set(self.must_drop)):
            raise ValueError(f"must_keep and must_drop both hold {', '.join(both[:5])}; take them out of one")
        return self


class ListedIds(Constraint):
    """Must-keep and must-drop lists."""

    name = "listed_ids"
    equation = "w_i = 1 for i in must_keep, w_i = 0 for i in must_drop"
    Settings = ListedIdsSettings

    def ask(self, settings: ListedIdsSettings, chunks: Chunks, demands: Demands) -> None:
        demands.keep |= listed_chunks(settings.must_keep, chunks, "must_keep")
        demands.drop["must_drop"] = listed_chunks(settings.must_drop, chunks, "must_drop")


def listed_chunks(ids: Sequence[str], chunks: Chunks, field: str) -> Bools:
    """Return (n,) whether a chunk, or its document, is in a list of ids.

    Raises:
        ConfigError: an id is neither; names the first few.
    """
    found, unknown = chunks.listed(tuple(ids))
    if unknown:
        missing = sorted(unknown)
        raise ConfigError(
            f"{field} holds {len(missing):,} ids that are neither a document nor a chunk of the clean corpus, such as "
            f"{', '.join(missing[:3])}; correct or remove them (rejected_documents tells why a document was rejected)"
        )
    return found
