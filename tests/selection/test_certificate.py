"""The certificate: its arithmetic by hand, and its coverage by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student

from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import MEAN, WORST
from grasp_pipeline.selection.certification.certificate import Picks, certify, plan_picks
from grasp_pipeline.selection.certification.evidence import Evidence, fold_loss

ARMS = [f"arm {k}" for k in range(10)]
SIMPLE = ["full", "dsir", "deduplicated"]


def world(
    seed: int,
    documents: int = 96,
    tasks: int = 1,
    draws: int = 4,
    fresh: int = 2,
    arm_sd: float = 0.03,
    seed_sd: float = 0.025,
    ratio: float = 1.0,
) -> tuple[Evidence, dict[str, float]]:
    """Draw losses from a hierarchical model, and the true mean loss of every arm (up to a constant).

    loss = document + arm + seed + (arm x document) + (run x document), in nats per token, with the sizes of
    the prototype; every random draw has an effect of its own besides its seed's. The seeds of the arms to pick from
    have an effect `ratio` times as large.
    """
    rng = np.random.default_rng(seed)
    base = 3 + 0.5 * rng.normal(size=documents)

    def runs(mean: float, number: int, interaction: np.ndarray, scale: float = 1.0) -> np.ndarray:
        effects = scale * seed_sd * rng.normal(size=(number, 1))
        return base + mean + effects + interaction + 0.05 * rng.normal(size=(number, documents))

    truth = {arm: arm_sd * rng.normal() for arm in ARMS} | {
        arm: 0.03 + arm_sd * rng.normal() for arm in SIMPLE
    }
    losses = {
        arm: runs(
            mean,
            1 + fresh if arm in ARMS else 1,
            0.15 * rng.normal(size=documents),
            ratio if arm in ARMS else 1.0,
        )
        for arm, mean in truth.items()
    }
    truth["random"] = 0.1
    shared = 0.15 * rng.normal(size=documents)
    losses["random"] = np.concatenate(
        [runs(0.1 + 0.02 * rng.normal(), 1, shared + 0.05 * rng.normal(size=documents)) for _ in range(draws)]
    )
    task = np.array([f"task {i % tasks}" for i in range(documents)])
    fold = np.arange(documents) // tasks % 2
    return Evidence(losses, rng.integers(20, 129, size=documents).astype(float), fold, task), truth


def naive_bound(evidence: Evidence, draws: int = 2) -> tuple[str, float]:
    """Pick and certify on the same documents and seed, documents the only variance, normal quantile."""
    weight = evidence.n_tokens / evidence.n_tokens.sum()
    pick = min(ARMS, key=lambda arm: evidence.losses[arm][0] @ weight)
    difference = evidence.losses["random"][:draws].mean(axis=0) - evidence.losses[pick][0]
    gain = difference @ weight
    error = np.sqrt(((weight * (difference - gain)) ** 2).sum())
    return pick, float(gain - norm.ppf(0.95) * error)


def coverage(simulations: int, **changes: float) -> tuple[float, float, float, float]:
    """Return how often a bound holds: of the picks, the published arm, over simple arms, the naive one."""
    held = np.zeros((simulations, 4), dtype=bool)
    for i in range(simulations):
        evidence, truth = world(i, **changes)  # type: ignore[arg-type]
        picks, simple = plan_picks(evidence, ARMS), plan_picks(evidence, SIMPLE, fresh=0)
        bound = certify(evidence, picks, "random", 1000).lower_bound
        picked = np.mean([truth[arm] for arm in picks.by_fold])
        against = certify(evidence, picks, simple, 1000).lower_bound
        best_simple = np.mean([truth[arm] for arm in simple.by_fold])
        naive_pick, naive = naive_bound(evidence)
        held[i] = (
            bound <= truth["random"] - picked,
            bound <= truth["random"] - truth[picks.arm],
            against <= best_simple - picked,
            naive <= truth["random"] - truth[naive_pick],
        )
    return tuple(held.mean(axis=0))


def test_coverage_quick() -> None:
    picks, published, simple, naive = coverage(250)
    assert min(picks, published, simple) >= 0.91
    assert naive < min(picks, published) - 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seed_sd": 0.03},
        {"tasks": 3, "seed_sd": 0.02},
        {"arm_sd": 0.0},
        {"arm_sd": 0.1},
        {"draws": 8, "fresh": 3},
        {"ratio": 2.0},
        {"ratio": 3.0, "fresh": 3},
    ],
)
def test_coverage(changes: dict[str, float]) -> None:
    picks, published, simple, naive = coverage(2000, **changes)
    assert min(picks, published, simple) >= 0.92
    assert naive < min(picks, published)


def test_bound_by_hand_when_both_folds_pick_the_same_arm() -> None:
    """One task, one arm: every quantity written out in loops over documents."""
    evidence, _ = world(1, documents=12)
    certificate = certify(evidence, plan_picks(evidence, ["arm 0"]), "random", 1000)
    gains, variances = [], []
    for f in (0, 1):
        documents = [i for i in range(12) if evidence.fold[i] == f]
        tokens = sum(evidence.n_tokens[i] for i in documents)
        paired = {
            i: evidence.losses["random"][:, i].mean() - evidence.losses["arm 0"][1:, i].mean()
            for i in documents
        }
        gain = sum(evidence.n_tokens[i] * paired[i] for i in documents) / tokens
        residuals = [evidence.n_tokens[i] * (paired[i] - gain) / (tokens / 6) for i in documents]
        gains.append(gain)
        variances.append(sum(r**2 for r in residuals) / (6 * 5))

    def over_runs(arm: str, first: int) -> float:
        """The variance over runs of the loss on all documents."""
        each = [
            sum(evidence.n_tokens[i] * run[i] for i in range(12)) / evidence.n_tokens.sum()
            for run in evidence.losses[arm][first:]
        ]
        return float(np.var(each, ddof=1))

    # Every arm to pick from has two fresh runs, random four draws: 10 x 1 + 3 degrees of freedom.
    pooled = (sum(over_runs(arm, 1) for arm in ARMS) + 3 * over_runs("random", 0)) / 13
    documents_part = (variances[0] + variances[1]) / 4
    runs_part = max(pooled, over_runs("random", 0)) / 4 + max(pooled, over_runs("arm 0", 1)) / 2
    spread = (variances[0] / 4) ** 2 / 5 + (variances[1] / 4) ** 2 / 5 + runs_part**2 / 13
    freedom = (documents_part + runs_part) ** 2 / spread
    bound = np.mean(gains) - student.ppf(0.95, freedom) * np.sqrt(documents_part + runs_part)
    assert certificate.improvement == pytest.approx(np.mean(gains))
    assert certificate.document_variance == pytest.approx(documents_part)
    assert certificate.run_variance == pytest.approx(runs_part)
    assert certificate.degrees_of_freedom == pytest.approx(freedom)
    assert certificate.lower_bound == pytest.approx(bound)
    assert (certificate.documents, certificate.seeds, certificate.tokens) == (12, 2, 1000)


def test_runs_count_by_their_weight() -> None:
    evidence, _ = world(2, draws=4, fresh=3)
    share = evidence.n_tokens / evidence.n_tokens.sum()
    own = {
        arm: float((runs[1:] @ share).var(ddof=1)) for arm, runs in evidence.losses.items() if len(runs) > 1
    }
    own["random"] = float((evidence.losses["random"] @ share).var(ddof=1))
    pooled = (3 * own["random"] + 2 * sum(own[arm] for arm in ARMS)) / 23

    def variance(picks: Picks, baseline: str | Picks) -> float:
        return certify(evidence, picks, baseline, 1).run_variance

    def expected(**squares: float) -> float:
        """Of c_a^2 for every arm: the larger of the arm's own variance and the pooled one."""
        named = {arm.replace("_", " "): square for arm, square in squares.items()}
        return sum(square * max(pooled, own.get(arm, 0.0)) for arm, square in named.items())

    same, split = Picks(MEAN, ("arm 0", "arm 0"), "arm 0", ()), Picks(MEAN, ("arm 0", "arm 1"), "arm 0", ())
    crossed = Picks(MEAN, ("arm 1", "arm 0"), "arm 1", ())
    assert variance(same, "random") == pytest.approx(expected(random=1 / 4, arm_0=1 / 3))
    assert variance(split, "random") == pytest.approx(expected(random=1 / 4, arm_0=1 / 12, arm_1=1 / 12))
    assert variance(same, "full") == pytest.approx(expected(full=1, arm_0=1 / 3))
    simple = Picks(MEAN, ("full", "dsir"), "full", ())
    assert variance(same, simple) == pytest.approx(expected(full=0.25, dsir=0.25, arm_0=1 / 3))
    # Each arm is the pick on one fold and the baseline on the other: its seed cancels.
    assert variance(split, crossed) == pytest.approx(0)


