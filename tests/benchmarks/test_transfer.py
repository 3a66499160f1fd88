"""Transfer: decision accuracy against a double loop, the choice of subsets, a toy transfer from end to end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import LENGTH, random_pool, tiny_model

from benchmarks.laboratory.decisions import (
    CLEAR,
    Estimate,
    bootstrap_decision_accuracy,
    decision_accuracy,
    seed_noise,
)
from benchmarks.laboratory.settings import LaboratorySettings
from benchmarks.laboratory.transfer import (
    TransferFigure,
    TransferResult,
    choose_rows,
    run_transfer,
    transfer_rows,
)
from benchmarks.transfer import over_corpora, transfers
from grasp_pipeline.calibration.grid_predictions import Grid
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult, Views, query_events
from grasp_pipeline.names import EVENTS
from grasp_pipeline.proxy.objective import pad_chunks
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.proxy.runs import MemoryStore, Trainer, measure
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.views import take_view

CHUNKS, TASKS = 40, ("a", "b")
RECIPE = Recipe(6, 2, LENGTH, 1e-2, 0.1, 0.01, 1.0)
STRATA = ("uniform",) * 6 + ("fixed_size",) * 4 + ("tilted",) * 5 + ("task_optimised",) * 6
TARGET = np.array([-1] * 15 + [0, 0, 0, 1, 1, 1])


def slow_accuracy(
    first: np.ndarray,
    second: np.ndarray,
    smallest: float | None = None,
    groups: tuple[str, ...] | None = None,
    drawn: np.ndarray | None = None,
) -> float:
    """One task; `drawn` lists the subsets of a resample."""
    items = range(len(first)) if drawn is None else drawn
    score, pairs = 0.0, 0
    for a, i in enumerate(items):
        for j in list(items)[a + 1 :]:
            if i == j or (smallest is not None and abs(first[i] - first[j]) <= smallest):
                continue
            if groups is not None and groups[i] != groups[j]:
                continue
            pairs += 1
            if first[i] == first[j] or second[i] == second[j]:
                score += 0.5
            else:
                score += (first[i] > first[j]) == (second[i] > second[j])
    return score / pairs if pairs else float("nan")


def two_proxies(m: int = 23, tasks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return correlated utilities with ties in both."""
    rng = generator("test transfer", m)
    first = rng.normal(size=(m, tasks)).round(1)
    return first, (first + rng.normal(size=first.shape)).round(1)


def test_decision_accuracy_equals_the_double_loop() -> None:
    first, second = two_proxies()
    noise = np.array([0.05, 0.3, 5.0])
    groups = tuple("uniform" if i % 3 else "tilted" for i in range(len(first)))
    for t in range(3):
        smallest = CLEAR * np.sqrt(2) * noise[t]
        expected = slow_accuracy(first[:, t], second[:, t])
        assert decision_accuracy(first, second)[t] == pytest.approx(expected)
        expected = slow_accuracy(first[:, t], second[:, t], smallest)
        assert decision_accuracy(first, second, noise)[t] == pytest.approx(expected, nan_ok=True)
        expected = slow_accuracy(first[:, t], second[:, t], groups=groups)
        assert decision_accuracy(first, second, groups=groups)[t] == pytest.approx(expected)
    assert np.isnan(decision_accuracy(first, second, noise)[2])


def test_bootstrap_equals_the_double_loop_over_drawn_subsets() -> None:
    first, second = two_proxies(9)
    estimate = bootstrap_decision_accuracy(first, second, 5, "name")
    every = []
    for drawn in generator("name", "decision accuracy").integers(9, size=(5, 9)):
        slow = [slow_accuracy(first[:, t], second[:, t], drawn=drawn) for t in range(first.shape[1])]
        every.append(np.mean(slow))
    expected = np.mean(every) + (np.array(every) - np.mean(every)) * np.sqrt(9 / 8)
    np.testing.assert_allclose(estimate.draws, expected)
    assert estimate.value == pytest.approx(decision_accuracy(first, second).mean())


def test_bootstrap_of_equal_opposite_and_independent_utilities() -> None:
    rng = generator("test transfer", "independent")
    first, second = rng.normal(size=(2, 60, 4))
    same = bootstrap_decision_accuracy(first, first, 200, "name")
    assert (same.value, *same.interval) == (1.0, 1.0, 1.0)
    opposite = bootstrap_decision_accuracy(first, -first, 200, "name")
    assert (opposite.value, *opposite.interval) == (0.0, 0.0, 0.0)
    low, high = bootstrap_decision_accuracy(first, second, 1000, "name").interval
    assert low < 0.5 < high
    assert high - low < 0.2


