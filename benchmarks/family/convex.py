"""Rescaled influence and Newton step of convex heads on digits, their accuracy's exponents, a poisoning, the advisor.

Digits 3 against 8, 200 rows, 400 random ReLU features, lambda .01, unless a figure says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.published import Figure
from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution.convex.advisor import TOLERANCE, advise, draw_sets, removal_errors
from grasp_pipeline.attribution.convex.head import ConvexHead, fit_head
from grasp_pipeline.attribution.convex.influence import ESTIMATORS, HeadInfluence
from grasp_pipeline.attribution.convex.scaling import Exponent, exponents
from grasp_pipeline.corpus.images import load_digits
from grasp_pipeline.seeds import generator

ROWS, WIDTH, DAMPING = 200, 400, 0.01
SEEDS, TARGETS = 10, 40
FRESH = 100
"""Sets that no advice has seen, for every statement of the advisor."""


def relu_digits(seed: int, rows: int = ROWS, width: int = WIDTH) -> tuple[Floats, Floats, Floats, Floats]:
    """Return features (rows, width) and labels (rows,) of 3 against 8, then of the images that were not drawn."""
    data = load_digits()
    two = np.isin(data.labels, (3, 8))
    pixels = data.images[two].reshape(two.sum(), -1).astype(np.float64)
    pixels /= pixels.max()
    labels = (data.labels[two] == 8).astype(np.float64)
    draw = generator("family digits", seed)
    order = draw.permutation(len(labels))
    weights = draw.normal(size=(pixels.shape[1], width)) * np.sqrt(2 / pixels.shape[1])
    features = np.maximum(pixels @ weights, 0)
    mine, others = order[:rows], order[rows:]
    return features[mine], labels[mine], features[others], labels[others]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of values over seeds and its 95% interval (Student's t)."""
    from scipy.stats import t

    array = np.asarray(values)
    half = t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array))
    return float(array.mean()), float(array.mean() - half), float(array.mean() + half)


def removals() -> list[Figure]:
    """Return slope and relative error of every row's removal, on the margins of unseen images."""
    found: dict[str, list[float]] = {name: [] for name in ("IF slope", "RIF slope", "IF", "RIF", "ratio")}
    for seed in range(SEEDS):
        features, labels, queries, _ = relu_digits(seed)
        head = fit_head(features, labels, DAMPING)
        made = HeadInfluence(head)
        exact = np.stack([queries @ (head.without([row]) - head.theta) for row in range(ROWS)], axis=1)
        for name, predicted in (("IF", made.influence(queries)), ("RIF", made.rescaled(queries))):
            found[f"{name} slope"].append(float((predicted * exact).sum() / (exact**2).sum()))
            found[name].append(float(np.linalg.norm(predicted - exact) / np.linalg.norm(exact)))
        found["ratio"].append(found["RIF"][-1] / found["IF"][-1])
    note = f"every row left out and refitted, margins of unseen images; {SEEDS} draws of rows and features"
    rows = (
        ("rif_slope", "RIF slope", "predicted on actual", "from .8 to 1.1"),
        ("if_slope", "IF slope", "predicted on actual", "about .2"),
        ("rif_error", "RIF", "relative error", ""),
        ("if_error", "IF", "relative error", ""),
        ("rif_error_over_if", "ratio", "ratio", "at most 1/3"),
    )
    return [_figure(name, found[key], unit, goal, note) for name, key, unit, goal in rows]


def _figure(name: str, values: Sequence[float], unit: str, goal: str, note: str) -> Figure:
    value, low, high = spread(values)
    return Figure(f"family.{name}", value, unit, goal, low, high, note)


def scaling() -> list[Figure]:
    """Return the exponents of both errors in n, k and d."""
    found = []
    for variable, newton_goal, influence_goal in (
        ("n", "-2 +- .25", "-2 +- .25"),
        ("k", "from .7 to 1.2", "from .5 to 1.5"),
        ("d", "from .7 to 1.2", "from .5 to 1.5"),
    ):
        newton, influence = exponents(variable)
        found.append(_exponent(f"newton_exponent_{variable}", newton, newton_goal, "||theta_T - NS||"))
        found.append(_exponent(f"influence_exponent_{variable}", influence, influence_goal, "||NS - IF||"))
    return found


