"""Figures of the downstream benchmark from its finished cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import binomtest

from benchmarks.downstream.coverage import Repeat, load_repeats
from benchmarks.downstream.files import case_files, contest_files, ground_names
from benchmarks.downstream.ranks import (
    MEASURED,
    cross_fitted_regret,
    finalist_spearman,
    mean_interval,
    shortlist_regret,
)
from benchmarks.downstream.settings import DownstreamSettings
from benchmarks.downstream.shipping import (
    margin_over,
    margins,
    sealed,
    shipped,
    target_loss,
    token_multiplier,
)
from benchmarks.downstream.target_study import PRODUCT, WITH_CONDITIONAL, TargetStudy
from benchmarks.published import Figure, save, update
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import RANDOM
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.families import COMPARED
from grasp_pipeline.selection.candidates.family import TWICE
from grasp_pipeline.selection.candidates.refit import REFIT

NATS = "nats per token"
RANKS = "rank correlation"
REGRET_SHORTLIST = 8

REPEATED = f"dsir{TWICE}"
"""A simple arm whose chunks count twice too: what is left over it is not owed to repeats."""


def publish(settings: DownstreamSettings, command: str, only: str | None = None) -> Path:
    """Write results/downstream.json and its table; returns the file.

    only: a kind of grounds, whose figures alone are written; the others keep their values and commits.
    """
    figures: list[Figure] = []
    full = load_studies(settings) if only != "coverage" else []
    if full:
        figures += [*shipping_figures(full, settings.shortlist, PRODUCT, ""), *rank_figures(full)]
    if only != "main":
        figures += coverage_figures(repeats_of(settings))
        small = load_studies(settings, "coverage")
        figures += shipping_figures(small, settings.shortlist, PRODUCT, "", head="downstream_small")
    if full and settings.main.extended:
        figures += shipping_figures(full, settings.shortlist, None, "further candidates")
    if full:
        figures += arm_figures(full)
    return save("downstream", command, figures) if only is None else update("downstream", command, figures)


def load_studies(settings: DownstreamSettings, kind: str = "main") -> list[TargetStudy]:
    """Return the finished cases of one kind of ground.

    Raises:
        InputError: some are missing.
    """
    names = [name for name in ground_names(settings) if name.startswith(f"{kind}/")]
    return [
        TargetStudy.load(path)
        for path in _finished([path for name in names for path in case_files(settings, name).values()])
    ]


def _finished(files: list[Path]) -> list[Path]:
    missing = [path for path in files if not path.exists()]
    if missing:
        raise InputError(f"{missing[0]} and {len(missing) - 1} others are missing; run the benchmark again")
    return files


def short(study: str) -> str:
    """Return CORPUS/TARGET of a case's name."""
    _, corpus, _, target = study.split("/")
    return f"{corpus}/{target}"


