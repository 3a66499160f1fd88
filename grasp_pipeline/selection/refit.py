"""On-policy refit: the surrogate corrected by what the finalists were really worth.

An optimiser moves corpora where the surrogate is wrong in its favour. So once the finalists S are measured,

    U_S = a + b F(S) + <delta, mu_S> + noise

is fitted by least squares with a ridge penalty on delta alone. F with r + delta / b in place of r ranks as the fit
does, and is optimised once more. The penalty is one of `PENALTIES` by the error of finalists left out, each time with
a, b and delta fitted to the others (in closed form: Dubrule 1983). A correction is taken where it lowers this squared
error by more than a standard error (Breiman et al. 1984).
"""

from __future__ import annotations

import numpy as np

from grasp_pipeline.attribution.blocks import Float64

PENALTIES = (0.1, 1.0, 10.0)
"""Ridge penalties, in units of the mean squared distance of the finalists' means from their centre."""


def refit_direction(r: Float64, means: Float64, lam: float, utilities: Float64) -> Float64 | None:
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

    def __init__(self, covariance: Float64, values: Float64, utilities: Float64) -> None:
        fixed = np.column_stack([np.ones_like(values), values])
        inverse = np.linalg.inv(covariance)
        weighted = inverse @ fixed
        gram = np.linalg.inv(fixed.T @ weighted)
        projection = inverse - weighted @ gram @ weighted.T
        self.slope = float((gram @ weighted.T @ utilities)[1])
        self.dual = projection @ utilities
        self.left_out = self.dual / np.diag(projection)
