"""Partitions of chunks for grouped attribution: at random, or k-means of sketches or representations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator, seed_for


def random_groups(n: int, groups: int, seed: int = 0) -> NDArray[np.int64]:
    """Return (n,) labels in [0, groups) drawn at random, of group sizes that differ by at most 1.

    Raises:
        ConfigError: there is no group, or there are fewer chunks than groups.
    """
    _check_groups(n, groups)
    return generator("random_groups", seed).permutation(n).astype(np.int64) % groups


def kmeans_groups(
    features: NDArray[np.floating[Any]], groups: int, seed: int = 0, normalise: bool = False
) -> NDArray[np.int64]:
    """Return (n,) k-means labels in [0, groups) of features (n, p), from one k-means++ start named by `seed`.

    normalise: give every row length 1 first, so that rows group by direction; rows of zeros stay. Fewer labels
    are used where there are fewer distinct rows than groups.

    Raises:
        ConfigError: there is no group, or there are fewer chunks than groups.
        InputError: the features are not a finite matrix.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    points = np.asarray(features, dtype=np.float32)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise InputError(f"features of shape {points.shape} must be a finite matrix with one row per chunk")
    _check_groups(len(points), groups)
    if normalise:
        norms = np.linalg.norm(points, axis=1, keepdims=True)
        points = points / np.where(norms > 0, norms, 1)
    method = KMeans(groups, random_state=seed_for("kmeans_groups", seed) % (1 << 32))
    # Threads add up partial sums in the order they finish: one thread, so that a seed gives one partition.
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)
        return method.fit_predict(points).astype(np.int64)


def _check_groups(n: int, groups: int) -> None:
    if not 0 < groups <= n:
        raise ConfigError(f"{groups} groups of {n} chunks; give between 1 and the number of chunks")