def test_a_pick_whose_runs_vary_more_than_random_has_a_wider_bound() -> None:
    """Until runs of the picks counted, only the random draws said how much a run varies."""
    evidence, _ = world(11)
    picks = Picks(MEAN, ("arm 0", "arm 0"), "arm 0", ())
    shaky = evidence.losses["arm 0"] + 0.2 * np.array([[0.0], [1.0], [-1.0]])
    varied = replace(evidence, losses={**evidence.losses, "arm 0": shaky})
    calm, wide = (certify(found, picks, "random", 1000) for found in (evidence, varied))
    assert wide.improvement == pytest.approx(calm.improvement)
    assert wide.lower_bound < calm.lower_bound - 0.1


def test_a_pick_against_itself_gains_nothing() -> None:
    evidence, _ = world(3)
    picks = plan_picks(evidence, ["arm 4"])
    certificate = certify(evidence, picks, "arm 4", 1000)
    assert certificate.improvement == certificate.lower_bound == 0
    assert not certificate.certified
    assert certificate.statement.startswith(
        "The pruned corpus (arm 4) is arm 4 itself: there is nothing to compare"
    )


def test_picks_use_run_zero_of_their_fold_alone() -> None:
    evidence, _ = world(4)
    picks = plan_picks(evidence, ARMS)
    for f in (0, 1):
        documents = evidence.fold == f
        weights = evidence.n_tokens[documents]
        loss = {arm: evidence.losses[arm][0, documents] @ weights / weights.sum() for arm in ARMS}
        assert picks.by_fold[f] == min(ARMS, key=loss.__getitem__)
    assert picks.arm in picks.by_fold
    changed = {arm: losses.copy() for arm, losses in evidence.losses.items()}
    for arm in ARMS:
        changed[arm][1:] -= 5 * ARMS.index(arm)
    assert plan_picks(Evidence(changed, evidence.n_tokens, evidence.fold, evidence.task), ARMS) == picks