def test_clear_pairs_agree_more_where_seeds_are_noisy() -> None:
    rng = generator("test transfer", "noisy")
    truth = rng.normal(size=(60, 4, 1))
    small, large = truth + 0.5 * rng.normal(size=(60, 4, 2)), truth + 0.5 * rng.normal(size=(60, 4, 2))
    noise = seed_noise(small)
    np.testing.assert_allclose(noise, 0.5 / np.sqrt(2), rtol=0.25)
    means = small.mean(axis=2), large.mean(axis=2)
    every = bootstrap_decision_accuracy(*means, 200, "name")
    clear = bootstrap_decision_accuracy(*means, 200, "name", noise)
    assert clear.value > every.value + 0.1


def test_decision_accuracy_says_what_is_wrong() -> None:
    first, second = two_proxies()
    with pytest.raises(ValueError, match="same m subsets"):
        decision_accuracy(first, second[:-1])
    with pytest.raises(ValueError, match="not finite"):
        decision_accuracy(first, np.full_like(second, np.nan))
    with pytest.raises(ConfigError, match="retrain more subsets"):
        bootstrap_decision_accuracy(first, second, 10, "name", np.full(3, 100.0))
    with pytest.raises(ConfigError, match="evaluation_seeds"):
        seed_noise(first[:, :, None])


def toy_corpus() -> TaskPool:
    pool = random_pool(CHUNKS, "transfer pool")
    rows, _ = pad_chunks([pool.chunk(i) for i in range(CHUNKS)], 0, LENGTH)

    def held(name: str) -> HeldOut:
        chunks = random_pool(8, name)
        laid, lengths = pad_chunks([chunks.chunk(i) for i in range(8)], 0, LENGTH)
        return HeldOut(laid, lengths, np.repeat([0, 1], 4), np.arange(8))

    return TaskPool(
        name="toy",
        chunks=pool,
        digest="toy",
        stream=TextStream(pool, 0),
        rows=rows,
        n_tokens=pool.lengths,
        source=np.arange(CHUNKS) % 4,
        document=np.arange(CHUNKS),
        cluster=np.arange(CHUNKS),
        planted=np.full(CHUNKS, ""),
        tasks=TASKS,
        query=held("query"),
        judge=held("judge"),
        evaluation=held("evaluation"),
        vocabulary=61,
    )


def toy_proxy(kind: str, corpus: TaskPool) -> tuple[Trainer, Views]:
    """Return a trainer and its views: one sketch kind, at the initial weights."""
    objective = tiny_model(kind)
    initial = objective.parameters()
    view = take_view(OutputSketcher(objective, initial, 4, 6, 0), corpus)
    views = Views(
        kinds={"output": view},
        second_seed={},
        design=view,
        rivals={"output": view},
        checkpoints={},
        layers={},
        exact=None,
        representations=np.zeros((CHUNKS, 1), np.float32),
        seconds={"output": 1.0},
    )
    return Trainer(objective, initial, RECIPE, kind, 8), views


def toy_cell(corpus: TaskPool, trainer: Trainer, views: Views) -> CellResult:
    rng = generator("test transfer", "members")
    membership = rng.random((len(STRATA), CHUNKS)) < 0.4
    grid = Grid.of(
        views.kinds, corpus.n_tokens, (0.0, 1.0), (0.0, 0.7), query_events(corpus), (0.6,), (0.01,)
    )
    predictions = grid.predict(membership)
    return CellResult(
        name="toy/llama/0",
        tasks=TASKS,
        strata=STRATA,
        target=TARGET,
        utilities=measure(trainer, corpus, membership, range(2), MemoryStore(), "cell"),
        predictions={SELECTED: predictions[1]},
        kinds={SELECTED: "output"},
        configurations=grid.configurations,
        grid_calibration=predictions[:, :3],
        grid_evaluation=predictions,
        calibration_strata=STRATA[:3],
        calibration=np.zeros((3, 2)),
        chosen=1,
        reason="a toy",
        membership=membership,
        contaminated=0,
        seconds={},
    )


@pytest.fixture(scope="module")
def toy() -> tuple[TaskPool, CellResult]:
    torch.set_num_threads(1)
    corpus = toy_corpus()
    return corpus, toy_cell(corpus, *toy_proxy("llama", corpus))


@pytest.fixture(scope="module")
def transfer(toy: tuple[TaskPool, CellResult]) -> TransferResult:
    corpus, cell = toy
    trainer, views = toy_proxy("gpt2", corpus)
    return run_transfer(
        cell, corpus, trainer, views, choose_rows(cell, 18, "toy"), MemoryStore(), "toy transfer"
    )


