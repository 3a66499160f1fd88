"""The evidence of a certificate: held-out losses of the retrained arms, and the loss of an arm on a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.rank import finite
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import MEAN, RANDOM, WORST

Part = tuple[NDArray[np.bool_], float]
"""(documents,) mask of a task, and its weight in the target."""


@dataclass(frozen=True)
class Evidence:
    """Held-out losses of the retrained arms on the calibration documents.

    Attributes:
        losses: arm -> (runs, documents) mean loss per document, nats per token. Run 0 is the one that picks;
            later runs are fresh seeds, which only certify. The runs of the random arm are independent draws,
            each with a seed of its own.
        n_tokens: (documents,) target tokens, the documents' weights.
        fold: (documents,) 0 or 1.
        task: (documents,) task names.
        weights: weight of every task in the mean, or of the gains wanted where the worst task counts; empty: all equal;
            a task not named does not count.

    Raises:
        ConfigError: a task has fewer than two documents in a fold, a fold is neither 0 nor 1, or a task is
            named like the mean or the worst task.
        ValueError: shapes disagree or a loss is not finite; the message names the arm.
    """

    losses: Mapping[str, Floats]
    n_tokens: Floats
    fold: NDArray[np.int64]
    task: NDArray[np.str_]
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        tokens = finite("n_tokens", self.n_tokens)
        fold, task = np.asarray(self.fold, dtype=np.int64), np.asarray(self.task, dtype=np.str_)
        if tokens.ndim != 1 or fold.shape != tokens.shape or task.shape != tokens.shape:
            raise ValueError(
                f"n_tokens, fold and task have shapes {tokens.shape}, {fold.shape} and {task.shape}; "
                "expected one value for each document."
            )
        losses = {arm: finite(f"losses of arm {arm}", values) for arm, values in self.losses.items()}
        for arm, values in losses.items():
            if values.ndim != 2 or values.shape[0] < 1 or values.shape[1:] != tokens.shape:
                raise ValueError(
                    f"Losses of arm {arm} have shape {values.shape}; expected (runs, {len(tokens)})."
                )
        if len(tokens) == 0 or tokens.min() <= 0 or not np.isin(fold, (0, 1)).all():
            raise ConfigError(
                "Calibration documents need tokens and a fold that is 0 or 1; check the task table."
            )
        for name in np.unique(task).tolist():
            fewest = min(int(((task == name) & (fold == f)).sum()) for f in (0, 1))
            if fewest < 2 or name in (MEAN, WORST):
                raise ConfigError(
                    f"Task {name!r} has {fewest} calibration documents in a fold and needs 2 (and a name "
                    f"other than {MEAN!r}); add held-out documents or rename it."
                )
        for name, value in (("losses", losses), ("n_tokens", tokens), ("fold", fold), ("task", task)):
            object.__setattr__(self, name, value)

    def parts(self, target: str) -> list[Part]:
        """Return the tasks of a target with weights that sum to 1: one task, or those that count for the mean."""
        names = np.unique(self.task).tolist()
        if target not in (MEAN, WORST, *names):
            raise ConfigError(
                f"No calibration document has task {target!r}; choose {MEAN!r} or {', '.join(names)}."
            )
        if target in names:
            return [(self.task == target, 1.0)]
        counted = {name: self.weights.get(name, 0.0) if self.weights else 1.0 for name in names}
        total = sum(counted.values())
        return [(self.task == name, weight / total) for name, weight in counted.items() if weight > 0]

    def counted(self) -> list[str]:
        """Return the tasks that count."""
        return [name for name in np.unique(self.task).tolist() if not self.weights or self.weights.get(name)]

    def runs(self, arm: str) -> Floats:
        """Return the (runs, documents) losses of an arm."""
        if arm not in self.losses:
            raise ConfigError(f"Arm {arm!r} was not measured; have {', '.join(self.losses)}.")
        return self.losses[arm]


def target_loss(
    evidence: Evidence, losses: Floats, target: str, within: NDArray[np.bool_], reference: str
) -> Floats:
    """Return (runs,) the weighted mean over tasks of the token-weighted mean loss on the documents of `within`.

    For `WORST` the largest over tasks, as in `plan_picks`.
    """
    parts = evidence.parts(target)
    means = np.stack([_mean_loss(evidence, losses, group & within) for group, _ in parts])
    weights = np.array([weight for _, weight in parts])
    if target != WORST:
        return weights @ means
    usual = [_mean_loss(evidence, evidence.runs(reference), group & within).mean() for group, _ in parts]
    return ((means - np.array(usual)[:, None]) / (weights / weights.mean())[:, None]).max(axis=0)


def _mean_loss(evidence: Evidence, losses: Floats, chosen: NDArray[np.bool_]) -> Floats:
    tokens = evidence.n_tokens[chosen]
    return losses[:, chosen] @ tokens / tokens.sum()


def fold_loss(evidence: Evidence, arm: str, target: str, fold: int, reference: str = RANDOM) -> Floats:
    """Return (runs,) losses of an arm on one fold's documents of a target, as `plan_picks` compares them."""
    return target_loss(evidence, evidence.runs(arm), target, evidence.fold == fold, reference)