def test_missing_runs_are_planned_and_insisted_on() -> None:
    evidence, _ = world(5)
    first = Evidence(
        {arm: runs if arm == "random" else runs[:1] for arm, runs in evidence.losses.items()},
        evidence.n_tokens,
        evidence.fold,
        evidence.task,
    )
    picks = plan_picks(first, ARMS, fresh=2)
    assert set(picks.missing) == {(arm, run) for arm in picks.by_fold for run in (1, 2)}
    assert plan_picks(evidence, ARMS).missing == ()
    assert plan_picks(first, SIMPLE, fresh=0).missing == ()
    for few in (0, 1):
        lacking = replace(
            evidence,
            losses={
                arm: runs if arm == "random" else runs[: 1 + few] for arm, runs in evidence.losses.items()
            },
        )
        with pytest.raises(ConfigError, match=f"has {few} freshly seeded runs and needs 2"):
            certify(lacking, picks, "random", 1000)


def test_the_mean_target_averages_tasks_of_unequal_size() -> None:
    evidence, _ = world(6, documents=60)
    task = np.where(np.arange(60) < 12, "small", "large")
    both = Evidence(evidence.losses, evidence.n_tokens, evidence.fold, task)
    picks = plan_picks(both, ["arm 0"])
    mean, small, large = (certify(both, picks, "random", 1000, task=t) for t in (MEAN, "small", "large"))
    assert mean.improvement == pytest.approx((small.improvement + large.improvement) / 2)
    assert mean.document_variance == pytest.approx((small.document_variance + large.document_variance) / 4)
    assert (small.documents, large.documents, mean.documents) == (12, 48, 60)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-2, 2), st.floats(0.5, 20))
