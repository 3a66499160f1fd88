"""On-policy refit: the surrogate corrected by what the finalists were really worth.

An optimiser moves corpora where the surrogate is wrong in its favour. So once the finalists S are measured,

    U_S = a + b F(S) + <delta, mu_S> + noise

is fitted by least squares with a ridge penalty on delta alone. F with r + delta / b in place of r ranks as the fit
does, and is optimised once more. The penalty is one of `PENALTIES` by the error of finalists left out, each time with
a, b and delta fitted to the others (in closed form: Dubrule 1983). A correction is taken where it lowers this squared
error by more than a standard error (Breiman et al. 1984).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.surrogate import subset_means
from grasp_pipeline.memberships import Memberships
from grasp_pipeline.names import RANDOM, Dedup
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.selection.candidates.candidate import Candidate, CandidateSpec
from grasp_pipeline.selection.candidates.context import LinearScore, SelectionContext
from grasp_pipeline.selection.candidates.families.surrogate import optimised
from grasp_pipeline.selection.certification.evidence import Evidence, fold_loss

PENALTIES = (0.1, 1.0, 10.0)
"""Ridge penalties, in units of the mean squared distance of the finalists' means from their centre."""

REFIT = "surrogate-refit-"
"""Start of the name of a refitted corpus; the fold whose losses it was built with follows."""


def spec_of(name: str, linear: LinearScore | None, dedup: Dedup, repeats: int) -> CandidateSpec | None:
    """Return the spec of a candidate that a refit may start from: optimised, M = I, lambda > 0; None for others."""
    if linear is None or linear.rho != 0 or linear.lam == 0:
        return None
    return CandidateSpec(name, linear, dedup, repeats)


def refit_finalists(
    context: SelectionContext,
    specs: Mapping[str, CandidateSpec],
    membership: Mapping[str, NDArray[np.bool_]],
    draws: Iterable[NDArray[np.bool_]],
    measured: Evidence,
    target: str,
    gap: float,
    max_passes: int,
    listener: Listener = silent,
) -> dict[int, Candidate]:
    """Return by fold the corpus that the surrogate chooses once its losses on that fold have corrected it.

    The arm to be refitted is the one with the lowest loss on the fold among optimised ones with M = I.

    Args:
        context: what candidates are built from.
        specs: of candidates that a refit may start from (see `spec_of`).
        membership: (n,) of every measured arm. draws: (n,) of the random draws, in the order of their runs.
        measured: losses of one run each.
        target: what is selected for.
        gap, max_passes: as in `build_finalists`.
        listener: told what came of either fold.
    """
    names = [arm for arm in measured.losses if arm != RANDOM]
    fitting = [arm for arm in names if arm in specs]
    if not fitting:
        listener("no optimised corpus was retrained that a refit could start from")
        return {}
    members = Memberships.of(chain((membership[arm] for arm in names), draws), len(context.n_tokens))
    made = {}
    for fold in (0, 1):
        loss = np.array(
            [
                *(fold_loss(measured, arm, target, fold)[0] for arm in names),
                *fold_loss(measured, RANDOM, target, fold),
            ]
        )
        base = min(fitting, key=lambda arm: loss[names.index(arm)])
        spec = specs[base]
        linear = spec.linear
        means = subset_means(context.view(linear)[0], context.n_tokens, members).means
        corrected = refit_direction(context.direction(linear), means, linear.lam, -loss)
        if corrected is None:
            listener(f"fold {fold}: the finalists' losses correct nothing that {base} could be improved by")
            continue
        better = LinearScore(linear.features, 0.0, linear.lam, linear.ngram_weight, corrected)
        made_of = CandidateSpec(f"{REFIT}{fold}", better, spec.dedup, spec.repeats)
        entry = optimised(context, made_of, gap, max_passes)
        if members.has(entry.membership):
            listener(f"fold {fold}: refitted, {base} is a corpus that was retrained already")
            continue
        made[fold] = entry
        listener(f"fold {fold}: {base} was refitted on {len(loss)} retrained corpora")
    return made


def refit_direction(r: Floats, means: Floats, lam: float, utilities: Floats) -> Floats | None:
    """Return r + delta / b (d,), or None where no correction predicts finalists left out clearly better than none.

    r: (d,) direction of F with M = I; means: (S, d) mean features of the finalists; lam: lambda; utilities: (S,)
    measured, nats. None as well where F does not rise with the utilities (b <= 0) or does not vary.
    """
    values = means @ r - lam / 2 * np.einsum("sd,sd->s", means, means)
    moved = means - means.mean(axis=0)
    kernel = moved @ moved.T
    unit = np.trace(kernel) / len(means)
    if not unit > 0 or not np.ptp(values) > 0:
        return None
    plain = _Fit(np.eye(len(means)), values, utilities)
    if not plain.slope > 0:
        return None
    best, found = np.inf, None
    for penalty in PENALTIES:
        fit = _Fit(kernel + penalty * unit * np.eye(len(means)), values, utilities)
        lower = plain.left_out**2 - fit.left_out**2
        clearly = lower.mean() > lower.std(ddof=1) / np.sqrt(len(lower))
        error = float(fit.left_out @ fit.left_out)
        if clearly and fit.slope > 0 and error < best:
            best, found = error, r + moved.T @ fit.dual / fit.slope
    return found


class _Fit:
    """Generalised least squares of utilities (S,) on 1 and values (S,) with covariance (S, S).

    slope: b; dual: (S,) so that the ridge part is kernel @ dual; left_out: (S,) errors at rows that are left out.
    """

    def __init__(self, covariance: Floats, values: Floats, utilities: Floats) -> None:
        fixed = np.column_stack([np.ones_like(values), values])
        inverse = np.linalg.inv(covariance)
        weighted = inverse @ fixed
        gram = np.linalg.inv(fixed.T @ weighted)
        projection = inverse - weighted @ gram @ weighted.T
        self.slope = float((gram @ weighted.T @ utilities)[1])
        self.dual = projection @ utilities
        self.left_out = self.dual / np.diag(projection)
