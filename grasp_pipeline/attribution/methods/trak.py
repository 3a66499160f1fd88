"""TRAK at one checkpoint: w_i q_i r_t' (X'X + damping I)^+ x_i (Park et al. 2023, arXiv 2303.14186).

x_i is the gradient of the model output f = log(p / (1 - p)) and q_i = 1 - p_i = -d loss / d f the out-to-loss
factor. With p_i = exp(-loss_i) the chain rule gives x_i = phi_i / q_i exactly, so loss gradients serve: q cancels
from the score and is left in X'X = sum_i phi_i phi_i' / q_i^2. A chunk of many tokens counts as one example whose
p is the geometric mean of its tokens'.

The defaults are those of traker 0.3.2, `TRAKer(proj_dim=2048, lambda_reg=0.0)`: no damping; X'X neither centred,
weighted nor divided by n. traker also divides gradients by the square root of the number of parameters and the
inverse by its mean absolute entry, one factor for all scores of a checkpoint; both are left out. Its targets are
gradients of f; here r_t is the direction that lowers the held-out loss, which utilities measure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.blocks import SketchBlocks, as_blocks, project
from grasp_pipeline.attribution.methods.inputs import DAMPINGS, FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.attribution.metric import second_moment
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form


@dataclass(frozen=True, eq=False)
class Kernel:
    """Eigenvalues (d,) and eigenvectors (d, d), in columns, of X'X: decomposed once for all dampings."""

    values: Floats
    vectors: Floats

    @classmethod
    def of(cls, gram: ArrayLike) -> Kernel:
        """Return the decomposition of X'X (d, d).

        Raises:
            InputError: it is not square.
        """
        matrix = np.asarray(gram, dtype=np.float64)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"gram has shape {matrix.shape}; give a square one, that of the sketches")
        values, vectors = eigh(matrix)
        return cls(np.asarray(values), np.asarray(vectors))

    @property
    def mean(self) -> float:
        """Mean eigenvalue, tr(X'X) / d."""
        return float(self.values.mean())

    def solve(self, targets: Floats, damping: float) -> Floats:
        """Return r' (X'X + damping I)^+ for targets (T, d); eigenvalues below the resolution of X'X are dropped."""
        damped = self.values + damping
        kept = np.abs(damped) > float(np.finfo(np.float32).eps) * len(damped) * np.abs(damped).max()
        inverse = np.divide(1, damped, out=np.zeros_like(damped), where=kept)
        return (targets @ self.vectors * inverse) @ self.vectors.T


class Trak(AdditiveScores):
    """TRAK from sketches (n, d), token counts (n,), task directions targets (T, d) and losses (n,).

    losses: nats per token, above 0. damping: added to the diagonal of X'X, in its unit, which grows with n; a
    tuned one is best stated as a multiple of tr(X'X) / d. gram: X'X from `trak_gram`, where it is known: (d, d), or
    its `Kernel`, which many dampings share.

    The inverse drops eigenvalues below float32's epsilon * d * the largest, the resolution of X'X. Without
    damping and with n < d, X'X is singular (traker inverts it all the same) and this is what defines the scores.

    Raises:
        ConfigError: damping is negative.
        InputError: shapes disagree, or a loss is not positive and finite.
    """

    def __init__(
        self,
        sketches: SketchBlocks | NDArray[np.floating[Any]],
        n_tokens: ArrayLike,
        targets: ArrayLike,
        losses: ArrayLike,
        damping: float = 0.0,
        form: Form = "mean",
        gram: ArrayLike | Kernel | None = None,
    ) -> None:
        if not damping >= 0:
            raise ConfigError(f"damping is {damping}; give 0 or more")
        blocks, tokens = as_blocks(sketches), np.asarray(n_tokens, dtype=np.float64)
        known = trak_gram(blocks, losses) if gram is None else gram
        kernel = known if isinstance(known, Kernel) else Kernel.of(known)
        if kernel.vectors.shape != (blocks.d, blocks.d):
            raise InputError(
                f"gram has shape {kernel.vectors.shape}; give that of the sketches: ({blocks.d}, {blocks.d})"
            )
        directions = kernel.solve(np.atleast_2d(np.asarray(targets, dtype=np.float64)), damping)
        super().__init__(tokens[:, None] * project(blocks, directions.T), tokens, form)


def trak_gram(sketches: SketchBlocks | NDArray[np.floating[Any]], losses: ArrayLike) -> Floats:
    """Return X'X = sum_i phi_i phi_i' / (1 - exp(-loss_i))^2: (d, d), in one pass; losses (n,) nats per token.

    Raises:
        InputError: there is not one loss per sketch, or a loss is not positive and finite.
    """
    blocks, values = as_blocks(sketches), np.asarray(losses, dtype=np.float64)
    if values.shape != (blocks.n,):
        raise InputError(f"losses have shape {values.shape}; give one for each of {blocks.n} sketches")
    usable = (values > 0) & np.isfinite(values)
    if not usable.all():
        row = int(np.argmin(usable))
        raise InputError(
            f"the loss of chunk {row} is {values[row]}; TRAK needs positive finite losses, so leave it out"
        )
    weights = np.expm1(-values) ** -2
    return second_moment(blocks, weights) * weights.sum()


@baseline("TRAK, default damping", FORMS, "s_it = w_i r_t' (X'X)^+ phi_i", "arXiv 2303.14186", by_kind=True)
def _build_default(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return inputs.tuned_forms([_trak(inputs, next(iter(inputs.views)), 0.0)])


@baseline(
    "TRAK, tuned damping",
    FORMS,
    "s_it = w_i r_t' (X'X + damping I)^-1 phi_i",
    "arXiv 2303.14186",
    by_kind=True,
)
def _build_tuned(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return inputs.tuned_forms(_trak(inputs, kind, rho) for kind in inputs.views for rho in DAMPINGS)


def _trak(inputs: BaselineInputs, kind: str, rho: float) -> tuple[str, Trak]:
    view = inputs.views[kind]
    kernel = inputs.remember(("TRAK", kind), lambda: Kernel.of(trak_gram(view.sketches, view.losses)))
    made = Trak(view.sketches, inputs.n_tokens, view.targets, view.losses, rho * kernel.mean, gram=kernel)
    return kind, made