def test_common_shifts_and_token_units_change_nothing(seed: int, shift: float, scale: float) -> None:
    evidence, _ = world(seed, documents=24, tasks=2)
    moved = Evidence(
        {arm: losses + shift for arm, losses in evidence.losses.items()},
        evidence.n_tokens * scale,
        evidence.fold,
        evidence.task,
    )
    picks = plan_picks(evidence, ARMS)
    assert plan_picks(moved, ARMS) == picks
    first, second = (certify(e, picks, "random", 1000) for e in (evidence, moved))
    assert second.improvement == pytest.approx(first.improvement, abs=1e-9)
    assert second.lower_bound == pytest.approx(first.lower_bound, abs=1e-9)
    assert first.lower_bound < first.improvement
    higher = certify(evidence, picks, "random", 1000, confidence=0.99)
    assert higher.lower_bound < first.lower_bound


def test_statements_say_what_was_found() -> None:
    evidence, _ = world(7)
    picks = plan_picks(evidence, ["arm 0"])
    better = {arm: losses + (0.5 if arm == "random" else 0) for arm, losses in evidence.losses.items()}
    good = Evidence(better, evidence.n_tokens, evidence.fold, evidence.task)
    certificate = certify(good, picks, "random", 200_000)
    assert certificate.certified
    assert certificate.statement == (
        f"At 200,000 tokens the pruned corpus (arm 0) beats random by {certificate.improvement:.3f} nats per "
        f"token on the mean over tasks; 95% lower bound {certificate.lower_bound:.3f}."
    )
    worse = {arm: losses - (0.5 if arm == "random" else 0) for arm, losses in evidence.losses.items()}
    bad = certify(
        Evidence(worse, evidence.n_tokens, evidence.fold, evidence.task), picks, "random", 5, task="task 0"
    )
    assert not bad.certified
    assert "nothing can be certified" in bad.statement
    assert "worse than random on task 0" in bad.statement
    assert "more" in bad.statement
    named = certify(good, Picks(MEAN, ("arm 0", "arm 1"), "arm 1", ()), plan_picks(good, SIMPLE, fresh=0), 5)
    assert "arm 1; the folds picked arm 0 and arm 1, judged by their mean" in named.statement
    assert set(named.baseline.split(" or ")) <= set(SIMPLE)