def test_rows_hold_all_finalists_and_an_even_share_of_every_other_stratum(
    toy: tuple[TaskPool, CellResult],
) -> None:
    _, cell = toy
    rows = choose_rows(cell, 15, "toy")
    labels = [STRATA[row] for row in rows]
    assert rows.tolist() == sorted(set(rows.tolist()))
    counts = {name: labels.count(name) for name in set(STRATA)}
    assert counts == {"task_optimised": 6, "uniform": 3, "fixed_size": 3, "tilted": 3}
    assert rows.tolist() == choose_rows(cell, 15, "toy").tolist()
    assert rows.tolist() != choose_rows(cell, 15, "another").tolist()
    everything = choose_rows(cell, 100, "toy")
    assert everything.tolist() == list(range(len(STRATA)))
    labels = [STRATA[row] for row in choose_rows(cell, 20, "toy")]
    assert labels.count("fixed_size") == 4
    with pytest.raises(ConfigError, match="raise transfer_subsets to 9"):
        choose_rows(cell, 8, "toy")


def test_rows_hold_the_finalists_of_two_tasks_alone(toy: tuple[TaskPool, CellResult]) -> None:
    _, cell = toy
    three = replace(cell, target=np.array([-1] * 15 + [0, 0, 1, 1, 2, 2]))
    rows = choose_rows(three, 10, "toy")
    targets = three.target[rows]
    assert len(set(targets[targets >= 0])) == 2
    assert (targets >= 0).sum() == 4


def test_a_transfer_measures_and_predicts_on_the_other_proxy(
    toy: tuple[TaskPool, CellResult], transfer: TransferResult
) -> None:
    corpus, cell = toy
    trainer, views = toy_proxy("gpt2", corpus)
    members = cell.membership[transfer.rows]
    expected = measure(trainer, corpus, members, [2, 3], MemoryStore(), "again")
    np.testing.assert_allclose(transfer.large, expected, atol=1e-5)
    assert transfer.small.tolist() == cell.utilities[transfer.rows].tolist()
    assert transfer.selected.tolist() == cell.predictions[SELECTED][transfer.rows].tolist()
    own = Grid.of(views.kinds, corpus.n_tokens, (0.0, 1.0), (0.0, 0.7), query_events(corpus), (0.6,), (0.01,))
    assert EVENTS in {each.sketch_kind for each in own.configurations}
    assert own.configurations == transfer.configurations
    np.testing.assert_allclose(transfer.grid, own.predict(members))
    assert not np.allclose(transfer.grid, cell.grid_evaluation[:, transfer.rows])


def test_a_stopped_transfer_goes_on(toy: tuple[TaskPool, CellResult]) -> None:
    corpus, cell = toy
    trainer, _ = toy_proxy("gpt2", corpus)
    store, rows = MemoryStore(), np.arange(0, 21, 4)
    first = run_transfer(cell, corpus, trainer, None, rows, store, "toy", seeds=1)
    heard: list[str] = []
    broken = replace(trainer, initial={})  # of no use for training: everything must come from the store
    again = run_transfer(cell, corpus, broken, None, rows, store, "toy", heard.append, seeds=1)
    assert again.large.tolist() == first.large.tolist()
    assert again.grid.shape == (0, len(rows), 2)


def test_a_transfer_says_what_is_wrong(toy: tuple[TaskPool, CellResult]) -> None:
    corpus, cell = toy
    trainer, views = toy_proxy("gpt2", corpus)

    def attempt(cell: CellResult, rows: list[int], views: Views | None = None, seeds: int = 1) -> Callable:
        return lambda: run_transfer(
            cell, corpus, trainer, views, np.array(rows, dtype=int), MemoryStore(), "toy", seeds=seeds
        )

    for wrong, message in [
        (attempt(replace(cell, tasks=("a", "c")), [0]), "another pool"),
        (attempt(cell, []), "distinct numbers"),
        (attempt(cell, [0, 0]), "distinct numbers"),
        (attempt(cell, [21]), "from 0 to 20"),
        (attempt(cell, [0], seeds=0), "at least 1"),
        (attempt(cell, [0], replace(views, kinds={"full": views.design})), "kind output"),
    ]:
        with pytest.raises(ConfigError, match=message):
            wrong()


def test_a_transfer_is_kept(transfer: TransferResult, tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "transfer.npz"
    origin = {"what": "transfer", "commit": "abc1234", "sources": "of its code"}
    transfer = replace(transfer, origins=({"what": "cell", "commit": "earlier", "sources": ""}, origin))
    transfer.save(path)
    loaded = TransferResult.load(path)
    assert loaded.origins == transfer.origins
    for name, value in transfer.__dict__.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(loaded, name), value)
        else:
            assert getattr(loaded, name) == value
    assert [file.name for file in path.parent.iterdir()] == ["transfer.npz"]
    path.write_bytes(b"cut short")
    with pytest.raises(InputError, match="run the transfer again"):
        TransferResult.load(path)


