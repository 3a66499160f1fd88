"""The subset surrogate: alignment with the task minus a price for redundancy.

    F_t(S) = <r_t, mu_S>_M - (lambda / 2) ||mu_S||_M^2 ,   mu_S = sum_S w_i phi_i / sum_S w_i

Our reconstruction from the abstract of GRASP (arXiv 2606.06892). lambda = 0 is additive attribution. All that
a grid of configurations needs from the sketches are the subset means, which are read once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project, tiles
from grasp_pipeline.attribution.metric import Metric, apply_metric
from grasp_pipeline.attribution.protocol import Membership
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.memberships import columns_of
from grasp_pipeline.names import Form


@dataclass(frozen=True)
class SubsetMeans:
    """means: (m, d) token-weighted mean sketches of m subsets; tokens: (m,) their sizes in tokens."""

    means: Floats
    tokens: Floats


def subset_means(
    sketches: SketchBlocks | NDArray[np.floating[Any]], n_tokens: ArrayLike, membership: Membership
) -> SubsetMeans:
    """Return the mean sketches of m subsets over n chunks in one pass; n_tokens: (n,).

    Raises:
        InputError: shapes disagree, a subset is without tokens, or a mean is not finite.
    """
    blocks = as_blocks(sketches)
    tokens = np.asarray(n_tokens, dtype=np.float64)
    if tokens.shape != (blocks.n,) or membership.ndim != 2 or membership.shape[1] != blocks.n:
        raise InputError(
            f"{blocks.n} sketches, token counts of shape {tokens.shape} and memberships of shape "
            f"{membership.shape} do not belong together"
        )
    # Row by row: the product of the whole boolean matrix would first copy it to float64.
    sizes = np.array([row @ tokens for row in membership])
    if not (sizes > 0).all():
        raise InputError(f"subset {int(np.argmin(sizes > 0))} holds no tokens and so has no mean sketch")
    sums = np.zeros((len(membership), blocks.d))
    for start, tile in tiles(blocks):
        part = slice(start, start + len(tile))
        held = columns_of(membership, part.start, part.stop)
        sums += (held * tokens[part]).astype(np.float32) @ tile
    if not np.isfinite(sums).all():
        raise InputError("a mean sketch is not finite; compute the sketches again")
    return SubsetMeans(sums / sizes[:, None], sizes)


def predict_from_means(
    subsets: SubsetMeans, targets: ArrayLike, metric: Metric, lam: float, form: Form = "mean"
) -> Floats:
    """Return F_t(S): (m, T) for targets r (T, d). The form `sum` is tokens(S) <r_t, mu_S>_M.

    Raises:
        ConfigError: lambda is negative, or above 0 in the sum form, where the smoothness bound does not hold.
    """
    check_form(lam, form)
    directions = apply_metric(metric, np.atleast_2d(np.asarray(targets, dtype=np.float64)))
    linear = subsets.means @ directions.T
    if form == "sum":
        return linear * subsets.tokens[:, None]
    if lam == 0:
        return linear
    return linear - lam / 2 * squared_norms(subsets, metric)[:, None]


def squared_norms(subsets: SubsetMeans, metric: Metric) -> Floats:
    """Return (m,) ||mu_S||_M^2."""
    return np.einsum("md,md->m", apply_metric(metric, subsets.means), subsets.means)


def check_form(lam: float, form: Form) -> None:
    """Refuse a negative lambda, an unknown form, and the sum form with lambda above 0 (ConfigError)."""
    if form not in ("mean", "sum"):
        raise ConfigError(f"form is {form!r}; give 'mean' or 'sum'")
    if not lam >= 0:
        raise ConfigError(f"lambda is {lam}; give 0 or more")
    if form == "sum" and lam > 0:
        raise ConfigError(f"the sum form is additive and needs lambda 0, not {lam}; use the mean form")


class Surrogate:
    """F for one configuration, over sketches (n, d), token counts (n,) and task directions targets (T, d).

    Additive, with scores, when lambda is 0.
    """

    def __init__(
        self,
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        targets: ArrayLike,
        metric: Metric = None,
        lam: float = 0.7,
        form: Form = "mean",
    ) -> None:
        check_form(lam, form)
        self.blocks = as_blocks(sketches)
        self.n_tokens = np.asarray(n_tokens, dtype=np.float64)
        self.targets = np.atleast_2d(np.asarray(targets, dtype=np.float64))
        self.metric, self.lam = metric, lam
        self.form: Form = form

    def predict(self, membership: Membership) -> Floats:
        """Return F_t(S): (m, T) for (m, n) memberships, in one pass over the sketches."""
        means = subset_means(self.blocks, self.n_tokens, membership)
        return predict_from_means(means, self.targets, self.metric, self.lam, self.form)

    def scores(self) -> Floats:
        """Return (n, T) w_i <r_t, phi_i>_M; raises ConfigError unless lambda is 0."""
        if self.lam != 0:
            raise ConfigError(
                f"the surrogate with lambda {self.lam} is not additive and has no scores; use lambda 0"
            )
        return self.n_tokens[:, None] * project(self.blocks, apply_metric(self.metric, self.targets).T)
