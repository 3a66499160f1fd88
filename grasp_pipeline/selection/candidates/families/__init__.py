"""The families of candidates. A new one is a file here and a place in `FAMILIES`."""

from __future__ import annotations

from grasp_pipeline.registry import Registry
from grasp_pipeline.selection.candidates.families.airrep import AirRepFamily
from grasp_pipeline.selection.candidates.families.blend import Blend
from grasp_pipeline.selection.candidates.families.conditional import Conditional
from grasp_pipeline.selection.candidates.families.dsir import Dsir
from grasp_pipeline.selection.candidates.families.full import Full
from grasp_pipeline.selection.candidates.families.ggda import Ggda
from grasp_pipeline.selection.candidates.families.graddot import GradDot
from grasp_pipeline.selection.candidates.families.influence import Influence
from grasp_pipeline.selection.candidates.families.log_coverage import LogCoverageFamily
from grasp_pipeline.selection.candidates.families.lowest_loss import LowestLoss
from grasp_pipeline.selection.candidates.families.middle_perplexity import MiddlePerplexity
from grasp_pipeline.selection.candidates.families.quality_head import QualityFamily
from grasp_pipeline.selection.candidates.families.random import Random
from grasp_pipeline.selection.candidates.families.random_deduplicated import RandomDeduplicated
from grasp_pipeline.selection.candidates.families.surrogate import Surrogate
from grasp_pipeline.selection.candidates.family import TWICE, Family, check_family

FAMILIES: Registry[Family] = Registry(
    "family of candidates",
    (
        Random(),
        Full(),
        Influence(),
        GradDot(),
        LowestLoss(),
        MiddlePerplexity(),
        Dsir(),
        Ggda(),
        RandomDeduplicated(),
        QualityFamily(),
        Conditional(),
        Blend(),
        AirRepFamily(),
        Surrogate(),
        LogCoverageFamily(),
    ),
    check_family,
)
"""Every family; of one role, candidates are built in this order."""

COMPARISON_ARMS = tuple(
    name for _, name in sorted((each.comparison, each.name) for each in FAMILIES if each.comparison)
)
"""Comparison arms: retrained whatever the judge says, each a row of the certificates. A limit on retrainings leaves out
the last ones first."""

TWINS = tuple(f"{arm}{TWICE}" for arm in COMPARISON_ARMS if arm != Full.name)
"""What the comparison arms are with half as much text twice. A lever that candidates may pull is theirs as well: as
many of these are retrained as candidates are, the best-judged ones."""

COMPARED = (
    *COMPARISON_ARMS,
    *TWINS,
    *(
        f"{family.name}{end}"
        for family in FAMILIES
        if family.source and not family.comparison
        for end in ("", TWICE)
    ),
)
"""Every arm that is another method's, for comparisons at equal rules: with and without repeats."""

OUTLYING = tuple(
    f"{family.name}{end}" for family in FAMILIES if not family.follows_tasks for end in ("", TWICE)
)
"""Arms that the judge does not standardise over."""