def shipping_figures(
    studies: Sequence[TargetStudy],
    size: int,
    group: str | None,
    suffix: str,
    score: str = "judge",
    head: str = "downstream",
) -> list[Figure]:
    """Return the margins of what ships over every comparison arm.

    group and suffix: which finalists entered, None: all; score: what shortlists them;
    head: what the figures are named after.
    """
    ships = [shipped(study, size, group, score=score) for study in studies]
    found = [margins(study, ship) for study, ship in zip(studies, ships, strict=True)]
    flat = [margin for each in found for margin in each]
    worst = min(flat, key=lambda margin: margin.margin)
    best = [min(each, key=lambda margin: margin.margin) for each in found]
    versus_random = [next(m for m in each if m.arm == RANDOM) for each in found]
    weakest = min(versus_random, key=lambda margin: margin.lower)
    above = [margin.lower > 0 for margin in best]
    theirs = sum(study.arms[ship] in COMPARED for study, ship in zip(studies, ships, strict=True))
    once = [
        min((m for m in each if not m.arm.endswith(TWICE)), key=lambda margin: margin.margin).lower > 0
        for each in found
    ]
    seeds = studies[0].losses.shape[1] - 1
    end = f"[{suffix}]" if suffix else ""

    def named(figure: str, detail: str) -> str:
        return f"{figure}[{', '.join(filter(None, (suffix, detail)))}]"

    rows = [
        Figure(
            f"{head}.worst_margin{end}", worst.margin, NATS, "at least 0",
            note=f"{short(worst.case)} against {worst.arm}; {len(studies)} cases, {seeds} seeds",
        ),
        Figure(
            f"{head}.share_above_best{end}", float(np.mean(above)), "share of cases", "at least 0.5",
            note="cases with a paired one-sided 95% bound above 0 against the best arm of any other method at equal "
            f"rules, each with its text once and half of it twice; {theirs} of {len(studies)} cases ship such an arm "
            "and count as not above",
        ),
        Figure(
            f"{head}.share_above_best[{', '.join(filter(None, (suffix, 'repeats for ours alone')))}]",
            float(np.mean(once)), "share of cases", "",
            note="the same against other methods' arms without repeats: what is gained by repeats counts too",
        ),
        Figure(
            f"{head}.min_low_vs_random{end}", weakest.lower, NATS, "above 0", note=short(weakest.case)
        ),
    ]  # fmt: skip
    if studies[0].multiples:
        multipliers = [token_multiplier(study, ship) for study, ship in zip(studies, ships, strict=True)]
        values = np.array([multiplier.value for multiplier in multipliers])
        beyond = sum(multiplier.beyond for multiplier in multipliers)
        rows.append(
            Figure(
                f"{head}.token_multiplier{end}", float(np.exp(np.log(values).mean())), "times", "reported",
                low=float(values.min()), high=float(values.max()),
                note="training tokens, a repeated one counted every time, over those that random, all of it distinct "
                f"text, needs for the same loss; geometric mean and range over cases; {beyond} of {len(studies)} not "
                f"reached by random within {max(studies[0].multiples)} times, counted as that; loss linear in log "
                "tokens between measured multiples",
            )
        )  # fmt: skip
    if all(REPEATED in study.arms for study in studies):
        repeated = [margin_over(study, ship, REPEATED) for study, ship in zip(studies, ships, strict=True)]
        value, low, high = mean_interval([margin.margin for margin in repeated], generator("repeated arm"))
        rows.append(
            Figure(
                f"{head}.margin_over_repeated{end}", value, NATS, "", low, high,
                f"mean over cases, over {REPEATED}; bound above 0 in "
                f"{sum(margin.lower > 0 for margin in repeated)} of {len(studies)} cases",
            )
        )  # fmt: skip
    for study, ship, lowest, random in zip(studies, ships, best, versus_random, strict=True):
        rows.append(
            Figure(
                named(f"{head}.margin", short(study.name)), lowest.margin, NATS, low=lowest.lower,
                note=f"{study.arms[ship]} over {lowest.arm}, the best arm; over random {random.margin:.3f}, "
                f"bound {random.lower:.3f}",
            )
        )  # fmt: skip
    return rows


def arm_figures(studies: Sequence[TargetStudy]) -> list[Figure]:
    """Return what every finalist gains over random on sealed documents, the mean over the cases that have it."""
    rng = generator("downstream arm figures")
    gains: dict[str, list[float]] = {}
    for study in studies:
        random = target_loss(study, study.draws.mean(axis=0)[1:], sealed(study)).mean()
        each = random - target_loss(study, study.losses[:, 1:], sealed(study)).mean(axis=1)
        for arm, gain in zip(study.arms, each, strict=True):
            gains.setdefault(arm, []).append(float(gain))
    rows = []
    for arm in sorted(gains, key=lambda arm: -np.mean(gains[arm])):
        value, low, high = mean_interval(gains[arm], rng)
        among = "" if len(gains[arm]) == len(studies) else f"{len(gains[arm])} of {len(studies)} cases"
        rows.append(Figure(f"downstream.gain_over_random[{arm}]", value, NATS, "", low, high, among))
    return rows