def _exponent(name: str, found: Exponent, goal: str, what: str) -> Figure:
    low, high = found.interval
    note = f"{what}, Gaussian features, {len(found.each)} problems"
    return Figure(f"family.{name}", found.value, "exponent", goal, low, high, note)


def poisoning() -> list[Figure]:
    """Return how often a mislabelled twin of a target is found: one row whose removal is predicted to flip it back.

    One training row is replaced by the features of a target image, with the other label. The head then says the wrong
    thing of the target. A method finds the row where its predicted margin of the target without it has the right sign.
    """
    flipped, clean = [], []
    for seed in range(TARGETS):
        features, labels, others, truths = relu_digits(1000 + seed)
        target, truth = others[0], truths[0]
        clean.append(alarms(fit_head(features, labels, DAMPING), target))
        features[0], labels[0] = target, 1 - truth
        flipped.append(_flips(fit_head(features, labels, DAMPING), target, 0))
    wrong = np.array([each["wrong"] for each in flipped])
    hits = {name: np.array([each[name] for each in flipped])[wrong] for name in ("exact", "IF", "RIF")}
    note = (
        f"mislabelled twin of a target, no odd norm; of {TARGETS} targets {int(wrong.sum())} are decided wrongly, "
        "these count"
    )
    return [
        _share("poison_found_rif", hits["RIF"], "at least .9", note),
        _share("poison_found_if", hits["IF"], "at most .1", note),
        _share("poison_removal_flips", hits["exact"], "", f"by refitting; {note}"),
        Figure(
            "family.poison_false_alarms_rif",
            float(np.mean(clean)),
            "share of rows",
            note="rows of the heads without poison whose removal is said to flip the target",
        ),
    ]


def alarms(head: ConvexHead, target: Floats) -> float:
    """Return the share of a head's rows of which rescaled influence says that their removal flips a target."""
    margin = head.theta @ target
    return float(np.mean((margin + HeadInfluence(head).rescaled(target[None])[0] > 0) != (margin > 0)))


def _flips(head: ConvexHead, target: Floats, row: int) -> dict[str, bool]:
    """Return whether the target's decision differs from what the row's removal makes of it, by each method."""
    made = HeadInfluence(head)
    margin = float(head.theta @ target)
    after = {
        "exact": float(head.without([row]) @ target),
        "IF": margin + float(made.influence(target[None])[0, row]),
        "RIF": margin + float(made.rescaled(target[None])[0, row]),
    }
    wrong = (margin > 0) == (head.labels[row] == 1)
    return {name: (value > 0) != (margin > 0) for name, value in after.items()} | {"wrong": wrong}


def _share(name: str, hits: Floats, goal: str, note: str) -> Figure:
    low, high = wilson(int(hits.sum()), len(hits))
    return Figure(f"family.{name}", float(hits.mean()), "share of targets", goal, low, high, note)


def wilson(hits: int, of: int) -> tuple[float, float]:
    """Return the 95% interval of a share (Wilson)."""
    from scipy.stats import binomtest

    found = binomtest(hits, of).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def advice() -> list[Figure]:
    """Return how often what the advisor calls safe holds on sets that it has not seen, and what it says of digits."""
    held, told = [], []
    for seed, (rows, width, damping) in enumerate(
        ((200, 400, 0.01), (200, 60, 1.0), (300, 20, 1.0), (300, 60, 10.0))
    ):
        features, labels, _, _ = relu_digits(2000 + seed, rows, width)
        head = fit_head(features, labels, damping)
        for k in (1, 5, 20):
            rows_of_k = advise(head, (k,))
            fresh = removal_errors(head, draw_sets(rows, k, FRESH, "fresh", seed), features).relative
            within = (fresh <= TOLERANCE).mean(axis=0)
            safe = [each.estimator for each in rows_of_k if each.safe]
            told.append(f"n {rows}, d {width}, lambda {damping:g}, k {k}: {safe[0] if safe else 'refit'}")
            held += [within[ESTIMATORS.index(name)] >= 0.9 for name in safe]
    low, high = wilson(sum(held), len(held))
    said = "; ".join(told)
    note = f"statements that at least nine in ten of {FRESH} fresh sets bear out; cheapest safe: {said}"
    value = sum(held) / len(held)
    return [
        Figure("family.advisor_safe_holds", value, "share of statements", "at least .95", low, high, note)
    ]


def figures() -> list[Figure]:
    """Return all figures of convex heads."""
    return [*removals(), *scaling(), *poisoning(), *advice()]
