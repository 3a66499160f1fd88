"""What ships in a study, and how it fares on the sealed documents: margins with paired bounds, and tokens saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from benchmarks.downstream.target_study import TargetStudy, study_names
from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.names import MEAN, RANDOM
from grasp_pipeline.selection.candidates.candidate import Candidate
from grasp_pipeline.selection.candidates.families import COMPARED
from grasp_pipeline.selection.candidates.finalists import shortlist
from grasp_pipeline.selection.certification.certificate import plan_picks
from grasp_pipeline.selection.certification.evidence import Evidence


@dataclass(frozen=True)
class Margin:
    """Loss of an arm minus that of the shipped corpus, nats per token, with its one-sided 95% lower bound."""

    case: str
    arm: str
    margin: float
    lower: float


def sealed(study: TargetStudy) -> Bools:
    """Return (D,) the documents that nothing is picked on."""
    return study.fold < 0


def groups_of(study: TargetStudy, within: Bools) -> list[Bools]:
    """Return one (D,) mask per task of the study's target, within some documents."""
    names = np.unique(study.document_task).tolist()
    return [within & (study.document_task == name) for name in names if study.target in (MEAN, name)]


def target_loss(study: TargetStudy, losses: Floats, within: Bools) -> Floats:
    """Return the loss (...) on the study's target of losses (..., D): tokens alike within a task, tasks alike."""
    weights = study.document_tokens
    return np.mean([losses[..., g] @ weights[g] / weights[g].sum() for g in groups_of(study, within)], axis=0)


def evidence(study: TargetStudy, losses: dict[str, Floats], fold: NDArray[np.int64]) -> Evidence:
    """Return the certificate's evidence on the calibration documents, those of fold 0 or 1."""
    used = fold >= 0
    return Evidence(
        {arm: values[:, used] for arm, values in losses.items()},
        study.document_tokens[used],
        fold[used],
        study.document_task[used],
    )


def shortlisted(study: TargetStudy, size: int, group: str | None = None, score: str = "judge") -> list[int]:
    """Return the indices of the finalists that the protocol retrains: of one group, or of all."""
    mine = study_names(study, group)
    finalists = [Candidate(study.arms[i], "", study.roles[i], study.membership[i], 0, "") for i in mine]
    chosen = shortlist(finalists, study.scores[score][mine], size)
    return [i for i, on in zip(mine, chosen, strict=True) if on]


def shipped(
    study: TargetStudy, size: int, group: str | None = None, runs: int = 1, score: str = "judge"
) -> int:
    """Return the index of the finalist that the protocol publishes, picked on the first run on calibration documents.

    Args:
        study: the study.
        size: of the shortlist.
        group: finalists that enter; all by default.
        runs: runs averaged by the pick: 1 is the protocol, more ask what more seeds would bring.
        score: evidence that shortlists.
    """
    entered = shortlisted(study, size, group, score)
    losses = {study.arms[i]: study.losses[i, :runs].mean(axis=0)[None] for i in entered}
    picks = plan_picks(evidence(study, losses, study.fold), list(losses), study.target, fresh=0)
    return study.arms.index(picks.arm)


def margins(study: TargetStudy, ship: int) -> list[Margin]:
    """Return the margins of the shipped finalist over random and over every other method's arm, repeated or not."""
    return [
        margin_over(study, ship, arm) for arm in (RANDOM, *COMPARED) if arm == RANDOM or arm in study.arms
    ]


def margin_over(study: TargetStudy, ship: int, arm: str) -> Margin:
    """Return the margin of the shipped finalist over an arm, on sealed documents and paired sealed seeds.

    Random is the mean of its draws for each seed.
    """
    losses = study.draws.mean(axis=0)[1:] if arm == RANDOM else study.losses[study.arms.index(arm), 1:]
    return Margin(study.name, arm, *paired_bound(study, losses - study.losses[ship, 1:], sealed(study)))


def paired_bound(
    study: TargetStudy, difference: Floats, within: Bools, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the mean of paired differences (S, D) on the target and its one-sided lower bound.

    bound = mean - t sqrt(V_doc + V_seed): V_doc is the linearised variance of the token-weighted ratio over documents
    (Cochran 1977, 6.5), V_seed the variance over seeds divided by S; df is Satterthwaite's.
    """
    each = target_loss(study, difference, within)
    mean = float(each.mean())
    parts = [(float(each.var(ddof=1)) / len(each), len(each) - 1)]
    groups = groups_of(study, within)
    averaged = difference.mean(axis=0)
    for group in groups:
        weights, values = study.document_tokens[group], averaged[group]
        residual = weights * (values - values @ weights / weights.sum()) / weights.mean()
        count = len(values)
        parts.append((float(residual @ residual) / (count * (count - 1)) / len(groups) ** 2, count - 1))
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return mean, mean
    freedom = total**2 / sum(variance**2 / df for variance, df in parts)
    return mean, mean - float(student.ppf(confidence, freedom)) * total**0.5


@dataclass(frozen=True)
class Multiplier:
    """Tokens that random needs over those of the shipped corpus; beyond: it did not get there within the largest."""

    value: float
    beyond: bool


def token_multiplier(study: TargetStudy, ship: int) -> Multiplier:
    """Return how many times the training tokens random needs for the shipped corpus's sealed loss.

    A token that is trained on twice counts twice, for random as for the shipped corpus; random's text is all distinct
    until the pool is used up.

    Loss is interpolated linearly in log tokens between the measured multiples of random. Outside of them nothing is
    extrapolated: 1 where random is as good at equal tokens, the largest multiple where it does not get there.
    """
    multiples = sorted(study.multiples)
    within = sealed(study)
    losses = [float(target_loss(study, study.multiples[k], within).mean()) for k in multiples]
    return interpolate(multiples, losses, float(target_loss(study, study.losses[ship, 1:], within).mean()))


def interpolate(multiples: Sequence[int], losses: Sequence[float], goal: float) -> Multiplier:
    """Return the multiple at which a falling curve of losses first reaches the goal."""
    if goal >= losses[0]:
        return Multiplier(float(multiples[0]), False)
    for k in range(1, len(multiples)):
        if losses[k] <= goal:
            share = (losses[k - 1] - goal) / (losses[k - 1] - losses[k])
            step = np.log(multiples[k] / multiples[k - 1])
            return Multiplier(float(multiples[k - 1] * np.exp(share * step)), False)
    return Multiplier(float(multiples[-1]), True)


def without(study: TargetStudy, names: Sequence[str]) -> TargetStudy:
    """Return the study without some finalists, to learn what they bring."""
    kept = [i for i, arm in enumerate(study.arms) if arm not in names]
    return replace(
        study,
        arms=tuple(study.arms[i] for i in kept),
        roles=tuple(study.roles[i] for i in kept),
        groups=tuple(study.groups[i] for i in kept),
        membership=study.membership[kept],
        scores={name: values[kept] for name, values in study.scores.items()},
        losses=study.losses[kept],
    )
