"""Rank correlation of every method with the utilities of the sealed evaluation subsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.calibration.ceiling import SeedReliability, seed_reliability
from grasp_pipeline.calibration.intervals import bootstrap_interval, strata_groups, widened
from grasp_pipeline.calibration.rank import bootstrap_spearman, finite, spearman
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.seeds import generator

Method = tuple[str, str]
"""(method, form), for example ("influence", "mean")."""

ALL = "all"
"""Stratum of the rows over all subsets."""

MEAN_OVER_TASKS = "mean_over_tasks"
"""Task of the rows that hold the task-level rank correlation: Spearman per task, then the mean."""

TEXT = "text"
"""Corpus of the rows about documents; the strata of any other corpus begin with its name and a slash."""

MIN_SUBSETS = 8
"""Strata with fewer subsets get no row of their own: their intervals would cover everything."""


def fidelity_rows(
    methods: Mapping[Method, ArrayLike],
    utilities: ArrayLike,
    strata: Sequence[str],
    tasks: Sequence[str],
    reference: Method,
    resamples: int,
    confidence: float,
    seed_name: str,
    corpus: str = TEXT,
) -> list[dict[str, Any]]:
    """Return the rows of the table `fidelity`, one per method, form, stratum and task.

    Each stratum with `MIN_SUBSETS` subsets, and all subsets together, has a row per task and one for the mean
    over tasks. The target is the mean utility over seeds. Intervals are those of
    `grasp_pipeline.calibration.intervals`, two-sided, over the subsets, each stratum drawn again by itself. The
    paired gain is the reference's correlation minus the method's, in the same resamples: an interval above 0 says
    that the reference ranks better. The noise ceiling is that of the stratum and task.

    Args:
        methods: (method, form) -> (m, T) predicted utilities.
        utilities: (m, T, S) measured utilities with S training seeds, minus nats per token.
        strata: m stratum names.
        tasks: T task names.
        reference: the (method, form) that the others are compared with.
        resamples: B bootstrap resamples per stratum.
        confidence: of the intervals, such as 0.95.
        seed_name: name of the bootstrap's random stream.
        corpus: what the subsets are of; keys are unique over the rows of several corpora.

    Returns:
        Rows with the columns of `grasp_pipeline.tables.FIDELITY`, in the order of strata, methods and tasks.

    Raises:
        ConfigError: fewer than `MIN_SUBSETS` subsets or two seeds, the reference is missing, a reserved name
            is used, or the confidence is outside (0, 1).
        ValueError: shapes disagree or a value is not finite; the message names the method.
    """
    measured = finite("utilities", utilities)
    if measured.ndim != 3 or measured.shape[:2] != (len(strata), len(tasks)):
        raise ValueError(
            f"utilities have shape {measured.shape}; expected ({len(strata)} subsets, {len(tasks)} tasks, "
            "seeds)."
        )
    _check_names(methods, strata, tasks, reference, confidence)
    names = list(methods)
    predictions = np.stack([_predictions(name, methods[name], measured.shape[:2]) for name in names])
    labels = np.asarray(strata)
    rows: list[dict[str, Any]] = []
    for stratum in [ALL, *dict.fromkeys(strata)]:
        chosen = np.flatnonzero((labels == stratum) | (stratum == ALL))
        if len(chosen) < MIN_SUBSETS:
            continue
        predicted, truth = predictions[:, chosen], measured[chosen]
        groups = strata_groups(labels[chosen].tolist(), len(chosen))
        rng = generator(seed_name, "fidelity", stratum)
        rows += _stratum_rows(
            names,
            stratum_name(stratum, corpus),
            tasks,
            predicted,
            truth,
            names.index(reference),
            resamples,
            confidence,
            rng,
            groups,
            corpus,
        )
    return rows


def stratum_name(stratum: str, corpus: str) -> str:
    """Return a stratum as the table writes it."""
    return stratum if corpus == TEXT else f"{corpus}/{stratum}"


def _stratum_rows(
    names: list[Method],
    stratum: str,
    tasks: Sequence[str],
    predictions: Floats,
    utilities: Floats,
    reference: int,
    resamples: int,
    confidence: float,
    rng: np.random.Generator,
    groups: list[NDArray[np.int64]],
    corpus: str,
) -> list[dict[str, Any]]:
    """Return one stratum's rows from predictions (K, m, T) and utilities (m, T, S)."""
    ceilings = _ceilings(seed_reliability(utilities))
    target = utilities.mean(axis=2)
    observed = _with_mean(spearman(np.swapaxes(predictions, 1, 2), target.T))
    drawn = widened(_with_mean(bootstrap_spearman(predictions, target, resamples, rng, groups)), groups)
    low, high = bootstrap_interval(observed, drawn, confidence, limit=1)
    gain = observed[reference] - observed
    gain_low, gain_high = bootstrap_interval(gain, drawn[:, [reference]] - drawn, confidence, limit=2)
    return [
        {
            "method": method,
            "form": form,
            "stratum": stratum,
            "task": task,
            "corpus": corpus,
            "rank_correlation": float(observed[i, t]),
            "ci_low": float(low[i, t]),
            "ci_high": float(high[i, t]),
            "paired_gain": float(gain[i, t]),
            "paired_ci_low": float(gain_low[i, t]),
            "paired_ci_high": float(gain_high[i, t]),
            "n_subsets": len(utilities),
            "noise_ceiling": float(ceilings[t]),
        }
        for i, (method, form) in enumerate(names)
        for t, task in enumerate([*tasks, MEAN_OVER_TASKS])
    ]


def _with_mean(per_task: Floats) -> Floats:
    """Append the mean over tasks: (..., T) -> (..., T + 1)."""
    return np.concatenate([per_task, per_task.mean(axis=-1, keepdims=True)], axis=-1)


def _ceilings(reliability: SeedReliability) -> Floats:
    return np.append(reliability.ceiling_per_task, reliability.noise_ceiling)


def _predictions(name: Method, values: ArrayLike, shape: tuple[int, ...]) -> Floats:
    array = finite(f"predictions of {name[0]}, {name[1]} form", values)
    if array.shape != shape:
        raise ValueError(f"{name[0]}, {name[1]} form, predicts shape {array.shape}; expected {shape}.")
    return array


def _check_names(
    methods: Mapping[Method, ArrayLike],
    strata: Sequence[str],
    tasks: Sequence[str],
    reference: Method,
    confidence: float,
) -> None:
    if len(strata) < MIN_SUBSETS:
        raise ConfigError(
            f"{len(strata)} evaluation subsets are too few for intervals; retrain at least {MIN_SUBSETS}."
        )
    if reference not in methods:
        raise ConfigError(
            f"The reference method {reference} has no predictions; have {', '.join(map(str, methods))}."
        )
    if ALL in strata or MEAN_OVER_TASKS in tasks or len(set(tasks)) != len(tasks):
        raise ConfigError(
            f"Stratum {ALL!r} and task {MEAN_OVER_TASKS!r} are reserved and task names must differ; have "
            f"strata {sorted(set(strata))} and tasks {list(tasks)}. Rename them."
        )
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; give a value between 0 and 1, such as 0.95.")
