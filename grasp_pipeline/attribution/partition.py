"""Partitions of chunks for grouped attribution: at random, or by k-means of inputs, representations or sketches.

`kmeans_groups` holds 64 numbers for each chunk; `streaming_groups` holds the centres alone and reads the chunks twice.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from grasp_pipeline.arrays import Floats, Ints
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, gather, project, tiles
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator, seed_for


def group_count(n: int, most: int) -> int:
    """Return how many groups of similar chunks to make of n: at most `most`, and of eight chunks on average or more."""
    return min(most, max(1, n // 8))


def random_groups(n: int, groups: int, seed: int = 0) -> Ints:
    """Return (n,) labels in [0, groups) drawn at random, of group sizes that differ by at most 1.

    Raises:
        ConfigError: there is no group, or there are fewer chunks than groups.
    """
    _check_groups(n, groups)
    return generator("random_groups", seed).permutation(n).astype(np.int64) % groups


def kmeans_groups(
    features: SketchBlocks | NDArray[np.floating[Any]],
    groups: int,
    *name: str | int,
    normalise: bool = False,
    dimension: int = 64,
    sample: int = 20_000,
    iterations: int = 10,
) -> Ints:
    """Return (n,) k-means labels in [0, groups) of features (n, p), read once.

    The features are projected to `dimension` Gaussian directions; centres are fitted on at most `sample` rows from as
    many random rows; all rows go to the nearest centre. Draws are named by `name`. Groups may be empty.

    normalise: give every projected row length 1 first, so that rows group by direction; rows of zeros stay.

    Raises:
        ConfigError: there is no group, or there are fewer chunks than groups.
        InputError: the features are not finite.
    """
    blocks = as_blocks(features)
    _check_groups(blocks.n, groups)
    draw = generator("groups", *name)
    points = project(blocks, _directions(draw, blocks.d, dimension))
    if not np.isfinite(points).all():
        raise InputError(_NOT_FINITE)
    if normalise:
        points = _unit(points)
    rows = draw.permutation(blocks.n)[: max(sample, groups)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(points[rows], points[rows[:groups]], iter=iterations, minit="matrix")
    labels, _ = vq(points, centres)
    return labels.astype(np.int64)


def streaming_groups(
    features: SketchBlocks | NDArray[np.floating[Any]],
    groups: int,
    *name: str | int,
    normalise: bool = False,
    dimension: int = 64,
) -> Ints:
    """Return (n,) mini-batch k-means labels in [0, groups) of features (n, p), read in tiles, for large corpora.

    Centres start at random rows and move with every tile (Sculley, WWW 2010; scikit-learn's MiniBatchKMeans); a second
    read gives each row its nearest centre. Arguments and errors as in `kmeans_groups`; groups may be empty.
    """
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    blocks = as_blocks(features)
    _check_groups(blocks.n, groups)
    draw = generator("groups", *name)
    directions = _directions(draw, blocks.d, dimension).astype(np.float32)

    def points(tile: NDArray[np.float32]) -> NDArray[np.float32]:
        projected = tile @ directions
        if not np.isfinite(projected).all():
            raise InputError(_NOT_FINITE)
        return _unit(projected) if normalise else projected

    start = points(gather(blocks, np.sort(draw.permutation(blocks.n)[:groups])))
    given: dict[str, Any] = {"init": start, "n_init": 1, "random_state": seed_for("groups", *name) % 2**32}
    means = MiniBatchKMeans(groups, **given)
    labels = np.empty(blocks.n, dtype=np.int64)
    with threadpool_limits(1):  # sums of several threads are added in no fixed order
        for _, tile in tiles(blocks):
            means.partial_fit(points(tile))
        for first, tile in tiles(blocks):
            labels[first : first + len(tile)] = vq(points(tile), means.cluster_centers_)[0]
    return labels


_NOT_FINITE = "features to group chunks by are not all finite numbers; leave such rows out"


def _directions(draw: np.random.Generator, d: int, dimension: int) -> Floats:
    """Return (d, dimension) Gaussian directions, or the identity where there are no more than `dimension` values."""
    if dimension >= d:
        return np.eye(d)
    return draw.standard_normal((d, dimension)) / np.sqrt(dimension)


def _unit(points: NDArray[Any]) -> NDArray[Any]:
    """Give every row length 1; rows of zeros stay."""
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.where(norms > 0, norms, 1).astype(points.dtype)


def _check_groups(n: int, groups: int) -> None:
    if not 0 < groups <= n:
        raise ConfigError(f"{groups} groups of {n} chunks; give between 1 and the number of chunks")
