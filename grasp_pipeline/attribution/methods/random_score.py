"""Control: additive attribution with scores drawn at random, s_it = w_i z_it with z standard normal."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.attribution.additive import AdditiveScores
from grasp_pipeline.attribution.methods.inputs import FORMS, BaselineInputs, Candidate
from grasp_pipeline.attribution.methods.registry import baseline
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator


class RandomScore(AdditiveScores):
    """Random scores of chunks with token counts n_tokens (n,) for `tasks` tasks; one draw per seed."""

    def __init__(self, n_tokens: ArrayLike, tasks: int, seed: int = 0, form: Form = "mean") -> None:
        tokens = np.asarray(n_tokens, dtype=np.float64)
        draws = generator("random_score", seed).standard_normal((len(tokens), tasks))
        super().__init__(tokens[:, None] * draws, tokens, form)


@baseline("random", FORMS, "s_it = w_i z_it, z ~ N(0, 1)", "control")
def _build(inputs: BaselineInputs) -> dict[Form, Candidate]:
    return {form: ("", RandomScore(inputs.n_tokens, inputs.tasks, form=form)) for form in FORMS}
