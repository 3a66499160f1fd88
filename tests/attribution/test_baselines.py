"""The further baselines against loops written from their formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from second_order import SecondOrderGroup

from grasp_pipeline.attribution.blocks import ArrayBlocks, SketchBlocks
from grasp_pipeline.attribution.grouped import Grouped, group_means
from grasp_pipeline.attribution.log_term import AdditiveLogTerm, fit_log_term
from grasp_pipeline.attribution.methods.block_influence import BlockInfluence
from grasp_pipeline.attribution.methods.damped_influence import DampedInfluence
from grasp_pipeline.attribution.methods.distinct_documents import DistinctDocuments
from grasp_pipeline.attribution.methods.grad_dot import GradDot
from grasp_pipeline.attribution.methods.loss_only import LossOnly
from grasp_pipeline.attribution.methods.random_score import RandomScore
from grasp_pipeline.attribution.methods.second_order import second_order_from_means
from grasp_pipeline.attribution.methods.tracin import TracIn
from grasp_pipeline.attribution.methods.trak import Trak, trak_gram
from grasp_pipeline.attribution.metric import metric_matrix, second_moment
from grasp_pipeline.attribution.protocol import AdditiveAttributor, Attributor
from grasp_pipeline.attribution.surrogate import predict_from_means, subset_means
from grasp_pipeline.calibration.rank import task_level_spearman
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.names import Form
from grasp_pipeline.seeds import generator

N, D, T, M = 50, 6, 3, 8
LAYERS = [slice(0, 2), slice(2, 5), slice(5, 6)]
FORMS: list[Form] = ["mean", "sum"]


class Setting:
    """Chunks, tasks and subsets; `phi` is float64 for the slow loops."""

    def __init__(self, seed: int = 0, n: int = N) -> None:
        draw = generator("baselines", seed)
        self.sketches = (draw.standard_normal((n, D)) + 0.3).astype(np.float32)
        self.phi = self.sketches.astype(np.float64)
        self.tokens = draw.integers(1, 129, n)
        self.losses = draw.uniform(0.2, 6, n)
        self.targets = draw.standard_normal((T, D))
        roots = draw.standard_normal((T, 9, D))
        self.moments = np.einsum("tqd,tqe->tde", roots, roots) / 9
        self.membership = draw.random((M, n)) < draw.uniform(0.2, 0.8, (M, 1))
        self.membership[:, 0] = True

    def slow_values(self, score: Callable[[int, int], float], form: Form) -> list[list[float]]:
        """Return the value of each subset, added up chunk by chunk from score(i, t)."""
        values = []
        for members in self.membership:
            rows = np.nonzero(members)[0].tolist()
            size = 1 if form == "sum" else sum(int(self.tokens[i]) for i in rows)
            values.append([sum(score(i, t) for i in rows) / size for t in range(T)])
        return values


def slow_moment(s: Setting, weights: np.ndarray) -> np.ndarray:
    return sum(w * np.outer(row, row) for w, row in zip(weights, s.phi, strict=True)) / weights.sum()


def check(method: AdditiveAttributor, s: Setting, score: Callable[[int, int], float], form: Form) -> None:
    assert isinstance(method, AdditiveAttributor)
    slow = np.array([[score(i, t) for t in range(T)] for i in range(len(s.tokens))])
    scale = np.abs(slow).max()
    np.testing.assert_allclose(method.scores(), slow, rtol=1e-3, atol=1e-4 * scale)
    values = np.array(s.slow_values(score, form))
    np.testing.assert_allclose(
        method.predict(s.membership), values, rtol=1e-3, atol=1e-4 * np.abs(values).max()
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sign", [-1, 1])
def test_loss_only(form: Form, sign: int) -> None:
    s = Setting()
    check(LossOnly(s.losses, s.tokens, T, sign, form), s, lambda i, t: sign * s.tokens[i] * s.losses[i], form)


@pytest.mark.parametrize("form", FORMS)
def test_tracin_adds_up_checkpoints(form: Form) -> None:
    s, later = Setting(0), Setting(1)
    rates = [0.3, 0.01]

    def score(i: int, t: int) -> float:
        return s.tokens[i] * sum(
            rate * (world.targets[t] @ world.phi[i]) for rate, world in zip(rates, (s, later), strict=True)
        )

    pairs = [(s.sketches, s.targets), (ArrayBlocks(later.sketches, block_rows=7), later.targets)]
    check(TracIn(pairs, rates, s.tokens, form), s, score, form)


def test_tracin_at_one_checkpoint_is_grad_dot() -> None:
    s = Setting()
    np.testing.assert_allclose(
        TracIn([(s.sketches, s.targets)], [0.5], s.tokens).scores(),
        0.5 * GradDot(s.sketches, s.tokens, s.targets).scores(),
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("damping", [0.0, 3.0])
def test_trak_is_its_definition_on_margin_gradients(form: Form, damping: float) -> None:
    s = Setting()
    q = 1 - np.exp(-s.losses)
    x = s.phi / q[:, None]
    inverse = np.linalg.inv(sum(np.outer(row, row) for row in x) + damping * np.eye(D))

    def score(i: int, t: int) -> float:
        return s.tokens[i] * q[i] * (s.targets[t] @ inverse @ x[i])

    check(Trak(s.sketches, s.tokens, s.targets, s.losses, damping, form), s, score, form)
    gram = trak_gram(s.sketches, s.losses)
    np.testing.assert_array_equal(
        Trak(s.sketches, s.tokens, s.targets, s.losses, damping, form, gram).scores(),
        Trak(s.sketches, s.tokens, s.targets, s.losses, damping, form).scores(),
    )


def test_trak_features_are_margin_gradients_up_to_q() -> None:
    """For one example of a logistic model, d f / d theta = (descent direction of the loss) / (1 - p)."""
    draw = generator("margin")
    x, theta, step = draw.standard_normal(4), draw.standard_normal(4), 1e-6
    for sign in (-1, 1):

        def loss(at: np.ndarray, sign: int = sign) -> float:
            return float(np.log1p(np.exp(-sign * (x @ at))))

        def margin(at: np.ndarray, loss: Callable = loss) -> float:
            p = np.exp(-loss(at))
            return float(np.log(p / (1 - p)))

        moves = step * np.eye(4)
        descent = np.array([loss(theta - move) - loss(theta + move) for move in moves]) / (2 * step)
        output = np.array([margin(theta + move) - margin(theta - move) for move in moves]) / (2 * step)
        np.testing.assert_allclose(output, descent / (1 - np.exp(-loss(theta))), rtol=1e-5, atol=1e-8)


def test_trak_without_damping_is_defined_for_fewer_chunks_than_dimensions() -> None:
    s = Setting(n=4)
    x = s.phi / (1 - np.exp(-s.losses))[:, None]
    expected = s.tokens[:, None] * (s.phi @ np.linalg.pinv(x.T @ x, rcond=1e-6) @ s.targets.T)
    scores = Trak(s.sketches, s.tokens, s.targets, s.losses).scores()
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("form", FORMS)
def test_block_influence_sums_layers(form: Form) -> None:
    s, rho = Setting(), 0.3
    c = slow_moment(s, s.tokens)

    def score(i: int, t: int) -> float:
        total = 0.0
        for layer in LAYERS:
            own = c[layer, layer]
            damped = own + rho * np.trace(own) / len(own) * np.eye(len(own))
            total += s.targets[t, layer] @ np.linalg.inv(damped) @ s.phi[i, layer]
        return s.tokens[i] * total

    check(BlockInfluence(s.sketches, s.tokens, s.targets, LAYERS, rho, form), s, score, form)
    shared = BlockInfluence(
        s.sketches, s.tokens, s.targets, LAYERS, rho, form, second_moment(s.sketches, s.tokens)
    )
    check(shared, s, score, form)


def test_one_block_is_damped_influence_up_to_its_unit() -> None:
    s = Setting()
    whole = BlockInfluence(s.sketches, s.tokens, s.targets, [slice(None)], 0.5).scores()
    damped = DampedInfluence(s.sketches, s.tokens, s.targets, 0.5).scores()
    np.testing.assert_allclose(whole / whole[0, 0], damped / damped[0, 0], rtol=1e-3, atol=1e-4)


def test_a_layers_unit_does_not_change_its_block_influence() -> None:
    s = Setting()
    factors = np.array([1, 1, 100, 100, 100, 1e-3])
    scaled = (s.sketches * factors).astype(np.float32)
    np.testing.assert_allclose(
        BlockInfluence(scaled, s.tokens, s.targets * factors, LAYERS).scores(),
        BlockInfluence(s.sketches, s.tokens, s.targets, LAYERS).scores(),
        rtol=1e-3,
        atol=1e-2,
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rho", [0.0, 0.7])
def test_second_order_adds_up_pairs(form: Form, rho: float) -> None:
    s, eta = Setting(), 0.4
    metric = metric_matrix(slow_moment(s, s.tokens), rho)
    moves = [w * (metric @ phi) for w, phi in zip(s.tokens, s.phi, strict=True)]
    slow = []
    for members in s.membership:
        rows = np.nonzero(members)[0]
        size = s.tokens.sum() if form == "sum" else s.tokens[rows].sum()
        slow.append(
            [
                eta * sum(s.targets[t] @ moves[i] for i in rows) / size
                - eta**2 / 2 * sum(moves[i] @ s.moments[t] @ moves[j] for i in rows for j in rows) / size**2
                for t in range(T)
            ]
        )
    method = SecondOrderGroup(s.sketches, s.tokens, s.targets, s.moments, rho, eta, form)
    assert isinstance(method, Attributor)
    np.testing.assert_allclose(method.predict(s.membership), slow, rtol=1e-3, atol=1e-4)
    means = subset_means(s.sketches, s.tokens, s.membership)
    again = second_order_from_means(
        means, s.targets, s.moments, method.metric, eta, float(s.tokens.sum()), form
    )
    np.testing.assert_array_equal(again, method.predict(s.membership))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 3))
def test_second_order_with_the_inverse_metric_is_the_surrogate(seed: int, eta: float) -> None:
    s = Setting(seed)
    metric = metric_matrix(second_moment(s.sketches, s.tokens), 0.5)
    means = subset_means(s.sketches, s.tokens, s.membership)
    same = np.repeat(np.linalg.inv(metric)[None], T, axis=0)
    np.testing.assert_allclose(
        second_order_from_means(means, s.targets, same, metric, eta, 1.0),
        eta * predict_from_means(means, s.targets, metric, eta),
        rtol=1e-6,
        atol=1e-8,
    )


def test_log_distinct_is_a_sum_of_standard_scores() -> None:
    s = Setting()
    clusters = np.array([f"c{i % 17}" for i in range(N)])
    additive = GradDot(s.sketches, s.tokens, s.targets)
    calibration = Setting(5).membership
    distinct = DistinctDocuments(clusters, 1).predict
    method = AdditiveLogTerm(additive, distinct, 0.6, calibration)
    assert isinstance(method, Attributor)

    def logs(membership: np.ndarray) -> np.ndarray:
        return np.array([np.log(len(set(clusters[row]))) for row in membership])

    before, slow = additive.predict(calibration), np.empty((M, T))
    for j in range(M):
        for t in range(T):
            value = additive.predict(s.membership[j : j + 1])[0, t]
            slow[j, t] = (value - before[:, t].mean()) / before[:, t].std() + 0.6 * (
                logs(s.membership)[j] - logs(calibration).mean()
            ) / logs(calibration).std()
    np.testing.assert_allclose(method.predict(s.membership), slow, rtol=1e-6)


def test_the_weight_of_log_distinct_is_the_best_on_calibration() -> None:
    s, draw = Setting(), generator("log distinct")
    distinct = DistinctDocuments(np.arange(N) % 23, 1).predict
    additive = GradDot(s.sketches, s.tokens, s.targets)
    calibration = draw.random((30, N)) < draw.uniform(0.1, 0.9, (30, 1))
    calibration[:, 0] = True
    truth = AdditiveLogTerm(additive, distinct, 1.0, calibration).predict(calibration)
    grid = [0.0, 0.25, 1.0, 4.0]
    fitted = fit_log_term(additive, distinct, calibration, truth, grid)
    assert fitted.weight == 1.0
    noisy = truth + draw.standard_normal(truth.shape)
    each = [
        task_level_spearman(
            AdditiveLogTerm(additive, distinct, weight, calibration).predict(calibration)[None], noisy
        )[0]
        for weight in grid
    ]
    assert fit_log_term(additive, distinct, calibration, noisy, grid).weight == grid[int(np.argmax(each))]


def test_log_distinct_drops_a_term_that_is_constant_on_calibration() -> None:
    s = Setting()
    additive = GradDot(s.sketches, s.tokens, s.targets)
    method = AdditiveLogTerm(
        additive, DistinctDocuments(np.zeros(N, dtype=int), 1).predict, 2.0, s.membership
    )
    before = additive.predict(s.membership)
    np.testing.assert_allclose(
        method.predict(s.membership), (before - before.mean(axis=0)) / before.std(axis=0)
    )


def streamed(s: Setting, blocks: SketchBlocks) -> list[AdditiveAttributor]:
    labels = np.arange(N) % 11
    return [
        TracIn([(blocks, s.targets)], [1.0], s.tokens),
        Trak(blocks, s.tokens, s.targets, s.losses, 0.5),
        BlockInfluence(blocks, s.tokens, s.targets, LAYERS),
        Grouped(lambda g: GradDot(g.sketches, g.sizes, s.targets), group_means(blocks, s.tokens, labels)),
    ]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.integers(1, N))
def test_block_sizes_change_nothing(seed: int, rows: int) -> None:
    s = Setting(seed)
    whole, cut = ArrayBlocks(s.sketches), ArrayBlocks(s.sketches, block_rows=rows)
    for one, other in zip(streamed(s, whole), streamed(s, cut), strict=True):
        np.testing.assert_array_equal(one.scores(), other.scores())
    np.testing.assert_array_equal(
        SecondOrderGroup(whole, s.tokens, s.targets, s.moments, 1.0, 0.5).predict(s.membership),
        SecondOrderGroup(cut, s.tokens, s.targets, s.moments, 1.0, 0.5).predict(s.membership),
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.floats(0, 1))
def test_sum_forms_are_linear_in_membership(seed: int, share: float) -> None:
    s = Setting(seed)
    a, b = s.membership[:1].astype(float), s.membership[1:2].astype(float)
    methods = [
        LossOnly(s.losses, s.tokens, T, form="sum"),
        TracIn([(s.sketches, s.targets)], [1.0], s.tokens, "sum"),
        Trak(s.sketches, s.tokens, s.targets, s.losses, form="sum"),
        BlockInfluence(s.sketches, s.tokens, s.targets, LAYERS, form="sum"),
    ]
    for method in methods:
        np.testing.assert_allclose(
            method.predict(share * a + (1 - share) * b),
            share * method.predict(a) + (1 - share) * method.predict(b),
            rtol=1e-9,
            atol=1e-6,
        )


def test_refusals_of_losses_and_checkpoints() -> None:
    s = Setting()
    with pytest.raises(ConfigError, match="sign is 0"):
        LossOnly(s.losses, s.tokens, T, 0)
    with pytest.raises(InputError, match="one finite loss"):
        LossOnly(s.losses[:-1], s.tokens, T)
    with pytest.raises(ConfigError, match="at least one checkpoint"):
        TracIn([], [], s.tokens)
    with pytest.raises(ConfigError, match="learning rate of 0 or more"):
        TracIn([(s.sketches, s.targets)], [-1.0], s.tokens)
    with pytest.raises(InputError, match="same chunks and tasks"):
        TracIn([(s.sketches, s.targets), (s.sketches[1:], s.targets)], [1.0, 1.0], s.tokens)
    with pytest.raises(ConfigError, match="damping is -1"):
        Trak(s.sketches, s.tokens, s.targets, s.losses, -1)
    with pytest.raises(InputError, match="give one for each of 50"):
        Trak(s.sketches, s.tokens, s.targets, s.losses[1:])
    with pytest.raises(InputError, match="gram has shape"):
        Trak(s.sketches, s.tokens, s.targets, s.losses, gram=np.eye(2))
    s.losses[7] = 0
    with pytest.raises(InputError, match="loss of chunk 7 is 0"):
        Trak(s.sketches, s.tokens, s.targets, s.losses)


def test_refusals_of_blocks() -> None:
    s = Setting()
    with pytest.raises(ConfigError, match="damping above 0"):
        BlockInfluence(s.sketches, s.tokens, s.targets, LAYERS, 0.0)
    for layers in (
        [],
        LAYERS[:2],
        [slice(0, 3), slice(2, 6)],
        [slice(3, 6), slice(0, 3)],
        [*LAYERS, slice(6, 8)],
    ):
        with pytest.raises(InputError, match="do not cover the 6 columns"):
            BlockInfluence(s.sketches, s.tokens, s.targets, layers)
    with pytest.raises(InputError, match="do not go with"):
        BlockInfluence(s.sketches, s.tokens, s.targets[:, 1:], LAYERS)
    s.sketches[:, 5] = 0
    with pytest.raises(InputError, match="block 2 are zero"):
        BlockInfluence(s.sketches, s.tokens, s.targets, LAYERS)


def test_refusals_of_second_order_and_log_distinct() -> None:
    s = Setting()
    with pytest.raises(ConfigError, match="eta is 0"):
        SecondOrderGroup(s.sketches, s.tokens, s.targets, s.moments, 1.0, 0.0).predict(s.membership)
    with pytest.raises(InputError, match="target moments have shape"):
        SecondOrderGroup(s.sketches, s.tokens, s.targets, s.moments[1:], 1.0, 1.0).predict(s.membership)
    with pytest.raises(ConfigError, match="form is"):
        SecondOrderGroup(s.sketches, s.tokens, s.targets, s.moments, 1.0, 1.0, "max").predict(s.membership)  # pyright: ignore[reportArgumentType]
    means = subset_means(s.sketches, s.tokens, s.membership)
    with pytest.raises(InputError, match="disagree in width"):
        second_order_from_means(means, s.targets[:, 1:], s.moments[:, 1:, 1:], None, 1.0, 1.0)
    with pytest.raises(ConfigError, match="corpus's size"):
        second_order_from_means(means, s.targets, s.moments, None, 1.0, 0.0, "sum")
    additive, distinct = RandomScore(s.tokens, T, form="sum"), DistinctDocuments(np.arange(N), 1).predict
    with pytest.raises(ConfigError, match=r"weights are \[-1\]"):
        AdditiveLogTerm(additive, distinct, -1, s.membership)
    with pytest.raises(ConfigError, match="at least one"):
        fit_log_term(additive, distinct, s.membership, np.zeros((M, T)), [])
    with pytest.raises(InputError, match="at least 2"):
        AdditiveLogTerm(additive, distinct, 1.0, s.membership[:1])
    empty = s.membership.copy()
    empty[3] = False
    with pytest.raises(InputError, match="subset 3 holds no documents"):
        AdditiveLogTerm(additive, distinct, 1.0, s.membership).predict(empty)
