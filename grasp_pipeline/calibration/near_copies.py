"""Near copies among retrained corpora: what was measured of them counts once.

Corpora that were selected for the same target overlap, so that their utilities and their predictions err together: a
dozen of them tell hardly more than one. Counted as exchangeable with subsets of a design they make every difference
look certain. So corpora that overlap are one cluster (single linkage), a cluster enters a rank correlation as one row,
the mean of its members, and clusters are what the bootstrap draws again (Davison and Hinkley 1997, 3.8).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from grasp_pipeline.arrays import Floats
from grasp_pipeline.memberships import RANGE, Membership, columns_of

LINKED = 0.3
"""Correlation of two memberships over tokens from which they are linked. Independent draws have 0 at any budget, a
corpus and its better half about .6."""

POOLED_SHARE = 0.5
"""Clusters that may join a design, as a share of its subsets: what was designed keeps two thirds of the statistic."""


def overlap_clusters(
    membership: Membership, n_tokens: ArrayLike, linked: float = LINKED
) -> NDArray[np.int64]:
    """Return (k,) the cluster of every corpus, numbered in the order of their first members.

    Args:
        membership: (k, n).
        n_tokens: (n,) tokens per chunk.
        linked: correlation over tokens of two memberships from which they are in one cluster.
    """
    k, n = membership.shape
    tokens = np.asarray(n_tokens, dtype=np.float64)
    shared = np.zeros((k, k))
    for start in range(0, n, RANGE):
        part = columns_of(membership, start, min(start + RANGE, n)).astype(np.float64)
        shared += (part * tokens[start : start + RANGE]) @ part.T
    share = shared / tokens.sum()
    held = np.diag(share)
    spread = np.sqrt(held * (1 - held))
    scale = np.outer(spread, spread)
    correlation = np.divide(share - np.outer(held, held), scale, out=np.zeros_like(scale), where=scale > 0)
    labels = connected_components(csr_array(correlation >= linked), directed=False)[1]
    first = {label: place for place, label in reversed(list(enumerate(labels.tolist())))}
    order = sorted(first, key=lambda label: first[label])
    return np.array([order.index(label) for label in labels.tolist()], dtype=np.int64)


def cluster_means(values: ArrayLike, clusters: NDArray[np.int64], axis: int) -> Floats:
    """Return values with the corpora along an axis averaged cluster by cluster."""
    array = np.moveaxis(np.asarray(values, dtype=np.float64), axis, 0)
    sums = np.zeros((int(clusters.max(initial=-1)) + 1, *array.shape[1:]))
    np.add.at(sums, clusters, array)
    counts = np.bincount(clusters, minlength=len(sums)).reshape(-1, *[1] * (array.ndim - 1))
    return np.moveaxis(sums / counts, 0, axis)
