"""Contexts of images for log-coverage: clusters of their features, to one of which an image belongs or softly to all.

The event of an image is its label in the context of its cluster. Softly, an image counts in every cluster by

    a_k = exp( -(d_k - d_min) / (s m) ) / sum ,   d squared distances to the centres, m the median of the pool's d_min

and several clusterings stand side by side, as contexts of several kinds do for text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import vq
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Floats, Ints, TokenLists
from grasp_pipeline.attribution.log_coverage import CoverageForm, LogCoverage
from grasp_pipeline.attribution.partition import group_count, kmeans_groups
from grasp_pipeline.corpus.events import PSEUDO_COUNT, EventCounts, count_events, event_keys, given_contexts

CLUSTERS = (10, 20, 30)
"""Clusters of images tried as contexts, where the pool has eight images for each on average."""

SMOOTHINGS: dict[CoverageForm, tuple[float, ...]] = {
    "joint": (0.01, 0.03, 0.1, 0.3, 1.0),
    "conditional": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
"""rho tried by form of log-coverage, one cluster an image."""

SOFT_CLUSTERS, CLUSTERINGS, SHARPNESS = 30, 4, 0.3
"""Clusters of a soft clustering, how many clusterings stand side by side, and s."""

SOFT_SMOOTHINGS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""rho tried where images belong to all clusters."""


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """What log-coverage counts of images: features (n, h) and labels (n,) of the pool, and of the Q query images.

    task: (Q,) of the queries, in [0, tasks).
    """

    features: NDArray[np.floating]
    labels: Ints
    query_features: NDArray[np.floating]
    query_labels: Ints
    task: Ints
    tasks: int


def cluster_coverages(images: LabelledImages) -> dict[str, list[LogCoverage]]:
    """Return log-coverage of labels within clusters, an image in one of them, by form; what is tuned is tried.

    Clusters are fitted on the pool; a query image is of the cluster with the nearest mean.
    """
    found: dict[str, list[LogCoverage]] = {}
    labels, asked = images.labels, images.query_labels
    for groups in CLUSTERS:
        points, queries, means = _clustered(images, groups, "clusters of images")
        counts = count_events(
            TokenLists(labels, np.arange(len(labels) + 1)),
            TokenLists(asked, np.arange(len(asked) + 1)),
            images.task,
            images.tasks,
            given_contexts(vq(points, means)[0]),
            given_contexts(vq(queries, means)[0]),
        )
        for form, smoothings in SMOOTHINGS.items():
            tried = found.setdefault(f"log-coverage of clusters, {form}", [])
            tried += [LogCoverage(counts, rho, form) for rho in smoothings]
    return found


def soft_coverages(images: LabelledImages, clusterings: int = CLUSTERINGS) -> list[LogCoverage]:
    """Return log-coverage in the joint form, every image in all clusters, with every smoothing that is tried."""
    counts = soft_counts(images, clusterings)
    return [LogCoverage(counts, rho) for rho in SOFT_SMOOTHINGS]


def soft_counts(images: LabelledImages, clusterings: int = CLUSTERINGS) -> EventCounts:
    """Return how much of every image lies in each event, clusterings side by side with equal shares of a query."""
    shares, asked = [], []
    for number in range(clusterings):
        points, queries, means = _clustered(images, SOFT_CLUSTERS, f"soft clusters of images {number}")
        nearest = _distances(points, means).min(axis=1)
        unit = SHARPNESS * max(float(np.median(nearest)), 1e-9)
        shares.append(_soft(points, means, unit))
        asked.append(_soft(queries, means, unit))
    inside, wanted = np.hstack(shares), np.hstack(asked) / clusterings
    names = np.unique(np.concatenate([images.labels, images.query_labels]))
    events, query = (
        (share[:, :, None] * (labels[:, None] == names)[:, None, :]).reshape(len(share), -1)
        for share, labels in ((inside, images.labels), (wanted, images.query_labels))
    )
    member = (images.task == np.arange(images.tasks)[:, None]).astype(np.float64)
    n, contexts = inside.shape
    context = np.repeat(np.arange(contexts), len(names))
    label = np.tile(names, contexts)
    of_label = np.array([(images.labels == name).sum() for name in names]) + PSEUDO_COUNT
    return EventCounts(
        csr_array(events),
        csr_array(inside),
        event_keys(context.astype(np.int64), label),
        context,
        member / member.sum(axis=1, keepdims=True) @ query,
        np.tile(of_label / of_label.sum(), contexts),
        ((inside.sum(axis=0) + PSEUDO_COUNT) / (n + PSEUDO_COUNT * contexts))[context],
        np.ones(n, dtype=np.int64),
    )


def _clustered(images: LabelledImages, groups: int, name: str) -> tuple[Floats, Floats, Floats]:
    """Return the pool's and the queries' features as directions, and the means of clusters that hold any."""
    points, queries = _directions(images.features), _directions(images.query_features)
    cluster = kmeans_groups(images.features, group_count(len(points), groups), name, normalise=True)
    means = np.stack([points[cluster == group].mean(axis=0) for group in np.unique(cluster)])
    return points, queries, means


def _distances(points: Floats, means: Floats) -> Floats:
    """Return (n, k) squared distances."""
    return ((points[:, None] - means) ** 2).sum(axis=2)


def _soft(points: Floats, means: Floats, unit: float) -> Floats:
    """Return (n, k) shares of every point in the clusters, rows sum to 1."""
    distance = _distances(points, means)
    shares = np.exp(-(distance - distance.min(axis=1, keepdims=True)) / unit)
    return shares / shares.sum(axis=1, keepdims=True)


def _directions(features: NDArray[np.floating]) -> Floats:
    """Return features (n, h) of length 1."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1).astype(np.float64)
