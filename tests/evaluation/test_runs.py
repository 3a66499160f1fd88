"""Measured utilities: those of retraining one by one, measured once, resumed, kept exactly by memory and by Delta."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_toys import RECIPE, TASKS, CountingStore, toy_subsets

import grasp_pipeline.proxy.runs as laboratory_measure
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.proxy.retrain import Job, Run, retrain
from grasp_pipeline.proxy.runs import MemoryStore, RunStore, Trainer, job_of, measure
from resources.delta.commits import Provenance
from resources.delta.tables import DeltaTables
from resources.runs import DeltaRuns

SEEDS = (3, 0)


@pytest.fixture(scope="module")
def membership(corpus: TaskPool) -> np.ndarray:
    return toy_subsets(corpus, 2, "measure")


@pytest.fixture
def retrained(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Every (subset, seed) that is really retrained, as it happens."""
    runs: list[Run] = []

    def watched(*given: Any, **named: Any) -> Any:
        for outcome in retrain(*given, **named):
            runs.append(outcome.run)
            yield outcome

    monkeypatch.setattr(laboratory_measure, "retrain", watched)
    return runs


def test_utilities_are_those_of_retraining_one_by_one(
    corpus: TaskPool, trainer: Trainer, membership: np.ndarray
) -> None:
    """The slow twin: one model at a time; minus the summed loss of a task's examples over their tokens."""
    fast = measure(trainer, corpus, membership, SEEDS, MemoryStore(), "toy")
    held = corpus.evaluation
    slow = np.empty((len(membership), len(corpus.tasks), len(SEEDS)))
    for i, members in enumerate(membership):
        for s, seed in enumerate(SEEDS):
            job = Job(corpus.subset_id(members), np.flatnonzero(members), seed)
            (outcome,) = retrain(
                trainer.objective, trainer.initial, corpus.stream, [job], RECIPE, (held.rows, held.sizes), 1
            )
            for task in range(len(corpus.tasks)):
                mine = np.flatnonzero(held.task == task)
                slow[i, task, s] = -sum(outcome.chunk_losses[e] for e in mine) / sum(
                    held.n_tokens[e] for e in mine
                )
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-5)
    assert np.ptp(fast, axis=0).min() > 1e-3, "subsets differ"
    assert np.ptp(fast, axis=2).min() > 1e-5, "seeds differ"


