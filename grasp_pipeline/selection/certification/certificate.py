"""The certificate: how much better the picked corpus is than a baseline, with a lower bound that holds.

What picked an arm cannot judge it: the lowest of ten measured losses is low partly by luck, of the documents
it was measured on and of its training seed. So the calibration documents are split into two folds. An arm is
picked on one fold and certified on the other, with freshly seeded retrainings; the folds are swapped and the
two improvements averaged (cross-fitting). The bound counts three sources of error: the documents, the
training seeds and the draws of the random arm. Both ideas are standard (sample splitting: Cox 1975;
cross-fitting: Chernozhukov et al. 2018). How much runs vary is estimated from every arm that was run more than
once, and differs between arms. The coverage of this form was measured by simulation, of whole contests too;
tests/selection/test_certificate.py and test_contest.py measure it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import MEAN, RANDOM, WORST
from grasp_pipeline.selection.certification.evidence import Evidence, target_loss

Run = tuple[str, int]
"""(arm, number of its run)."""

FRESH = 2
"""Freshly seeded runs of a pick, by default and at least: one run tells nothing of how much runs vary."""


@dataclass(frozen=True)
class Picks:
    """The arm with the lowest loss on each fold.

    Attributes:
        target: task it was picked for, or `MEAN`.
        by_fold: the arm picked on fold 0 and the one picked on fold 1.
        arm: the arm to publish: of the two picks the one with the lower loss on both folds together.
        missing: (arm, run number) of the freshly seeded runs still to be made before `certify`.
    """

    target: str
    by_fold: tuple[str, str]
    arm: str
    missing: tuple[Run, ...]


@dataclass(frozen=True)
class Certificate:
    """What can be said of the picked arm against a baseline.

    Attributes:
        arm: the arm to publish.
        baseline: name of the baseline.
        task: the task, or `MEAN`.
        tokens: training tokens of every arm.
        improvement: baseline loss minus the picks' loss, nats per token, averaged over the two folds.
        lower_bound: one-sided lower bound of the improvement at `confidence`.
        confidence: of the bound.
        degrees_of_freedom: Satterthwaite's, for Student's quantile.
        document_variance: variance of the improvement from the sample of documents.
        run_variance: variance of the improvement from training seeds and random draws.
        fold_picks: the arm picked on fold 0 and the one picked on fold 1.
        seeds: fresh runs per pick.
        documents: calibration documents of the task.
        certified: whether the lower bound is above 0.
        statement: the certificate in plain words.
    """

    arm: str
    baseline: str
    task: str
    tokens: int
    improvement: float
    lower_bound: float
    confidence: float
    degrees_of_freedom: float
    document_variance: float
    run_variance: float
    fold_picks: tuple[str, str]
    seeds: int
    documents: int
    certified: bool
    statement: str


def plan_picks(
    evidence: Evidence,
    arms: Sequence[str],
    target: str = MEAN,
    fresh: int = FRESH,
    fitted_on: Mapping[str, int] | None = None,
    reference: str = RANDOM,
) -> Picks:
    """Pick the arm with the lowest loss of run 0 on each fold, and say which fresh runs are still needed.

    For `WORST` an arm's loss is that of its worst task: the largest, over tasks, of its loss above the mean of the
    reference's runs, divided by the task's weight over the mean weight.

    Args:
        evidence: losses with at least run 0 of every arm.
        arms: the finalists to pick from; of equal ones the first named wins.
        target: task to pick for, or `MEAN`.
        fresh: freshly seeded runs wanted per pick; 0 for a baseline that is measured once.
        fitted_on: arm -> the one fold whose losses it was built with, where it may be picked: it must be certified on
            the other.
        reference: the arm that gains count from.

    Raises:
        ConfigError: no arms, an arm that was not measured, or an unknown task.
    """
    if not arms:
        raise ConfigError("There is no finalist to pick from; name at least one arm.")
    known = fitted_on or {}

    def lowest(names: Sequence[str], within: NDArray[np.bool_]) -> str:
        rows = np.stack([evidence.runs(name)[0] for name in names])
        return names[int(np.argmin(target_loss(evidence, rows, target, within, reference)))]

    by_fold = (
        lowest([arm for arm in arms if known.get(arm, 0) == 0], evidence.fold == 0),
        lowest([arm for arm in arms if known.get(arm, 1) == 1], evidence.fold == 1),
    )
    both = [arm for arm in arms if arm in by_fold]
    arm = lowest(both, np.ones_like(evidence.fold, dtype=bool))
    missing = [(name, run) for name in both for run in range(len(evidence.runs(name)), 1 + fresh)]
    return Picks(target, by_fold, arm, tuple(missing))


def certify(
    evidence: Evidence,
    picks: Picks,
    baseline: str | Picks,
    tokens: int,
    task: str | None = None,
    random_arm: str = RANDOM,
    confidence: float = 0.95,
    baseline_name: str | None = None,
) -> Certificate:
    """Return the cross-fitted improvement of the picks over a baseline, with its lower bound.

    On fold f the arm picked on the other fold is compared, by its fresh runs, with the baseline; the
    improvement is the mean over the two folds. A random baseline enters with all R draws; any other arm with
    its fresh runs, or with run 0 where it has none. A baseline given as `Picks` is itself picked on the other
    fold; judged by the run that picked it, it looks better than it is, which makes the bound conservative.

    bound = improvement - t_{confidence, df} sqrt(V_doc + sum_a c_a^2 s_a^2)

    V_doc = (V_0 + V_1) / 4, V_f the variance of fold f's mean paired difference over documents: per task the
    linearised variance of the token-weighted ratio (Cochran 1977, 6.5), tasks combined as averages. c_run is the
    weight of a run in the improvement, so that c_a^2, the sum of c_run^2 over an arm's runs, is 1/R for R random draws
    and 1/S for S fresh runs of an arm that both folds picked, .25/S where they picked different ones. s_a^2 is the
    variance over runs of the loss on all documents of the task: the arm's own over its replicates, or the one pooled
    over all arms that have any, whichever is larger. Replicates are the random draws and the fresh runs. Arms differ in
    how much their runs vary and a pick has few of them: its own variance alone would often be far too small, the pooled
    one wrong where the pick varies more than random does; the larger costs little where they are alike (measured, see
    docs/selection.md). df is Satterthwaite's over the pooled degrees of freedom and, per fold and task, documents - 1.

    Where the folds picked different arms, the improvement is the mean of the two; the published arm is the
    better of them by run 0. Each certificate holds on its own: several of them do not hold simultaneously at
    `confidence`.

    Args:
        evidence: losses, with fresh runs of both picks and at least two draws of the random arm.
        picks: from `plan_picks`.
        baseline: an arm, or picks among several (the best simple arm).
        tokens: training tokens that every arm had.
        task: task to certify on; the picks' target by default.
        random_arm: the arm whose runs are independent draws.
        confidence: one-sided.
        baseline_name: name in the statement; by default the baseline's arm or arms.

    Raises:
        ConfigError: a pick has fewer than `FRESH` fresh runs, the random arm has fewer than two draws, the task is
            unknown, or the confidence is outside (.5, 1).
    """
    task = picks.target if task is None else task
    if task == WORST:
        return _worst(
            certify(evidence, picks, baseline, tokens, name, random_arm, confidence, baseline_name)
            for name in evidence.counted()
        )
    parts = evidence.parts(task)
    weights = _run_weights(evidence, picks, baseline, random_arm)
    draws = evidence.runs(random_arm)
    if len(draws) < 2:
        raise ConfigError(
            f"Arm {random_arm!r} was drawn once; its variance needs 2 draws at least, better 4."
        )
    if not 0.5 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; give a value between 0.5 and 1, such as 0.95.")

    improvement, components = 0.0, []
    for f in (0, 1):
        difference = _combine(evidence, weights[f])
        for group, share in parts:
            chosen = group & (evidence.fold == f)
            mean, variance = _ratio_mean(difference[chosen], evidence.n_tokens[chosen])
            improvement += mean * share / 2
            components.append((variance * (share / 2) ** 2, int(chosen.sum()) - 1))
    document_variance = sum(variance for variance, _ in components)

    weight = {
        run: (weights[0].get(run, 0.0) + weights[1].get(run, 0.0)) / 2 for run in weights[0] | weights[1]
    }
    run_variance, run_freedom = _run_variance(evidence, weight, task, random_arm)
    components.append((run_variance, run_freedom))

    freedom = _satterthwaite(components)
    error = float(np.sqrt(document_variance + run_variance))
    bound = improvement - float(student.ppf(confidence, freedom)) * error
    arms = (baseline,) if isinstance(baseline, str) else tuple(dict.fromkeys(baseline.by_fold))
    certificate = Certificate(
        arm=picks.arm,
        baseline=baseline_name or " or ".join(arms),
        task=task,
        tokens=tokens,
        improvement=improvement,
        lower_bound=bound,
        confidence=confidence,
        degrees_of_freedom=freedom,
        document_variance=document_variance,
        run_variance=run_variance,
        fold_picks=picks.by_fold,
        seeds=min(len(evidence.runs(arm)) - 1 for arm in picks.by_fold),
        documents=int(np.any([group for group, _ in parts], axis=0).sum()),
        certified=bound > 0,
        statement="",
    )
    return replace(certificate, statement=_statement(certificate, bool(evidence.weights)))


def _run_weights(
    evidence: Evidence, picks: Picks, baseline: str | Picks, random_arm: str
) -> tuple[dict[Run, float], dict[Run, float]]:
    """Return per fold the weight of every run in (baseline loss - pick's loss)."""
    folds: list[dict[Run, float]] = []
    for f in (0, 1):
        weights: dict[Run, float] = {}
        other = 1 - f
        pick = picks.by_fold[other]
        opponent = baseline if isinstance(baseline, str) else baseline.by_fold[other]
        fresh = range(1, len(evidence.runs(pick)))
        if len(fresh) < FRESH:
            raise ConfigError(
                f"Arm {pick!r} has {len(fresh)} freshly seeded runs and needs {FRESH}; make the runs that plan_picks "
                "calls missing."
            )
        runs = len(evidence.runs(opponent))
        against = range(runs) if opponent == random_arm or runs == 1 else range(1, runs)
        for arm, numbers, sign in ((opponent, against, 1.0), (pick, fresh, -1.0)):
            for run in numbers:
                weights[arm, run] = weights.get((arm, run), 0.0) + sign / len(numbers)
        folds.append(weights)
    return folds[0], folds[1]


def _run_variance(
    evidence: Evidence, weight: Mapping[Run, float], task: str, random_arm: str
) -> tuple[float, int]:
    """Return sum_a c_a^2 s_a^2 over the arms that runs with weights belong to (see `certify`), and its df."""
    everywhere = np.ones_like(evidence.fold, dtype=bool)
    own: dict[str, float] = {}
    squares, freedom = 0.0, 0
    for arm, losses in evidence.losses.items():
        replicates = losses if arm == random_arm else losses[1:]
        if len(replicates) > 1:
            own[arm] = float(target_loss(evidence, replicates, task, everywhere, random_arm).var(ddof=1))
            squares += own[arm] * (len(replicates) - 1)
            freedom += len(replicates) - 1
    pooled = squares / freedom
    return sum(w**2 * max(pooled, own.get(arm, 0.0)) for (arm, _), w in weight.items()), freedom


def _combine(evidence: Evidence, weights: dict[Run, float]) -> Floats:
    """Return (documents,) weighted sum of the runs' losses."""
    total = np.zeros(len(evidence.n_tokens))
    for (arm, run), weight in weights.items():
        total += weight * evidence.losses[arm][run]
    return total


def _worst(certificates: Iterable[Certificate]) -> Certificate:
    """Return what holds of every task: the least improvement, and the least bound.

    The task of least improvement has a bound of its own, which holds with the confidence; the least of all bounds is no
    higher. So it bounds the least improvement without any correction for their number (intersection-union).
    """
    every = list(certificates)
    least = min(every, key=lambda found: found.lower_bound)
    told = f"The worst task by its bound is {least.task}. {least.statement}"
    return replace(least, task=WORST, improvement=min(found.improvement for found in every), statement=told)


def _ratio_mean(values: Floats, tokens: Floats) -> tuple[float, float]:
    """Return the token-weighted mean over documents and its linearised variance.

    mean = sum w x / sum w; residuals e = w (x - mean) / mean(w); variance = sum e^2 / (n (n - 1)).
    """
    n = len(values)
    mean = float(values @ tokens / tokens.sum())
    residual = tokens * (values - mean) / tokens.mean()
    return mean, float(residual @ residual) / (n * (n - 1))


def _satterthwaite(components: list[tuple[float, int]]) -> float:
    """Return (sum v)^2 / sum(v^2 / df) of independent variance estimates v with df degrees of freedom."""
    spread = sum(variance**2 / freedom for variance, freedom in components)
    if spread == 0:
        return float(sum(freedom for _, freedom in components))
    return sum(variance for variance, _ in components) ** 2 / spread


def _statement(c: Certificate, weighted: bool) -> str:
    where = f"the {'weighted ' if weighted else ''}mean over tasks" if c.task == MEAN else c.task
    first, second = c.fold_picks
    both = f"{c.arm}; the folds picked {first} and {second}, judged by their mean"
    arms = c.arm if first == second else both
    level = f"{c.confidence * 100:g}%"
    if c.certified:
        return (
            f"At {c.tokens:,} tokens the pruned corpus ({arms}) beats {c.baseline} by {c.improvement:.3f} "
            f"nats per token on {where}; {level} lower bound {c.lower_bound:.3f}."
        )
    total = c.document_variance + c.run_variance
    if total == 0:
        return f"The pruned corpus ({arms}) is {c.baseline} itself: there is nothing to compare on {where}."
    share = c.run_variance / total
    remedy = (
        f"{share:.0%} of its variance is of training seeds and random draws: more of those narrow it"
        if share > 0.5
        else f"{1 - share:.0%} of its variance is of the documents: more calibration documents narrow it"
    )
    sense = "better" if c.improvement >= 0 else "worse"
    return (
        f"At {c.tokens:,} tokens nothing can be certified: the pruned corpus ({arms}) measured "
        f"{abs(c.improvement):.3f} nats per token {sense} than {c.baseline} on {where}, and the {level} "
        f"lower bound is {c.lower_bound:.3f}, not above 0. {remedy}."
    )
