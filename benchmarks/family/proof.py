"""Verifiable attribution: which claims are accepted, what a verifier pays, how tampering is found.

Digits 3 against 8 on 12 principal components, 150 rows, lambda 1; f is the margin of an unseen image. Every trial
has its own rows, image, claim and pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.family.convex import spread, wilson
from benchmarks.published import Figure
from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.convex.head import fit_head
from grasp_pipeline.attribution.convex.influence import HeadInfluence
from grasp_pipeline.corpus.images import load_digits
from grasp_pipeline.proof.claim import Claim, make_claim
from grasp_pipeline.proof.exchange import CHECKS, EPSILON, PAIRS, Plan, judge, measured
from grasp_pipeline.proof.residual import residual_of
from grasp_pipeline.seeds import generator

ROWS, COMPONENTS, DAMPING = 150, 12, 1.0
TRIALS = 50
SOURCES = 6
"""Sources that the rows are said to come from; the one with the most weight is boosted."""

GROWN = (1, 2, 4, 8)
GROWN_ROWS, GROWN_TRIALS, GROWN_PAIRS, GROWN_PER_ROW = 75, 6, 2000, 8
SHARES = (0.01, 0.02, 0.05, 0.1)
TAMPERED_TRIALS = 200


def digits_claim(trial: int, rows: int = ROWS, per_row: int = 0) -> Claim:
    """Return an honest claim; more rows than there are images are drawn with repeats, each with a little noise.

    per_row: heads retrained per row for it, 0 for the prover's default.
    """
    data = load_digits()
    two = np.isin(data.labels, (3, 8))
    pixels = data.images[two].reshape(int(two.sum()), -1).astype(np.float64)
    labels = (data.labels[two] == 8).astype(np.float64)
    pixels -= pixels.mean(axis=0)
    axes = np.linalg.svd(pixels, full_matrices=False)[2][:COMPONENTS]
    features = pixels @ axes.T
    features = np.concatenate([features / features.std(axis=0).mean(), np.ones((len(labels), 1))], axis=1)
    draw = generator("family proof", trial, rows)
    order = draw.permutation(len(labels))
    query, pool = features[order[0]], order[1:]
    which = pool[:rows] if rows <= len(pool) else draw.choice(pool, rows)
    mine = features[which].copy()
    if rows > len(pool):
        mine[:, :-1] += 0.2 * draw.normal(size=(rows, COMPONENTS))
    return make_claim(mine, labels[which], DAMPING, query, per_row * rows)


def manipulations(claim: Claim, draw: np.random.Generator) -> dict[str, Floats]:
    """Return the attributions (N,) that a dishonest prover would publish, and those of other methods."""
    scores, source = claim.attributions, np.arange(claim.n) % SOURCES
    weight = np.bincount(source, np.abs(scores))
    made = HeadInfluence(fit_head(claim.features, claim.labels, claim.damping))
    return {
        "honest": scores,
        "halved": scores / 2,
        "inflated": 1.5 * scores,
        "shuffled": draw.permutation(scores),
        "boosted": np.where(source == weight.argmax(), 3 * scores, scores),
        "influence": -made.influence(claim.query[None])[0],
        "rescaled influence": -made.rescaled(claim.query[None])[0],
    }


def verdicts() -> list[Figure]:
    """Return how often each claim is accepted, with the residual estimated of errors and, plainly, of outputs."""
    found: dict[str, list[bool]] = {}
    plain: dict[str, list[bool]] = {}
    excess: dict[str, list[float]] = {}
    left: list[float] = []
    for trial in range(TRIALS):
        claim = digits_claim(trial)
        plan = Plan.drawn(claim, PAIRS, seed=trial)
        outputs = claim.train(plan.subsets.both) @ claim.query
        variance = outputs.var()
        whole = residual_of(outputs[:PAIRS], outputs[PAIRS:], plan.subsets.correlation)
        for name, scores in manipulations(claim, generator("family proof lies", trial)).items():
            one = Claim(claim.features, claim.labels, claim.damping, claim.query, scores)
            result = measured(one, plan.subsets, outputs)
            excess.setdefault(name, []).append(result.excess / variance)
            found.setdefault(name, []).append(result.excess <= EPSILON * variance)
            plain.setdefault(name, []).append(result.error - whole.unavoidable <= EPSILON * variance)
            if name == "honest":
                left.append(result.unavoidable / variance)
    figures = []
    for name in found:
        honest, other = name == "honest", name in ("influence", "rescaled influence")
        told = found[name] if honest or other else [not each for each in found[name]]
        told_plain = plain[name] if honest or other else [not each for each in plain[name]]
        low, high = wilson(sum(told), len(told))
        note = (
            f"{TRIALS} trials of {PAIRS:,} pairs, epsilon {EPSILON}; excess {np.mean(excess[name]):.3f} +- "
            f"{np.std(excess[name]):.3f} of the variance; by the residual of outputs {np.mean(told_plain):.2f}"
        )
        if honest:
            note += f"; unavoidable {np.mean(left):.3f}"
        key = f"family.proof_{name.replace(' ', '_')}_{'accepted' if honest or other else 'rejected'}"
        goal = "" if other else "at least .9"
        figures.append(Figure(key, float(np.mean(told)), "share of trials", goal, low, high, note))
    return figures


def growth() -> list[Figure]:
    """Return how the pairs that a verifier needs grow with the rows, and its errors at a fixed budget."""
    needed: dict[int, list[float]] = {}
    right: list[bool] = []
    for times in GROWN:
        for trial in range(GROWN_TRIALS):
            claim = digits_claim(100 + trial, times * GROWN_ROWS, GROWN_PER_ROW)
            halved = Claim(claim.features, claim.labels, claim.damping, claim.query, claim.attributions / 2)
            plan = Plan.drawn(claim, GROWN_PAIRS, seed=trial)
            outputs = claim.train(plan.subsets.both) @ claim.query
            wrong = outputs - halved.linear(plan.subsets.both)
            needed.setdefault(times, []).append(relative_variance(wrong, plan, float(outputs.var())))
            right.append(measured(claim, plan.subsets, outputs).excess <= EPSILON * outputs.var())
            right.append(measured(halved, plan.subsets, outputs).excess > EPSILON * outputs.var())
    base = np.mean(needed[GROWN[0]])
    value, low, high = spread([float(each / base) for each in needed[GROWN[-1]]])
    told = ", ".join(f"{times} N {np.mean(each) / base:.2f}" for times, each in needed.items())
    share_low, share_high = wilson(sum(right), len(right))
    return [
        Figure(
            "family.proof_pairs_8n_over_n",
            value,
            "ratio",
            "at most 1.5",
            low,
            high,
            f"pairs for the same standard error of a halved claim's excess, N = {GROWN_ROWS}: {told}; {GROWN_TRIALS} "
            f"trials each. Heads that a verifier of an answer trains: {CHECKS} at any N",
        ),
        Figure(
            "family.proof_right_at_any_n",
            float(np.mean(right)),
            "share of verdicts",
            "",
            share_low,
            share_high,
            f"honest and halved claims of N to {GROWN[-1]} N rows, {GROWN_PAIRS} pairs whatever N",
        ),
    ]


def relative_variance(wrong: Floats, plan: Plan, variance: float) -> float:
    """Return the squared standard error of the excess over the squared variance of f, from 20 parts of the pairs."""
    m = plan.pairs
    parts = np.arange(m) // 3 % 20
    estimates = [
        residual_of(wrong[:m][parts == p], wrong[m:][parts == p], plan.subsets.correlation[parts == p]).excess
        for p in range(20)
    ]
    return float(np.var(estimates, ddof=1) / 20 / variance**2)


def tampering() -> list[Figure]:
    """Return how often spot checks find a share of tampered heads, against 1 - (1 - q)^k."""
    claim = digits_claim(0)
    plan = Plan.drawn(claim, 500, seed=0)
    honest = claim.train(plan.questions())
    figures = []
    for share in SHARES:
        found = _rate(lambda draw, share=share: _found(claim, plan, honest, share, draw), share)
        low, high = wilson(int(sum(found)), len(found))
        note = f"{TAMPERED_TRIALS} answers, {CHECKS} heads of {len(honest):,} trained again"
        goal = f"{1 - (1 - share) ** CHECKS:.3f}"
        name = f"family.proof_tampering_found[{share:g}]"
        figures.append(Figure(name, float(np.mean(found)), "share of answers", goal, low, high, note))
    return figures


def _rate(trial: Callable[[np.random.Generator], bool], share: float) -> Sequence[bool]:
    return [trial(generator("family tampering", str(share), number)) for number in range(TAMPERED_TRIALS)]


def _found(claim: Claim, plan: Plan, honest: Floats, share: float, draw: np.random.Generator) -> bool:
    tampered = honest.copy()
    which = draw.choice(len(honest), round(share * len(honest)), replace=False)
    tampered[which] *= 1 + 1e-3
    return judge(claim, plan, tampered, checks=CHECKS, draw=draw).failed > 0


def figures() -> list[Figure]:
    """Return all figures of attribution proofs."""
    return [*verdicts(), *growth(), *tampering()]