def rank_figures(studies: Sequence[TargetStudy]) -> list[Figure]:
    """Return the rank correlations of every kind of evidence, and the regret of a shortlist."""
    rng = generator("downstream figures")
    goals = {"judge": ("", "at least 0.8")}
    rows = []
    for score in (
        "judge",
        "own",
        MEASURED,
        *(name for name in studies[0].scores if name not in ("judge", "own")),
    ):
        end, goal = goals.get(score, (f"[{score}]", ""))
        value, low, high = mean_interval([finalist_spearman(study, score) for study in studies], rng)
        count = int(np.mean([study.optimised.sum() for study in studies]))
        rows.append(
            Figure(
                f"selection.spearman_finalists{end}", value, RANKS, goal, low, high,
                f"{score}; {len(studies)} cases of about {count} optimised finalists",
            )
        )  # fmt: skip
    everything = np.mean([shortlist_regret(study, len(study.arms)) for study in studies])
    for score, end, goal in (
        ("judge", "", "at most 0.01"),
        (WITH_CONDITIONAL, f"[{WITH_CONDITIONAL}]", ""),
    ):
        value, low, high = mean_interval(
            [shortlist_regret(study, REGRET_SHORTLIST, score) for study in studies], rng
        )
        rows.append(
            Figure(
                f"selection.shortlist_regret{end}", value, NATS, goal, low, high,
                f"{REGRET_SHORTLIST} measured by one run; {everything:.4f} where all are measured",
            )
        )  # fmt: skip
    value, low, high = mean_interval([cross_fitted_regret(study, REGRET_SHORTLIST) for study in studies], rng)
    rows.append(
        Figure(
            "selection.shortlist_regret[cross-fitted]", value, NATS, "", low, high,
            "the best in hindsight found by some sealed seeds and valued by the others: without their luck",
        )
    )  # fmt: skip
    return rows


def repeats_of(settings: DownstreamSettings) -> list[Repeat]:
    """Return the repeated contests of all small cases.

    Raises:
        InputError: some are missing.
    """
    files = [path for name in ground_names(settings) for path in contest_files(settings, name).values()]
    return [repeat for path in _finished(files) for repeat in load_repeats(path)]


def coverage_figures(repeats: Sequence[Repeat]) -> list[Figure]:
    """Return the coverage of the bounds and their shortfall; intervals over cases, which share their runs."""
    rng = generator("downstream coverage figures")
    studies = sorted({repeat.case for repeat in repeats})

    def by_case(values: dict[str, list[float]]) -> tuple[float, float, float]:
        return mean_interval([float(np.mean(values[study])) for study in studies], rng)

    covered = {study: [float(r.covered) for r in repeats if r.case == study] for study in studies}
    short_of = {study: [r.truth - r.lower for r in repeats if r.case == study] for study in studies}
    value, low, high = by_case(covered)
    worst = min(studies, key=lambda study: np.mean(covered[study]))
    retrains = np.mean([repeat.retrains for repeat in repeats])
    refits = np.mean([repeat.arm.startswith(REFIT) for repeat in repeats])
    lowest = binomtest(int(np.sum(covered[worst])), len(covered[worst])).proportion_ci(method="wilson")
    rows = [
        Figure(
            "certificate.coverage", value, "share of contests", "at least 0.9", low, high,
            f"{len(repeats)} contests as the product holds them on {len(studies)} cases, {retrains:.1f} retrainings "
            f"each; {refits:.0%} ship a refitted corpus",
        ),
        Figure(
            "certificate.coverage[worst case]", float(np.mean(covered[worst])), "share of contests", "",
            float(lowest.low), float(lowest.high),
            f"{short(worst)}, {len(covered[worst])} contests that share documents, seeds and draws; Wilson interval as "
            f"if they did not; the lowest of {len(studies)} cases, so low by chance in part",
        ),
    ]  # fmt: skip
    value, low, high = by_case(short_of)
    rows.append(
        Figure(
            "certificate.shortfall", value, NATS, "at most 0.09", low, high,
            f"sealed improvement {np.mean([r.truth for r in repeats]):.3f}, certified "
            f"{np.mean([r.improvement for r in repeats]):.3f} on average",
        )
    )  # fmt: skip
    return rows