def test_evidence_that_cannot_certify_is_refused() -> None:
    evidence, _ = world(8)
    tokens, fold, task = evidence.n_tokens, evidence.fold, evidence.task
    picks = plan_picks(evidence, ARMS)
    once = {arm: losses[:1] if arm == "random" else losses for arm, losses in evidence.losses.items()}
    with pytest.raises(ConfigError, match="drawn once"):
        certify(Evidence(once, tokens, fold, task), picks, "random", 1000)
    with pytest.raises(ConfigError, match="no finalist"):
        plan_picks(evidence, [])
    with pytest.raises(ConfigError, match="'absent' was not measured"):
        plan_picks(evidence, ["absent"])
    with pytest.raises(ConfigError, match="has task 'odd'"):
        certify(evidence, picks, "random", 1000, task="odd")
    with pytest.raises(ConfigError, match="confidence"):
        certify(evidence, picks, "random", 1000, confidence=95)
    with pytest.raises(ConfigError, match="Task 'task 0' has 0 calibration documents in a fold and needs 2"):
        Evidence(evidence.losses, tokens, np.zeros_like(fold), task)
    with pytest.raises(ConfigError, match="0 or 1"):
        Evidence(evidence.losses, tokens, fold + 1, task)
    with pytest.raises(ConfigError, match="rename"):
        Evidence(evidence.losses, tokens, fold, np.full(96, MEAN))
    broken = evidence.losses["full"].copy()
    broken[0, 3] = np.nan
    with pytest.raises(ValueError, match=r"losses of arm full\[0, 3\] is nan"):
        Evidence({**evidence.losses, "full": broken}, tokens, fold, task)
    with pytest.raises(ValueError, match="expected \\(runs, 96\\)"):
        Evidence({"full": np.zeros((1, 5))}, tokens, fold, task)
    with pytest.raises(ValueError, match="one value for each document"):
        Evidence(evidence.losses, tokens, fold[:5], task)


def test_weights_and_the_worst_task_by_hand() -> None:
    evidence, _ = world(9, tasks=3)
    weighted = replace(evidence, weights={"task 0": 3.0, "task 2": 1.0})
    picks = plan_picks(weighted, ARMS)
    per_task = [certify(weighted, picks, "random", 1000, f"task {t}") for t in range(3)]
    mean = certify(weighted, picks, "random", 1000)
    assert mean.improvement == pytest.approx((3 * per_task[0].improvement + per_task[2].improvement) / 4)
    assert "the weighted mean over tasks" in mean.statement
    worst = certify(weighted, picks, "random", 1000, WORST)
    counted = (per_task[0], per_task[2])
    assert worst.task == WORST
    assert worst.improvement == min(found.improvement for found in counted)
    assert worst.lower_bound == min(found.lower_bound for found in counted)

    def scaled(arm: str, fold: int) -> float:
        """The largest loss above random's mean over its wanted gain."""
        above = []
        for task, weight in (("task 0", 1.5), ("task 2", 0.5)):
            chosen = (evidence.task == task) & (evidence.fold == fold)
            tokens = evidence.n_tokens[chosen]
            loss = evidence.losses[arm][0, chosen] @ tokens / tokens.sum()
            usual = evidence.losses["random"][:, chosen].mean(axis=0) @ tokens / tokens.sum()
            above.append((loss - usual) / weight)
        return max(above)

    picks = plan_picks(weighted, ARMS, WORST)
    for fold in (0, 1):
        assert picks.by_fold[fold] == min(ARMS, key=lambda arm: scaled(arm, fold))
        assert fold_loss(weighted, "arm 3", WORST, fold)[0] == pytest.approx(scaled("arm 3", fold))


def test_the_least_bound_holds_on_the_worst_task() -> None:
    held = []
    for i in range(200):
        evidence, truth = world(1000 + i, tasks=3)
        picks = plan_picks(evidence, ARMS, WORST)
        bound = certify(evidence, picks, "random", 1000, WORST).lower_bound
        held.append(bound <= truth["random"] - np.mean([truth[arm] for arm in picks.by_fold]))
    assert np.mean(held) > 0.93


def test_an_arm_fitted_on_a_fold_is_picked_there_alone() -> None:
    evidence, _ = world(10)
    losses = dict(evidence.losses)
    for fold in (0, 1):
        losses[f"refit {fold}"] = losses["arm 0"] - 1.0
    fitted = replace(evidence, losses=losses)
    picks = plan_picks(fitted, [*ARMS, "refit 0", "refit 1"], fitted_on={"refit 0": 0, "refit 1": 1})
    assert picks.by_fold == ("refit 0", "refit 1")
    alone = plan_picks(fitted, [*ARMS, "refit 1"], fitted_on={"refit 1": 1})
    assert alone.by_fold[0] in ARMS
    assert alone.by_fold[1] == "refit 1"
