"""The feasible set against general solvers: its linear maximum, its rounding, and F optimised over it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from constraint_toys import KINDS, Array, Problem, random_problem, violations
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
from grasp_pipeline.selection.solver.optimiser import optimise

SEEDS = st.integers(0, 100_000)
MIXES = st.sets(st.sampled_from(KINDS)).map(
    lambda kinds: kinds - {"cluster_tokens"} if "cluster_units" in kinds else kinds
)
SINGLE = [{kind} for kind in KINDS if kind not in ("crossing", "shares")]
ALONE = [
    set(),
    *SINGLE,
    {"floors", "caps", "shares"},
    {"floors", "caps", "crossing", "cluster_units"},
    {"floors", "caps", "crossing", "cluster_tokens"},
    {"documents", "floors", "caps", "crossing", "cluster_units", "keep", "drop"},
]


def violation(problem: Problem, weights: Array) -> float:
    rows = problem.program()
    over = [np.abs(rows["A_eq"] @ weights - rows["b_eq"]).max()]
    if rows["A_ub"] is not None:
        over.append((rows["A_ub"] @ weights - rows["b_ub"]).max())
    over += [(rows["bounds"][:, 0] - weights).max(), (weights - rows["bounds"][:, 1]).max()]
    return max(over)


def check_vertex(problem: Problem, seed: int) -> None:
    draw = generator("gains", seed)
    gains = draw.standard_normal(len(problem.tokens)).astype(np.float32)
    if seed % 3 == 0:
        gains = np.round(2 * gains) / 2  # ties
    best = problem.best(gains)
    try:
        constraints = problem.build()
    except ConfigError:
        # must_keep beyond a cluster's room is refused too, and infeasible as well.
        assert best.status == 2
        return
    assert best.status == 0
    weights = constraints.vertex(gains)
    assert violation(problem, weights) < 1e-7
    assert (weights * problem.tokens) @ gains == pytest.approx(-best.fun, abs=1e-6)


@pytest.mark.parametrize("kinds", ALONE, ids=lambda kinds: "+".join(sorted(kinds)) or "budget")
def test_vertex_of_every_kind_equals_a_linear_program(kinds: set[str]) -> None:
    for seed in range(25):
        check_vertex(random_problem(seed, kinds), seed)


@settings(max_examples=150, deadline=None)
@given(SEEDS, MIXES, st.integers(4, 30))
def test_vertex_of_any_mix_equals_a_linear_program(seed: int, kinds: set[str], n: int) -> None:
    check_vertex(random_problem(seed, kinds, n), seed)


def test_ties_go_to_the_earlier_chunk() -> None:
    constraints = ConstraintSet(np.full(6, 4), 10)
    np.testing.assert_array_equal(constraints.vertex(np.ones(6)), [1, 1, 0.5, 0, 0, 0])


def whole_corpora(problem: Problem) -> list[Array]:
    """Return all memberships that meet every demand but the exact budget and the floors, by enumeration."""
    rows = problem.program()
    unit = problem.options.get("documents", np.arange(len(problem.tokens)))
    found = []
    for bits in product((0.0, 1.0), repeat=int(unit.max()) + 1):
        weights = np.array(bits)[unit]
        if weights @ problem.tokens > problem.budget:
            continue
        if (weights < rows["bounds"][:, 0]).any() or (weights > rows["bounds"][:, 1]).any():
            continue
        if (
            rows["A_ub"] is not None
            and ((rows["A_ub"] @ weights > rows["b_ub"] + 1e-9) & (rows["A_ub"] >= 0).all(1)).any()
        ):
            continue
        found.append(weights)
    return found


@settings(max_examples=60, deadline=None)
@given(SEEDS, MIXES, st.integers(5, 12))
def test_rounding_is_feasible_and_leaves_no_unit_that_fits(seed: int, kinds: set[str], n: int) -> None:
    problem = random_problem(seed, kinds, n)
    try:
        constraints = problem.build()
    except ConfigError:
        return
    draw = generator("rounding", seed)
    gains = draw.standard_normal(n)
    weights = constraints.vertex(gains) if seed % 2 else draw.random(n)
    membership = constraints.round(weights, gains)
    assert membership.dtype == np.bool_
    corpora = whole_corpora(problem)
    assert any((membership == corpus).all() for corpus in corpora)
    assert not any((corpus >= membership).all() and corpus.sum() > membership.sum() for corpus in corpora)
    assert all("below its floor" in sentence for sentence in violations(constraints, membership))


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.booleans(), st.booleans())
def test_a_floor_is_missed_by_less_than_a_chunk(seed: int, caps: bool, clusters: bool) -> None:
    kinds = {"floors"} | ({"caps"} if caps else set()) | ({"cluster_units"} if clusters else set())
    problem = random_problem(seed, kinds, 60)
    try:
        constraints = problem.build()
    except ConfigError:
        return
    gains = generator("floor", seed).standard_normal(60)
    membership = constraints.round(constraints.vertex(gains), gains)
    for name, floor in problem.options["floors"].items():
        mine = problem.options["sources"] == problem.options["source_names"].index(name)
        short = floor - problem.tokens[membership & mine].sum()
        assert short < problem.tokens[mine].max(initial=1)
    assert problem.budget - problem.tokens[membership].sum() < 8 or caps or clusters


def test_loose_floors_are_met_in_whole_chunks() -> None:
    sources = np.arange(400) % 2
    constraints = ConstraintSet(
        np.full(400, 7), 700, sources=sources, source_names=["a", "b"], floors={"b": 0.3}, caps={"a": 300}
    )
    gains = np.where(sources == 0, 2.0, 1.0)
    membership = constraints.round(constraints.vertex(gains), gains)
    assert violations(constraints, membership) == []
    assert (7 * np.bincount(sources[membership])).tolist() == [294, 406]


def slow_optimum(problem: Problem, phi: Array, target: Array, lam: float, start: Array) -> float:
    """Maximise F over the weights, every constraint a row, with a general-purpose solver."""
    per = phi * problem.tokens[:, None] / problem.budget
    rows = problem.program()
    spec = [{"type": "eq", "fun": lambda w: rows["A_eq"] @ w - rows["b_eq"], "jac": lambda w: rows["A_eq"]}]
    if rows["A_ub"] is not None:
        spec.append(
            {"type": "ineq", "fun": lambda w: rows["b_ub"] - rows["A_ub"] @ w, "jac": lambda w: -rows["A_ub"]}
        )
    found = minimize(
        lambda w: -(target - lam / 2 * (w @ per)) @ (w @ per),
        start,
        jac=lambda w: -per @ (target - lam * (w @ per)),
        method="SLSQP",
        bounds=rows["bounds"],
        constraints=spec,
        options={"maxiter": 1000, "ftol": 1e-10},
    )
    assert violation(problem, found.x) < 1e-5
    return -found.fun


@pytest.mark.parametrize("kinds", ALONE, ids=lambda kinds: "+".join(sorted(kinds)) or "budget")
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.5])
def test_optimum_under_every_kind_equals_an_exact_solver(kinds: set[str], lam: float) -> None:
    done = 0
    for seed in range(40):
        problem = random_problem(seed, kinds, 12, spare=0.9)
        try:
            constraints = problem.build()
        except ConfigError:
            continue
        draw = generator("optimum", seed)
        phi = draw.standard_normal((12, 4))
        target = phi[:3].mean(axis=0) + 0.3 * draw.standard_normal(4)
        found = optimise(
            phi,
            problem.tokens,
            target,
            problem.budget,
            lam=lam,
            feasible=constraints,
            gap=1e-6,
            max_passes=2000,
        )
        mean = found.weights * problem.tokens @ phi / problem.budget
        assert violation(problem, found.weights) < 1e-5
        exact = slow_optimum(problem, phi, target, lam, found.weights)
        far = slow_optimum(problem, phi, target, lam, constraints.vertex(-phi @ target))
        assert (target - lam / 2 * mean) @ mean == pytest.approx(max(exact, far), abs=1e-4)
        assert found.upper_bound >= max(exact, far) - 1e-5
        assert all("floor" in sentence for sentence in violations(constraints, found.membership))
        done += 1
        if done == 4:
            return
    assert done >= 2


def test_documents_move_as_one() -> None:
    documents = np.array([0, 0, 1, 1, 1, 2, 3])
    tokens = np.array([4, 4, 2, 2, 2, 6, 3])
    constraints = ConstraintSet(tokens, 14, documents=documents)
    # Means per token: document 0 has 1, document 1 has 2, document 2 has 1.5, document 3 has 9.
    gains = np.array([0.0, 2.0, 6.0, 0.0, 0.0, 1.5, 9.0])
    weights = constraints.vertex(gains)
    np.testing.assert_allclose(weights, [0, 0, 1, 1, 1, 5 / 6, 1])
    assert constraints.round(weights, gains).tolist() == [False, False, True, True, True, False, True]
    kept = ConstraintSet(tokens, 14, documents=documents, keep=np.arange(7) == 1)
    np.testing.assert_allclose(kept.vertex(gains), [1, 1, 0.5, 0.5, 0.5, 0, 1])


def test_units_that_never_fit_are_out() -> None:
    tokens = np.array([30, 5, 5, 5, 12])
    constraints = ConstraintSet(
        tokens, 15, sources=np.array([0, 0, 0, 0, 1]), source_names=["a", "b"], caps={"b": 10}
    )
    assert constraints.n_tokens.tolist() == [0, 5, 5, 5, 0]
    np.testing.assert_array_equal(constraints.vertex(np.array([9.0, 1, 1, 1, 9])), [0, 1, 1, 1, 0])


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    tokens, three = np.full(4, 5), np.array([0, 0, 1])
    for options, message in (
        ({"sources": three, "source_names": ["a", "b"]}, "sources of shape"),
        ({"sources": np.array([0, 1, 2, 0]), "source_names": ["a", "b"]}, "2 sources are named"),
        ({"clusters": np.array([0, -1, 0, 0]), "cluster_units": 1}, "clusters of shape"),
        ({"cluster_units": 1}, "needs the chunks' clusters"),
        ({"keep": np.array([1, 0, 0, 0])}, "give true or false"),
        ({"documents": np.array([0, 0, 1, 1]), "sources": np.array([0, 1, 0, 0]), "source_names": ["a", "b"],
          "floors": {"a": 1.0}, "caps": {"b": 0.5}}, "document of chunk 0 has chunks of more than one source"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            ConstraintSet(tokens, 10, **options)


def breaks(problem: Problem, membership: Array) -> bool:
    """Return whether a membership passes a cap or a cluster's maximum, counted one by one."""
    o, broken = problem.options, False
    unit = o.get("documents", np.arange(len(membership)))
    for name, cap in o.get("caps", {}).items():
        inside = membership & (o["sources"] == list(o["source_names"]).index(name))
        broken |= problem.tokens[inside].sum() > (cap if cap > 1 else cap * problem.budget) + 1e-6
    for cluster in np.unique(o.get("clusters", [])):
        inside = membership & (o["clusters"] == cluster)
        broken |= len(np.unique(unit[inside])) > (o.get("cluster_units") or np.inf)
        broken |= problem.tokens[inside].sum() > (o.get("cluster_tokens") or np.inf)
    return bool(broken)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sets(st.sampled_from(KINDS), max_size=3))
def test_what_binds_a_chunk_is_what_its_unit_would_break(seed: int, kinds: set[str]) -> None:
    problem = random_problem(seed, kinds)
    try:
        made, n = problem.build(), len(problem.tokens)
    except ConfigError:
        reject()
    kept = made.round(generator("binding", seed).random(n), np.zeros(n))
    named = made.binding(kept)
    assert (named[kept] == "").all()
    unit = problem.options.get("documents", np.arange(n))
    unwanted = problem.options.get("drop", np.zeros(n, dtype=bool))
    for chunk in np.flatnonzero(~kept):
        own = unit == unit[chunk]
        assert (named[chunk] == "must_drop") == unwanted[own].any()
        assert (named[chunk] != "") == (unwanted[own].any() or breaks(problem, kept | own))
