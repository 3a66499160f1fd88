"""The downstream benchmark: settings, names of grounds and files, and figures of made-up cases."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from downstream_toys import made_up_study, toy_settings

from benchmarks import published
from benchmarks.downstream import figures as downstream_figures
from benchmarks.downstream import files as downstream
from benchmarks.downstream.coverage import load_repeats, repeat_contest, save_repeats
from benchmarks.downstream.settings import load_downstream_settings
from benchmarks.downstream.shipping import without
from grasp_pipeline.errors import ConfigError, InputError

SETTINGS = load_downstream_settings(published.ROOT / "config" / "downstream.yaml")


def test_the_bundled_settings_name_two_corpora_with_three_targets_each() -> None:
    assert len(SETTINGS.corpora) == 2
    assert all(len(names) == 3 for names in SETTINGS.targets.values())
    assert SETTINGS.main.sealed_seeds >= 3
    grounds = downstream.ground_names(SETTINGS)
    contests = SETTINGS.coverage_repeats * 4 * sum(name.startswith("coverage/") for name in grounds)
    assert contests >= 40


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "corpora"),
        ("corpora: {a: x}\ntargets: {b: [c]}\n", "corpus 'a' has none"),
        ("corpora: {a: x}\ntargets: {a: [c]}\nbudget_fraction: 2\n", "budget_fraction"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, said: str) -> None:
    size = (
        "{seeds: [0], chunks: 200, steps: 10, calibration_documents: 8, sealed_documents: 8, sealed_seeds: 2, "
        "random_draws: 3, fresh_draws: 2}"
    )
    path = tmp_path / "settings.yaml"
    path.write_text(f"{text}main: {size}\ncoverage: {size}\n")
    with pytest.raises(ConfigError, match=said):
        load_downstream_settings(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_downstream_settings(tmp_path / "nothing.yaml")


def test_files_follow_what_a_case_depends_on() -> None:
    before = downstream.case_files(SETTINGS, "main/bundled/0")
    same = SETTINGS.model_copy(update={"shortlist": 3, "coverage_repeats": 2})
    other = SETTINGS.model_copy(update={"budget_fraction": 0.5})
    assert downstream.case_files(same, "main/bundled/0") == before
    assert not set(downstream.case_files(other, "main/bundled/0").values()) & set(before.values())
    assert list(before) == [*sorted(SETTINGS.targets["bundled"]), "mean"]


def test_a_headline_at_equal_rules_is_not_won_by_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is a repeated corpus; another method's, repeated as well, is better: above its plain form, not above it."""
    study = made_up_study(noise=0.002)
    arms = tuple(
        {"surrogate-0": "dsir-twice", "surrogate-1": "blend-twice"}.get(arm, arm) for arm in study.arms[:-1]
    )
    equal = replace(without(study, study.arms[-1:]), arms=arms)
    monkeypatch.setattr(
        downstream_figures, "shipped", lambda study, *_, **__: study.arms.index("blend-twice")
    )
    rows = {row.figure: row.value for row in downstream_figures.shipping_figures([equal], 4, None, "")}
    assert rows["downstream.share_above_best"] == 0
    assert rows["downstream.worst_margin"] == pytest.approx(-0.02, abs=0.01)
    assert rows["downstream.share_above_best[repeats for ours alone]"] == 1
    assert rows["downstream.margin_over_repeated"] == pytest.approx(-0.02, abs=0.01)


@pytest.mark.usefixtures("clean")
def test_figures_come_from_finished_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy_settings(coverage_repeats=3)
    small = settings.coverage.model_copy(update={"calibration_documents": 20, "random_draws": 4})
    settings = settings.model_copy(update={"coverage": small})
    monkeypatch.setenv("GRASP_STORE", str(tmp_path))
    monkeypatch.setattr(published, "RESULTS", tmp_path)
    monkeypatch.setattr(published, "README", tmp_path / "README.md")
    marks = published.START.format(name="downstream") + "\n" + published.END.format(name="downstream")
    (tmp_path / "README.md").write_text(marks)
    with pytest.raises(InputError, match="run the benchmark again"):
        downstream_figures.publish(settings, "make benchmark-downstream")
    for number, path in enumerate(downstream.case_files(settings, "main/toy/0").values()):
        made_up_study(number, noise=0.002, name="main/toy/0").save(path)
    with pytest.raises(InputError, match=r"contests-\S+ and.*run the benchmark again"):
        downstream_figures.publish(settings, "make benchmark-downstream")
    for number, path in enumerate(downstream.contest_files(settings, "coverage/toy/0").values()):
        study = made_up_study(
            number, noise=0.002, name="coverage/toy/0", target=("a", "b", "mean", "b")[number]
        )
        save_repeats(path, [repeat_contest(study, k, 2, 4, 20, 100) for k in range(3)])
    for number, path in enumerate(downstream.case_files(settings, "coverage/toy/0").values()):
        replace(made_up_study(number, noise=0.002, name="coverage/toy/0"), multiples={}).save(path)
    path = downstream_figures.publish(settings, "make benchmark-downstream")
    figures = {row["figure"]: row for row in json.loads(path.read_text())}
    assert figures["downstream.worst_margin"]["value"] == pytest.approx(0.1, abs=0.01)
    assert figures["downstream.share_above_best"]["value"] == 1
    assert figures["downstream_small.worst_margin"]["value"] == pytest.approx(0.1, abs=0.01)
    assert figures["downstream_small.share_above_best"]["value"] == 1
    assert "downstream_small.token_multiplier" not in figures
    assert 0.15 < figures["downstream.min_low_vs_random"]["value"] < 0.2
    assert figures["downstream.token_multiplier"]["value"] == pytest.approx(2.52, rel=0.1)
    assert figures["downstream.share_above_best[repeats for ours alone]"]["value"] == 1
    assert figures["selection.spearman_finalists"]["value"] > 0.7
    assert figures["selection.spearman_finalists[own]"]["value"] < -0.7
    assert figures["selection.shortlist_regret"]["value"] < 0.01
    assert 0.6 <= figures["certificate.coverage"]["value"] <= 1
    assert figures["certificate.coverage"]["value"] >= figures["certificate.coverage[worst case]"]["value"]
    assert "refitted corpus" in figures["certificate.coverage"]["note"]
    assert figures["certificate.shortfall"]["value"] > 0
    assert figures["downstream.gain_over_random[surrogate-0]"]["value"] == pytest.approx(0.2, abs=0.01)
    assert figures["downstream.gain_over_random[full]"]["value"] == pytest.approx(0, abs=0.01)
    assert "downstream.worst_margin" in (tmp_path / "README.md").read_text()
    for main in downstream.case_files(settings, "main/toy/0").values():
        main.unlink()
    for contests in downstream.contest_files(settings, "coverage/toy/0").values():
        save_repeats(contests, [replace(repeat, lower=1e3) for repeat in load_repeats(contests)])
    downstream_figures.publish(settings, "only contests", "coverage")
    after = {row["figure"]: row for row in json.loads(path.read_text())}
    assert set(after) == set(figures)
    assert after["certificate.coverage"]["value"] == after["certificate.coverage[worst case]"]["value"] == 0
    renewed = {name for name, row in after.items() if row["command"] == "only contests"}
    assert renewed == {name for name in figures if name.startswith(("certificate.", "downstream_small."))}
    assert all(after[name] == row for name, row in figures.items() if name not in renewed)
