"""Control: chunks scored by their loss alone, s_it = +- w_i loss_i; no gradient and no task."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form


class LossOnly(AdditiveScores):
    """Scores sign * w_i loss_i from losses (n,) in nats per token and token counts (n,), alike for all tasks.

    sign: -1 prefers chunks of low loss, +1 those of high loss.

    Raises:
        ConfigError: sign is neither -1 nor 1.
        InputError: losses and token counts disagree in shape, or a loss is not finite.
    """

    def __init__(
        self, losses: ArrayLike, n_tokens: ArrayLike, tasks: int, sign: int = -1, form: Form = "mean"
    ) -> None:
        if sign not in (-1, 1):
            raise ConfigError(f"sign is {sign}; give -1 to prefer low losses or 1 to prefer high ones")
        values, tokens = np.asarray(losses, dtype=np.float64), np.asarray(n_tokens, dtype=np.float64)
        if values.ndim != 1 or values.shape != tokens.shape or not np.isfinite(values).all():
            raise InputError(
                f"losses of shape {values.shape} for token counts of shape {tokens.shape}; give one finite loss "
                "for each chunk"
            )
        super().__init__(np.repeat((sign * tokens * values)[:, None], tasks, axis=1), tokens, form)


@baseline("loss only", FORMS, "s_i = +- w_i loss_i", "control")
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    losses = next(iter(inputs.views.values())).losses
    return {
        form: inputs.tuned(
            ("", LossOnly(losses, inputs.n_tokens, inputs.tasks, sign, form)) for sign in (-1, 1)
        )
        for form in FORMS
    }
