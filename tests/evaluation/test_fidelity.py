"""The fidelity rows, against scipy and a loop over resamples."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm, spearmanr

from grasp_pipeline import tables
from grasp_pipeline.calibration.ceiling import seed_reliability
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS, fidelity_rows
from grasp_pipeline.seeds import generator

STRATA = ["uniform"] * 10 + ["source_tilted"] * 8 + ["uniform_small"] * 3
TASKS = ["code", "law"]
REFERENCE = ("surrogate", "mean")


def measured(seed: int = 0) -> tuple[dict[tuple[str, str], np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    m = len(STRATA)
    truth = rng.normal(size=(m, 2))
    methods = {
        ("random", "mean"): rng.normal(size=(m, 2)),
        REFERENCE: truth + 0.2 * rng.normal(size=(m, 2)),
        ("influence", "sum"): truth + rng.normal(size=(m, 2)),
    }
    return methods, truth[:, :, None] + 0.3 * rng.normal(size=(m, 2, 3))


def rows(**changes: Any) -> dict[tuple[str, str, str, str], dict[str, Any]]:
    methods, utilities = measured()
    arguments: dict[str, Any] = {
        "methods": methods,
        "utilities": utilities,
        "strata": STRATA,
        "tasks": TASKS,
        "reference": REFERENCE,
        "resamples": 300,
        "confidence": 0.95,
        "seed_name": "test",
    }
    made = fidelity_rows(**(arguments | changes))
    keyed = {tuple(row[c] for c in tables.FIDELITY.key): row for row in made}
    assert len(keyed) == len(made)
    return keyed


def test_rows_have_the_table_s_columns_and_cover_methods_strata_and_tasks() -> None:
    made = rows()
    for row in made.values():
        assert list(row) == list(tables.FIDELITY.schema)
    assert {key[2] for key in made} == {ALL, "uniform", "source_tilted"}
    assert {key[3] for key in made} == {*TASKS, MEAN_OVER_TASKS}
    assert len(made) == 3 * 3 * 3
    assert made["random", "mean", "source_tilted", "law"]["n_subsets"] == 8


def test_another_corpus_has_the_same_numbers_under_keys_of_its_own() -> None:
    text, images = rows(), rows(corpus="digits")
    assert not text.keys() & images.keys()
    for key, row in images.items():
        method, form, stratum, task = key
        assert stratum.startswith("digits/")
        assert row["corpus"] == "digits"
        twin = text[method, form, stratum.removeprefix("digits/"), task]
        assert twin["corpus"] == "text"
        assert {**row, "corpus": "", "stratum": ""} == {**twin, "corpus": "", "stratum": ""}


def slow_interval(value: float, draws: np.ndarray, limit: float = 1) -> list[float]:
    """95%, of 10 subsets of one stratum."""
    reach = norm.ppf(0.975) * draws.std() * np.sqrt(10 / 9)
    return [max(-limit, 2 * value - draws.mean() - reach), min(limit, 2 * value - draws.mean() + reach)]


def test_intervals_over_all_subsets_draw_every_stratum_by_itself() -> None:
    """What is ranked by stratum alone and perfectly so is certain, whatever the draw within the strata."""
    methods, utilities = measured()
    steps = np.array([sorted(set(STRATA)).index(s) for s in STRATA], dtype=float)
    flat = np.broadcast_to(steps[:, None, None], utilities.shape)
    made = rows(
        methods={name: np.broadcast_to(steps[:, None], (len(STRATA), 2)) for name in methods}, utilities=flat
    )
    row = made[(*REFERENCE, ALL, MEAN_OVER_TASKS)]
    assert (row["ci_low"], row["rank_correlation"], row["ci_high"]) == pytest.approx((1, 1, 1))
    counted = rows()[(*REFERENCE, ALL, MEAN_OVER_TASKS)]
    assert counted["ci_low"] < counted["rank_correlation"] < counted["ci_high"]


def test_numbers_equal_a_loop_over_resamples() -> None:
    methods, utilities = measured()
    made = rows()
    chosen = np.flatnonzero(np.array(STRATA) == "uniform")
    target = utilities.mean(axis=2)[chosen]
    drawn = generator("test", "fidelity", "uniform").integers(10, size=(300, 10))

    def rho(method: tuple[str, str], which: np.ndarray) -> np.ndarray:
        values = methods[method][chosen][which]
        return np.array([np.asarray(spearmanr(values[:, t], target[which][:, t]))[0] for t in range(2)])

    everything = np.arange(10)
    for method in methods:
        samples = np.array([rho(method, which) for which in drawn])
        gains = np.array([rho(REFERENCE, which) for which in drawn]) - samples
        for t, task in enumerate([*TASKS, MEAN_OVER_TASKS]):
            row = made[(*method, "uniform", task)]

            def pooled(values: np.ndarray, t: int = t) -> np.ndarray:
                return values.mean(axis=-1) if t == 2 else values[..., t]

            assert row["rank_correlation"] == pytest.approx(pooled(rho(method, everything)))
            expected_gain = rho(REFERENCE, everything) - rho(method, everything)
            assert row["paired_gain"] == pytest.approx(pooled(expected_gain), abs=1e-12)
            interval = slow_interval(row["rank_correlation"], pooled(samples))
            np.testing.assert_allclose([row["ci_low"], row["ci_high"]], interval, atol=1e-12)
            paired = slow_interval(row["paired_gain"], pooled(gains), 2)
            np.testing.assert_allclose([row["paired_ci_low"], row["paired_ci_high"]], paired, atol=1e-12)
            ceiling = seed_reliability(utilities[chosen])
            noise = ceiling.noise_ceiling if t == 2 else ceiling.ceiling_per_task[t]
            assert row["noise_ceiling"] == pytest.approx(noise)


def test_the_reference_gains_nothing_over_itself_and_beats_noise() -> None:
    made = rows()
    own = made[(*REFERENCE, ALL, MEAN_OVER_TASKS)]
    assert own["paired_gain"] == own["paired_ci_low"] == own["paired_ci_high"] == 0
    assert made["random", "mean", ALL, MEAN_OVER_TASKS]["paired_ci_low"] > 0
    assert own["ci_low"] <= own["rank_correlation"] <= own["ci_high"]


def test_other_methods_do_not_change_a_method_s_row() -> None:
    methods, _ = measured()
    fewer = {name: methods[name] for name in (REFERENCE, ("random", "mean"))}
    key = ("random", "mean", "uniform", "code")
    assert rows(methods=fewer)[key] == rows()[key]


def test_what_cannot_be_reported_is_refused() -> None:
    methods, utilities = measured()
    with pytest.raises(ConfigError, match="2 training seeds"):
        rows(utilities=utilities[:, :, :1])
    few = {name: values[:5] for name, values in methods.items()}
    with pytest.raises(ConfigError, match="too few"):
        rows(methods=few, utilities=utilities[:5], strata=STRATA[:5])
    with pytest.raises(ConfigError, match="no predictions"):
        rows(reference=("absent", "mean"))
    with pytest.raises(ConfigError, match="reserved"):
        rows(tasks=["code", MEAN_OVER_TASKS])
    with pytest.raises(ConfigError, match="confidence"):
        rows(confidence=95)
    bad = methods["influence", "sum"].copy()
    bad[0, 1] = np.nan
    with pytest.raises(ValueError, match=r"influence, sum form\[0, 1\] is nan"):
        rows(methods=methods | {("influence", "sum"): bad})
    with pytest.raises(ValueError, match="predicts shape"):
        rows(methods=methods | {("influence", "sum"): np.zeros((4, 2))})
    with pytest.raises(ValueError, match="expected"):
        rows(utilities=utilities[:, 0])
