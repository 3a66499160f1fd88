"""The constraints. A new one is a file here and a place in `CONSTRAINTS`."""

from __future__ import annotations

from grasp_pipeline.registry import Registry
from grasp_pipeline.section import all_of
from grasp_pipeline.selection.constraints.kinds.cluster_maximum import ClusterMaximum
from grasp_pipeline.selection.constraints.kinds.constraint import Constraint
from grasp_pipeline.selection.constraints.kinds.listed_ids import ListedIds
from grasp_pipeline.selection.constraints.kinds.source_quotas import SourceQuotas
from grasp_pipeline.selection.constraints.kinds.whole_documents import WholeDocuments

CONSTRAINTS: Registry[Constraint] = Registry(
    "constraint", (WholeDocuments(), SourceQuotas(), ClusterMaximum(), ListedIds())
)
"""Every constraint, in the order in which they ask."""


class ConstraintsConfig(all_of(each.Settings for each in CONSTRAINTS)):
    """What a selection must respect beside its budget."""

    def asked(self) -> bool:
        """Return whether anything is asked for."""
        return self.model_dump() != type(self)().model_dump()