def synthetic(transfer: TransferResult, large: np.ndarray) -> dict[str, TransferFigure]:
    changed = replace(transfer, large=large)
    return {figure.name: figure for figure in transfer_rows(changed, 200)}


def test_figures_of_a_proxy_that_agrees_in_everything(transfer: TransferResult) -> None:
    figures = synthetic(transfer, transfer.small)
    assert figures["spearman"].estimate.value == 1
    assert figures["decision_accuracy"].estimate.interval == (1, 1)
    assert figures["decision_accuracy_within"].estimate.value == 1
    assert figures["selected_loss"].estimate.interval == (0, 0)
    assert figures["pruned_rank_large"].estimate.value == 1
    assert figures["pruned_gain_small"].estimate.value == figures["pruned_gain_large"].estimate.value
    for figure in figures.values():
        low, high = figure.estimate.interval
        assert low <= high


def test_figures_against_plain_arithmetic(transfer: TransferResult) -> None:
    figures = synthetic(transfer, transfer.large)
    small, large = transfer.small.mean(axis=2), transfer.large.mean(axis=2)
    uniform = [i for i, name in enumerate(transfer.strata) if name == "uniform"]
    for ending, score in (("", small), ("_by_surrogate", transfer.selected)):
        gains, ranks = [], []
        for task in (0, 1):
            finalists = [i for i, target in enumerate(transfer.target) if target == task]
            pick = max(finalists, key=lambda i: score[i, task])
            gains.append(large[pick, task] - np.mean([large[i, task] for i in uniform]))
            ranks.append(1 + sum(large[i, task] > large[pick, task] for i in finalists))
        assert figures[f"pruned_gain_large{ending}"].estimate.value == pytest.approx(np.mean(gains))
        assert figures[f"pruned_rank_large{ending}"].estimate.value == pytest.approx(np.mean(ranks))
    regret = figures["configuration_regret"].estimate
    assert regret.value >= 0
    assert regret.draws.min() >= 0
    loss = figures["selected_on_small"].estimate.value - figures["selected_on_large"].estimate.value
    assert figures["selected_loss"].estimate.value == pytest.approx(loss)


def test_figures_without_sketches_finalists_or_a_second_seed(transfer: TransferResult) -> None:
    bare = replace(
        transfer,
        grid=np.empty((0, len(transfer.rows), 2)),
        target=np.full(len(transfer.rows), -1),
        large=transfer.large[:, :, :1],
    )
    names = {figure.name for figure in transfer_rows(bare, 50)}
    assert {"spearman", "decision_accuracy", "selected_on_large"} <= names
    assert not [name for name in names if name.startswith(("configuration", "pruned"))]


def test_the_benchmark_averages_over_corpora() -> None:
    def row(name: str, value: float) -> TransferFigure:
        return TransferFigure(
            name, Estimate(value, value + np.linspace(-0.1, 0.1, 41)), "nats per token", "why"
        )

    found = list(
        over_corpora("size", "tiny to large", {"x": [row("a", 1.0), row("b", 5.0)], "y": [row("a", 2.0)]})
    )
    assert [figure.figure for figure in found] == ["transfer.size_a", "transfer.size_b"]
    assert found[0].value == 1.5
    reach = 1.959964 * np.linspace(-0.1, 0.1, 41).std()
    assert (found[0].low, found[0].high) == pytest.approx((1.5 - reach, 1.5 + reach))
    assert found[0].note == "tiny to large; x 1.000 (why); y 2.000 (why)"
    assert found[1].value == 5.0


def test_the_benchmark_goes_from_the_first_preset_to_the_larger_and_to_the_second() -> None:
    settings = LaboratorySettings(
        corpora={"x": "x.parquet", "y": "y.parquet"}, presets=["tiny", "gpt2-tiny"], seeds=[0, 1]
    )
    found = transfers(settings)
    assert [(transfer.kind, transfer.name) for transfer in found] == [
        ("size", "x/tiny-to-tiny-4x/0"),
        ("size", "y/tiny-to-tiny-4x/0"),
        ("arch", "x/tiny-to-gpt2-tiny/0"),
        ("arch", "y/tiny-to-gpt2-tiny/0"),
    ]
    assert {transfer.cell for transfer in found} == {"x/tiny/0", "y/tiny/0"}
