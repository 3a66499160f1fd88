"""Groups of similar chunks for grouped attribution (GGDA, Ley et al. 2024, arXiv 2410.09940)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq

from grasp_pipeline.attribution.blocks import SketchBlocks, project
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator


def group_chunks(
    blocks: SketchBlocks,
    groups: int,
    *name: str | int,
    dimension: int = 64,
    sample: int = 20_000,
    iterations: int = 10,
) -> NDArray[np.int64]:
    """Return (n,) k-means labels in [0, groups) of the sketches.

    The sketches are projected to `dimension` Gaussian directions; centres are fitted on at most `sample`
    chunks from as many random chunks; all chunks go to the nearest centre. Draws are named by `name`. Groups
    may be empty.

    Raises:
        ConfigError: there are fewer chunks than groups, or no group.
    """
    if not 0 < groups <= blocks.n:
        raise ConfigError(f"{groups} groups of {blocks.n} chunks; give between 1 and the number of chunks")
    draw = generator("groups", *name)
    if dimension < blocks.d:
        points = project(blocks, draw.standard_normal((blocks.d, dimension)) / np.sqrt(dimension))
    else:
        points = project(blocks, np.eye(blocks.d))
    rows = draw.permutation(blocks.n)[: max(sample, groups)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        centres, _ = kmeans2(points[rows], points[rows[:groups]], iter=iterations, minit="matrix")
    labels, _ = vq(points, centres)
    return labels.astype(np.int64)
