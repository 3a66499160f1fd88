"""Attribution proofs: the residual against the whole expansion, both sides over files, and what must be refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.__main__ import main
from grasp_pipeline.attribution.convex.head import fit_head
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.proof.claim import Claim, make_claim
from grasp_pipeline.proof.commands import secret_of
from grasp_pipeline.proof.exchange import Plan, answer, ask, judge, load_answer, measured
from grasp_pipeline.proof.residual import RHO, draw_pairs, residual_of

N, D = 24, 4


def task(seed: int = 0, n: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = (np.arange(n) % 2).astype(float)
    features = draw.normal(size=(n, D)) + labels[:, None] * 0.8
    return features, labels, draw.normal(size=D)


@pytest.fixture(scope="module")
def honest() -> Claim:
    features, labels, query = task()
    return make_claim(features, labels, 1.0, query, 2000)


def weights(values: np.ndarray, cube: np.ndarray) -> dict[int, float]:
    """Return B_j by size j: squared Fourier coefficients over the whole cube (2^N, N)."""
    signs, found = 2.0 * cube - 1, dict.fromkeys(range(cube.shape[1] + 1), 0.0)
    for rows in product((False, True), repeat=cube.shape[1]):
        found[sum(rows)] += float((values * signs[:, list(rows)].prod(axis=1)).mean()) ** 2
    return found


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99))
def test_the_residual_is_what_the_best_linear_function_leaves(seed: int) -> None:
    """On a small cube: against all Fourier coefficients, and against least squares."""
    draw = np.random.default_rng(seed)
    cube = np.array(list(product((0.0, 1.0), repeat=5)))
    values = cube @ draw.normal(size=5) + draw.normal() * cube[:, 0] * cube[:, 1] + draw.normal()
    exact = weights(values, cube)
    columns = np.concatenate([np.ones((len(cube), 1)), cube], axis=1)
    left = values - columns @ np.linalg.lstsq(columns, values, rcond=None)[0]
    assert sum(exact[j] for j in range(2, 6)) == pytest.approx((left**2).mean())

    pairs = draw_pairs(5, 60_000, RHO, draw)
    at = lambda members: values[(members @ (2 ** np.arange(4, -1, -1))).astype(int)]  # noqa: E731
    found = residual_of(at(pairs.first), at(pairs.second), pairs.correlation)
    scale = values.var()
    assert found.error == pytest.approx(scale, rel=0.05)
    assert found.unavoidable == pytest.approx((left**2).mean(), abs=0.1 * scale)


def test_pairs_agree_as_often_as_their_correlation_says() -> None:
    pairs = draw_pairs(400, 300, 0.4, np.random.default_rng(0))
    assert set(np.unique(pairs.correlation)) == {0.0, 0.4, 0.8}
    for rate in (0.0, 0.4, 0.8):
        rows = pairs.correlation == rate
        assert rows.sum() == 100
        agree = (pairs.first[rows] == pairs.second[rows]).mean()
        assert agree == pytest.approx((1 + rate) / 2, abs=0.01)
        assert pairs.second[rows].mean() == pytest.approx(0.5, abs=0.01)


def test_the_excess_is_the_squared_distance_from_the_best_claim(honest: Claim) -> None:
    """Brute force: outputs of 20,000 subsets and least squares, against 3,000 pairs."""
    members = np.random.default_rng(1).random((20_000, N)) < 0.5
    outputs = honest.train(members) @ honest.query
    columns = np.concatenate([np.ones((len(members), 1)), members], axis=1)
    best = np.linalg.lstsq(columns, outputs, rcond=None)[0][1:]
    wrong = replace(honest, attributions=honest.attributions * 0.4)
    distance = ((wrong.attributions - best) ** 2).sum() / 4 / outputs.var()
    verdict = judge(wrong, Plan.drawn(wrong, 3000, seed=5))
    assert verdict.excess == pytest.approx(distance, rel=0.25)
    assert not verdict.accepted


def test_honest_claims_are_accepted_and_manipulated_ones_rejected(honest: Claim) -> None:
    scores = honest.attributions
    boosted = np.where(np.arange(N) % 4 == 1, 3 * scores, scores)
    shuffled = np.random.default_rng(2).permutation(scores)
    verdict = judge(honest, Plan.drawn(honest, 1500, seed=1))
    assert verdict.accepted, verdict
    assert verdict.trained == 3000
    for other in (scores / 3, 2 * scores, boosted, shuffled, np.zeros(N)):
        claim = replace(honest, attributions=other)
        verdict = judge(claim, Plan.drawn(claim, 1500, seed=1))
        assert not verdict.accepted
        assert "a better linear attribution leaves" in verdict.reason


def test_the_intercept_is_not_judged(honest: Claim) -> None:
    plan = Plan.drawn(honest, 300, seed=2)
    outputs = honest.train(plan.subsets.both) @ honest.query
    first, second = (measured(honest, plan.subsets, outputs + shift) for shift in (0.0, 7.0))
    assert second.excess == pytest.approx(first.excess, abs=1e-9)


def test_both_sides_over_files(honest: Claim, tmp_path: Path) -> None:
    honest.save(tmp_path / "claim")
    claim = Claim.load(tmp_path / "claim")
    assert claim.digest == honest.digest
    plan = Plan.drawn(claim, 300, seed=3)
    ask(plan, tmp_path / "asked")
    assert answer(claim, tmp_path / "asked") == 600
    plan.save(tmp_path / "secret.json")
    theta = load_answer(claim, Plan.load(tmp_path / "secret.json"), tmp_path / "asked")
    verdict = judge(claim, plan, theta, checks=10)
    alone = judge(claim, plan)
    assert verdict.excess == pytest.approx(alone.excess, abs=1e-9)
    assert (verdict.trained, verdict.failed, alone.trained) == (10, 0, 600)
    files = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {".json", ".safetensors"}


def test_tampered_heads_are_found_as_often_as_chance_says(honest: Claim) -> None:
    plan, draw = Plan.drawn(honest, 150, seed=4), np.random.default_rng(0)
    theta = honest.train(plan.questions())
    share, checks, times = 0.1, 10, 200
    tampered = theta.copy()
    tampered[:30] += 1e-4
    found = [judge(honest, plan, tampered, checks=checks, draw=draw).failed > 0 for _ in range(times)]
    assert np.mean(found) == pytest.approx(1 - (1 - share) ** checks, abs=0.1)
    assert not any(judge(honest, plan, theta, checks=checks, draw=draw).failed for _ in range(20))
    verdict = judge(honest, plan, np.full_like(theta, np.nan), checks=5, draw=draw)
    assert not verdict.accepted
    assert verdict.failed == 5


def test_questions_do_not_say_what_belongs_together(honest: Claim) -> None:
    plan = Plan.drawn(honest, 60, seed=6)
    asked = plan.questions()
    assert sorted(map(tuple, asked)) == sorted(map(tuple, plan.subsets.both))
    assert not (asked[:60] == plan.subsets.first).all()
    assert Plan.drawn(honest, 60).seed != Plan.drawn(honest, 60).seed


def test_a_third_party_uses_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features, labels, query = task(1)
    file, claim = tmp_path / "mine.npz", str(tmp_path / "claim")
    np.savez(file, features=features, labels=labels, query=query)
    assert main(["prove", claim, "--features", str(file)]) == 0
    assert main(["verify", claim, "--pairs", "600", "--seed", "1"]) == 0
    assert "accepted" in capsys.readouterr().out

    asked = tmp_path / "asked"
    assert main(["verify", claim, "--ask", str(asked), "--pairs", "300"]) == 0
    assert secret_of(asked).parent == tmp_path
    assert main(["prove", claim, "--answer", str(asked)]) == 0
    assert main(["verify", claim, "--answer", str(asked), "--epsilon", "0.5"]) == 0
    assert "0 of 60 checked heads differ; 60 heads trained here" in capsys.readouterr().out

    lie = tmp_path / "lie.npz"
    np.savez(lie, features=features, labels=labels, query=query, attributions=np.ones(N))
    assert main(["prove", claim, "--features", str(lie)]) == 0
    assert main(["verify", claim, "--pairs", "300"]) == 1
    assert "is rejected: a better linear attribution" in capsys.readouterr().err
    assert main(["prove", claim, "--answer", str(asked)]) == 1
    assert "about another claim" in capsys.readouterr().err


def test_damaged_folders_are_named(honest: Claim, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    honest.save(tmp_path)
    about = json.loads((tmp_path / "claim.json").read_text())
    for change, fault in (
        ({"damping": 2.0}, "is not what its digest says"),
        ({"format": "other"}, "has the format 'other'"),
        ({"damping": None}, "is incomplete"),
    ):
        (tmp_path / "claim.json").write_text(json.dumps(about | change))
        with pytest.raises(InputError, match=fault):
            Claim.load(tmp_path)
    (tmp_path / "claim.json").write_text(json.dumps(about))
    (tmp_path / "claim.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"claim\.safetensors cannot be read"):
        Claim.load(tmp_path)
    with pytest.raises(InputError, match=r"claim\.json cannot be read"):
        Claim.load(tmp_path / "elsewhere")
    odd = tmp_path / "odd.npz"
    np.savez(odd, features=np.ones((2, 1)))
    assert main(["prove", str(tmp_path / "new"), "--features", str(odd)]) == 1
    assert "has no array 'labels'" in capsys.readouterr().err


def test_settings_out_of_range_are_refused(honest: Claim) -> None:
    plan = Plan.drawn(honest, 30, seed=1)
    with pytest.raises(ConfigError, match="epsilon 2"):
        judge(honest, plan, epsilon=2)
    with pytest.raises(ConfigError, match="0 checks from 1 to 60"):
        judge(honest, plan, np.zeros((60, D)), checks=0)
    for pairs, rho in ((29, 0.3), (30, 0.6), (30, 0.0)):
        with pytest.raises(ConfigError, match="give 30 or more"):
            draw_pairs(5, pairs, rho, np.random.default_rng(0))
    features, labels, query = task()
    with pytest.raises(InputError, match="do not belong to features"):
        Claim(features, labels, 1.0, query, np.zeros(N - 1))
    with pytest.raises(InputError, match="not finite"):
        Claim(features, labels, 1.0, query, np.full(N, np.nan))


def test_retrainings_end_where_they_end_from_anywhere(honest: Claim) -> None:
    members = np.random.default_rng(0).random((5, N)) < 0.5
    alone = [fit_head(honest.features[m], honest.labels[m], honest.damping).theta for m in members]
    np.testing.assert_allclose(honest.train(members), alone, atol=1e-9)
