"""Partitions of chunks for grouped attribution: at random, or k-means of sketches or representations."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from grasp_pipeline.arrays import Ints
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator


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
    exact_values: int = 0,
) -> Ints:
    """Return (n,) k-means labels in [0, groups) of features (n, p), read once.

    The features are projected to `dimension` Gaussian directions; centres are fitted on at most `sample` rows from as
    many random rows; all rows go to the nearest centre. Draws are named by `name`. Groups may be empty.

    exact_values: features of at most so many values in all are neither projected nor sampled, and centres start by
        k-means++ (Arthur and Vassilvitskii, SODA 2007) and move twice as often.

    normalise: give every projected row length 1 first, so that rows group by direction; rows of zeros stay.

    Raises:
        ConfigError: there is no group, or there are fewer chunks than groups.
        InputError: the features are not finite.
    """
    blocks = as_blocks(features)
    _check_groups(blocks.n, groups)
    draw = generator("groups", *name)
    exact = blocks.n * blocks.d <= exact_values
    directions = np.eye(blocks.d)
    if dimension < blocks.d and not exact:
        directions = draw.standard_normal((blocks.d, dimension)) / np.sqrt(dimension)
    points = project(blocks, directions)
    if not np.isfinite(points).all():
        raise InputError("features to group chunks by are not all finite numbers; leave such rows out")
    if normalise:
        norms = np.linalg.norm(points, axis=1, keepdims=True)
        points /= np.where(norms > 0, norms, 1)
    rows = draw.permutation(blocks.n)[: max(sample, groups)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        if exact:
            centres, _ = kmeans2(points, groups, iter=2 * iterations, minit="++", rng=draw)
        else:
            centres, _ = kmeans2(points[rows], points[rows[:groups]], iter=iterations, minit="matrix")
    labels, _ = vq(points, centres)
    return labels.astype(np.int64)


def _check_groups(n: int, groups: int) -> None:
    if not 0 < groups <= n:
        raise ConfigError(f"{groups} groups of {n} chunks; give between 1 and the number of chunks")