def test_queries_are_measured_on_the_same_models(
    corpus: TaskPool, trainer: Trainer, membership: np.ndarray, retrained: list[Run]
) -> None:
    """The first T are the utilities; the last T those of a pool whose query examples are measured instead."""
    store, tasks = CountingStore(), len(corpus.tasks)
    both = measure(trainer, corpus, membership, SEEDS, store, "toy", queries=True)
    assert len(retrained) == len(membership) * len(SEEDS)
    plain = measure(trainer, corpus, membership, SEEDS, store, "toy")
    asked = measure(
        trainer, replace(corpus, evaluation=corpus.query), membership, SEEDS, MemoryStore(), "toy"
    )
    np.testing.assert_allclose(both[:, :tasks], plain, rtol=0, atol=1e-5)
    np.testing.assert_allclose(both[:, tasks:], asked, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(
        measure(trainer, corpus, membership, SEEDS, store, "toy", queries=True), both
    )


def test_task_means_weigh_examples_by_tokens(corpus: TaskPool) -> None:
    held = corpus.evaluation
    values = np.arange(len(held.rows) * 2.0).reshape(-1, 2)
    slow = np.zeros((3, 2))
    for task in range(3):
        pairs = [(held.n_tokens[i], values[i]) for i in range(len(values)) if held.task[i] == task]
        slow[task] = sum(w * v for w, v in pairs) / sum(w for w, _ in pairs)
    np.testing.assert_allclose(held.task_means(values, 3), slow)
    np.testing.assert_allclose(held.task_means(values[:, 0], 3), slow[:, 0])


def test_nothing_is_retrained_twice(
    corpus: TaskPool, trainer: Trainer, membership: np.ndarray, retrained: list[Run]
) -> None:
    store = CountingStore()
    doubled = np.concatenate([membership[:3], membership[:2]])
    first = measure(trainer, corpus, doubled, (0,), store, "toy")
    assert len(retrained) == len(set(retrained)) == 3
    np.testing.assert_array_equal(first[3:], first[:2])
    more = measure(trainer, corpus, membership, (0, 1), store, "toy")
    assert len(retrained) == len(set(retrained)) == 2 * len(membership)
    assert sorted(store.kept) == sorted(retrained)
    np.testing.assert_array_equal(more[:3, :, :1], first[:3])
    again = measure(trainer, corpus, membership[::-1], (1, 0), store, "toy")
    assert len(retrained) == 2 * len(membership)
    np.testing.assert_array_equal(again, more[::-1, :, ::-1])


def test_another_recipe_model_or_pool_is_measured_anew(
    corpus: TaskPool, trainer: Trainer, membership: np.ndarray, retrained: list[Run]
) -> None:
    store = MemoryStore()
    one = membership[:1]
    first = measure(trainer, corpus, one, (0,), store, "toy")
    faster = replace(trainer, recipe=replace(RECIPE, learning_rate=1e-3))
    assert not np.allclose(measure(faster, corpus, one, (0,), store, "toy"), first)
    measure(replace(trainer, model="another"), corpus, one, (0,), store, "toy")
    measure(trainer, replace(corpus, digest="another"), one, (0,), store, "toy")
    assert len(retrained) == 4
    measure(replace(trainer, stacked_models=2), corpus, one, (0,), store, "toy")
    assert len(retrained) == 4, "how many models are trained together does not matter"


def test_an_interruption_loses_at_most_one_batch(
    corpus: TaskPool,
    trainer: Trainer,
    membership: np.ndarray,
    retrained: list[Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(laboratory_measure, "KEEP_EVERY", 4)
    trainer = replace(trainer, stacked_models=4)
    whole = measure(trainer, corpus, membership, SEEDS, MemoryStore(), "toy")
    retrained.clear()

    class Stops(CountingStore):
        def keep(self, *arguments: Any) -> None:
            super().keep(*arguments)
            if len(self.kept) == 8:
                raise KeyboardInterrupt

    store = Stops()
    with pytest.raises(KeyboardInterrupt):
        measure(trainer, corpus, membership, SEEDS, store, "toy")
    assert len(store.kept) == len(retrained) == 8
    np.testing.assert_allclose(
        measure(trainer, corpus, membership, SEEDS, store, "toy"), whole, rtol=0, atol=1e-5
    )
    assert len(retrained) == len(set(retrained)) == whole[:, 0].size

    class Breaks(CountingStore):
        def keep(self, *arguments: Any) -> None:
            if len(self.kept) == 4:
                raise OSError("the disk is full")
            super().keep(*arguments)

    broken = Breaks()
    with pytest.raises(OSError, match="disk"):
        measure(trainer, corpus, membership, SEEDS, broken, "toy")
    assert len(broken.kept) == 4, "one batch was kept, the next is lost"


class TestDelta:
    """The store of utilities in a Delta table."""

    @staticmethod
    def store(folder: Path, split: str = "laboratory", tasks: tuple[str, ...] = TASKS) -> DeltaRuns:
        provenance = Provenance("run", "test", "1", "c")
        return DeltaRuns.laboratory(DeltaTables(str(folder)), provenance, split, tasks, 120)

    @staticmethod
    def utilities(*runs: Run, offset: float = 0.0) -> dict[Run, np.ndarray]:
        return {run: np.array([-1 / 3, -np.pi, -1e-17]) - offset - i for i, run in enumerate(runs)}

    @staticmethod
    def same(found: Any, expected: dict[Run, np.ndarray]) -> bool:
        return set(found) == set(expected) and all(
            found[run].dtype == np.float64 and found[run].tolist() == expected[run].tolist()
            for run in expected
        )

    def test_what_is_kept_is_returned_exactly(self, tmp_path: Path) -> None:
        store: RunStore = self.store(tmp_path)
        assert dict(store.known("r")) == {}
        first, second = self.utilities(("a", 0), ("b", 0), ("a", 1)), self.utilities(("c", 7), offset=9.0)
        store.keep("r", first, {})
        store.keep("r", second, {})
        assert self.same(self.store(tmp_path).known("r"), first | second)
        assert dict(store.known("another recipe")) == {}

    def test_splits_are_apart(self, tmp_path: Path) -> None:
        one, other = self.store(tmp_path), self.store(tmp_path, "transfer")
        runs = self.utilities(("a", 0))
        one.keep("r", runs, {})
        assert dict(other.known("r")) == {}
        other.keep("r", self.utilities(("a", 0), offset=5.0), {})
        assert self.same(one.known("r"), runs)

    def test_recipes_are_apart(self, tmp_path: Path) -> None:
        """The same subsets under another recipe must not push the first recipe's utilities out."""
        store = self.store(tmp_path)
        first, second = self.utilities(("a", 0), ("b", 0)), self.utilities(("a", 0), offset=5.0)
        store.keep("first", first, {})
        store.keep("second", second, {})
        assert self.same(store.known("second"), second)
        assert self.same(store.known("first"), first), f"kept 2 runs, found {sorted(store.known('first'))}"

    def test_values_are_in_the_order_of_the_tasks_that_are_asked_for(self, tmp_path: Path) -> None:
        tasks, runs = ("news", "code", "french"), self.utilities(("a", 0), ("b", 1))
        self.store(tmp_path, tasks=tasks).keep("r", runs, {})
        assert self.same(self.store(tmp_path, tasks=tasks).known("r"), runs)
        assert self.store(tmp_path).known("r")["a", 0].tolist() == runs["a", 0][[1, 2, 0]].tolist()

    def test_a_measurement_goes_on_from_the_table(
        self,
        tmp_path: Path,
        corpus: TaskPool,
        trainer: Trainer,
        membership: np.ndarray,
        retrained: list[Run],
    ) -> None:
        part = measure(trainer, corpus, membership[:4], SEEDS, self.store(tmp_path), "toy")
        whole = measure(trainer, corpus, membership, SEEDS, self.store(tmp_path), "toy")
        assert len(retrained) == len(set(retrained)) == whole[:, 0].size
        np.testing.assert_array_equal(whole[:4], part)
        np.testing.assert_array_equal(
            measure(trainer, corpus, membership, SEEDS, self.store(tmp_path), "toy"), whole
        )


class TestScaleModel:
    def test_clusters_are_whole_and_the_same_for_every_subset_of_a_seed(self, corpus: TaskPool) -> None:
        full = np.ones(corpus.n, dtype=bool)
        part = np.arange(corpus.n) % 3 > 0
        seen: list[set[int]] = []
        for seed in range(6):
            members = set(job_of(corpus, full, seed, 0.5).members.tolist())
            drawn = {int(corpus.cluster[i]) for i in members}
            assert members == {i for i in range(corpus.n) if int(corpus.cluster[i]) in drawn}
            assert job_of(corpus, part, seed, 0.5).members.tolist() == [i for i in sorted(members) if part[i]]
            seen.append(drawn)
        assert len({frozenset(drawn) for drawn in seen}) == 6
        clusters = len(np.unique(corpus.cluster))
        assert 0.3 < np.mean([len(drawn) for drawn in seen]) / clusters < 0.7

    def test_it_is_named_like_the_whole(self, corpus: TaskPool) -> None:
        """Its subset is the same one; the recipe under which a run is kept tells them apart."""
        part = np.arange(corpus.n) % 3 > 0
        assert job_of(corpus, part, 1, 0.5).run == job_of(corpus, part, 1).run
        assert job_of(corpus, part, 1).members.tolist() == np.flatnonzero(part).tolist()
