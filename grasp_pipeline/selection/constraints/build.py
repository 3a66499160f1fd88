"""The constraint set that a configuration makes of a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools
from grasp_pipeline.config import ConstraintsConfig
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.candidates.bigram_likelihood import repeat_groups
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet


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


def build_constraints(
    config: ConstraintsConfig,
    budget: int,
    n_tokens: NDArray[np.integer[Any]],
    *,
    chunk_ids: NDArray[Any],
    document_ids: NDArray[Any],
    sources: NDArray[Any],
    clusters: NDArray[Any],
    positions: NDArray[np.integer[Any]],
    allowed: Bools | None = None,
    keep: Bools | None = None,
) -> ConstraintSet:
    """Return the constraint set of a configuration for a corpus of n chunks.

    budget: in tokens; n_tokens: (n,); chunk_ids, document_ids, sources: (n,) names; clusters: (n,)
    near-duplicate clusters of their documents and positions: (n,) places in these: a cluster's maximum counts documents
    where they are the unit, else the chunks at one place. allowed: (n,) chunks that may be chosen at all, besides those
    of must_keep, or None for all; keep: (n,) more chunks that are kept unless must_drop names them.

    Raises:
        ConfigError: an id or source is unknown, or the constraints cannot be met together.
    """
    names, source_codes = np.unique(sources, return_inverse=True)
    drop = listed_chunks(config.must_drop, chunk_ids, document_ids, "must_drop")
    listed = listed_chunks(config.must_keep, chunk_ids, document_ids, "must_keep")
    whole = config.unit == "document"
    groups = None
    if config.cluster_max_units or config.cluster_max_tokens:
        groups = np.unique(clusters if whole else repeat_groups(clusters, positions), return_inverse=True)[1]
    return ConstraintSet(
        n_tokens,
        budget,
        documents=np.unique(document_ids, return_inverse=True)[1] if whole else None,
        sources=source_codes,
        source_names=[str(name) for name in names],
        floors=config.source_floors,
        caps=config.source_caps,
        clusters=groups,
        cluster_units=config.cluster_max_units or None,
        cluster_tokens=config.cluster_max_tokens or None,
        keep=listed if keep is None else listed | (keep & ~drop),
        drop=drop if allowed is None else drop | (~allowed & ~listed),
    )
