"""Images as a laboratory pool: what is planted stays known, splits stay apart, the protocol runs as on text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.config import VisionConfigSection
from grasp_pipeline.corpus.images import (
    VisionConfig,
    VisionCorpus,
    VisionTask,
    build_vision_corpus,
    load_digits,
)
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.errors import InputError
from grasp_pipeline.evaluation import image_contexts
from grasp_pipeline.evaluation.experiment import SELECTED, Protocol
from grasp_pipeline.evaluation.image_contexts import LabelledImages, cluster_coverages, soft_counts
from grasp_pipeline.evaluation.vision import (
    BOTH,
    SOFT,
    prepare,
    protocol,
    run_vision,
    vision_lab_corpus,
)
from grasp_pipeline.proxy.runs import MemoryStore

TASKS = (VisionTask("rotated", ("rotated",)), VisionTask("inverted", ("inverted",), (1, 2, 3)))
CONFIG = VisionConfig(
    pool=120, duplicate_share=0.3, label_noise=0.2, tasks=TASKS, query=6, judge=2, evaluation=9, seed=5
)
TOY = VisionConfigSection(
    pool=100,
    query_images=4,
    evaluation_images=6,
    calibration_subsets=12,
    evaluation_subsets=14,
    optimised_tasks=1,
    steps=10,
    batch_images=8,
    metrics=[1.0],
    lambdas=[0.0, 0.7],
    bootstrap=200,
    full_dim=32,
    output_hidden_dim=4,
    seed=3,
)


@pytest.fixture(scope="module")
def images() -> VisionCorpus:
    digits = load_digits()
    return build_vision_corpus(digits.images, digits.labels, CONFIG)


@pytest.fixture(scope="module")
def pool(images: VisionCorpus) -> TaskPool:
    return vision_lab_corpus("digits", images)


def test_an_example_is_an_image_and_its_label_as_given(images: VisionCorpus, pool: TaskPool) -> None:
    assert pool.n == 120
    assert pool.rows.tolist() == [[i, images.labels[i]] for i in range(120)]
    assert pool.n_tokens.tolist() == [1] * 120
    assert pool.stream.rows(np.array([7, 3]), 2, 1, "a", 0)[:, 1].tolist() in (
        images.labels[[7, 3]].tolist(),
        images.labels[[3, 7]].tolist(),
    )
    assert pool.vocabulary == 10
    assert pool.chunks is None


def test_what_is_planted_stays_known(images: VisionCorpus, pool: TaskPool) -> None:
    kinds, counts = np.unique(pool.planted, return_counts=True)
    found = dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    assert found["exact"] == found["near"] == 18
    wrong = (images.labels != images.true_labels)[:120]
    assert ((pool.planted == "noise") == (wrong & (images.copy == 0))).all()
    for cluster in np.unique(pool.cluster[pool.planted == "exact"]):
        members = pool.cluster == cluster
        assert len(set(images.base[:120][members])) == 1
        assert (pool.planted[members] != "exact").sum() >= 1


def test_tasks_are_sorted_and_hold_their_own_images(images: VisionCorpus, pool: TaskPool) -> None:
    assert pool.tasks == ("inverted", "rotated")
    held = {"query": pool.query, "judge": pool.judge, "evaluation": pool.evaluation}
    for split, part in held.items():
        for code, task in enumerate(pool.tasks):
            rows = part.rows[part.task == code].numpy()
            assert rows[:, 0].tolist() == images.splits[task, split].tolist()
            assert rows[:, 1].tolist() == images.true_labels[images.splits[task, split]].tolist()
    documents = [set(part.document.tolist()) for part in held.values()]
    assert not set.intersection(*documents)
    assert not set(images.base[:120].tolist()) & set.union(*documents)


def test_the_digest_follows_pixels_and_labels(images: VisionCorpus, pool: TaskPool) -> None:
    assert vision_lab_corpus("digits", images).digest == pool.digest
    labels = images.labels.copy()
    labels[0] = (labels[0] + 1) % 10
    assert vision_lab_corpus("digits", replace(images, labels=labels)).digest != pool.digest
    pixels = images.images.copy()
    pixels[-1, 0, 0, 0] = 1 - pixels[-1, 0, 0, 0]
    assert vision_lab_corpus("digits", replace(images, images=pixels)).digest != pool.digest


@pytest.mark.parametrize("count", [12, 13, 48, 100])
def test_every_subset_asked_for_is_in_a_stratum(count: int) -> None:
    made = protocol(
        VisionConfigSection(calibration_subsets=count, evaluation_subsets=count, optimised_tasks=2)
    )
    assert sum(made.calibration.values()) == count
    assert sum(made.evaluation.values()) == count + 2
    assert min(made.calibration.values()) > 0
    assert made.evaluation[OPTIMISED] == 2


def test_the_proportions_are_the_laboratory_s_own() -> None:
    made = protocol(VisionConfigSection(calibration_subsets=48))
    assert made.calibration == Protocol().calibration
    assert made.evaluation == Protocol().evaluation


def test_a_cell_runs_and_measures_nothing_twice() -> None:
    lab = prepare(TOY)
    store = MemoryStore()
    lines: list[str] = []
    first = run_vision(lab, store, lines.append)
    assert first.name == "digits/3"
    assert first.tasks == lab.corpus.tasks
    assert first.utilities.shape == (len(first.strata), 5, 2)
    assert {
        "GradDot",
        "TRAK, default damping",
        "damped influence",
        "log-coverage of clusters, joint",
        "log-coverage of clusters, conditional",
    } <= {method for method, _ in first.predictions}
    assert {c.rho for c in first.configurations} == {1.0}
    assert {c.lam for c in first.configurations} == {0.0, 0.7}
    assert any("surrogate, exact gradients" in method for method, _ in first.predictions)
    standard = [
        (each - each.mean(axis=0)) / each.std(axis=0)
        for each in (first.predictions[SELECTED], first.predictions[SOFT, "mean"])
    ]
    np.testing.assert_allclose(first.predictions[BOTH, "mean"], np.mean(standard, axis=0))
    kept = store.known(lab.trainer.recipe_id(lab.corpus))
    assert len(kept) == 12 + 2 * len(first.strata)

    again = run_vision(prepare(TOY), store)
    assert (again.utilities == first.utilities).all()
    assert (again.predictions[SELECTED] == first.predictions[SELECTED]).all()
    assert len(store.known(lab.trainer.recipe_id(lab.corpus))) == len(kept)


def test_log_coverage_of_clusters_reads_labels_within_clusters(pool: TaskPool) -> None:
    labels = pool.rows[:, 1].numpy()
    asked = pool.query.rows[:, 1].numpy()
    # Clusters that are the tasks' own: each of the pool's sources has a direction of its own.
    corner = np.eye(8, dtype=np.float32)
    found = cluster_coverages(
        LabelledImages(
            corner[pool.source], labels, corner[pool.query.task], asked, pool.query.task, len(pool.tasks)
        )
    )
    assert set(found) == {"log-coverage of clusters, joint", "log-coverage of clusters, conditional"}
    rng = np.random.default_rng(0)
    membership = rng.random((5, pool.n)) < 0.4
    for tried in found.values():
        assert len({(len(c.counts.keys), c.rho) for c in tried}) > 1
        for each in tried:
            assert each.predict(membership).shape == (5, 2)
    joint = found["log-coverage of clusters, joint"][0]
    events = joint.counts.events.toarray()
    assert set(np.unique(events)) <= {0, 1}
    assert (events.sum(axis=1) <= 1).all()
    token = joint.counts.keys & 0xFFFFFFFF
    assert (token[events.argmax(axis=1)] == labels)[events.any(axis=1)].all()
    assert set(token.tolist()) == set(asked.tolist())


def test_soft_clusters_count_an_image_in_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    images = LabelledImages(
        rng.standard_normal((90, 6)).astype(np.float32),
        rng.integers(0, 4, 90),
        rng.standard_normal((14, 6)).astype(np.float32),
        rng.integers(0, 5, 14),
        np.arange(14) % 2,
        2,
    )
    counts = soft_counts(images, clusterings=3)
    events, shares = counts.events.toarray(), counts.contexts.toarray()
    np.testing.assert_allclose(shares.sum(axis=1), 3)
    np.testing.assert_allclose(counts.weights.sum(axis=1), 1)
    label = counts.keys & 0xFFFFFFFF
    for i in range(90):
        np.testing.assert_allclose(events[i], shares[i][counts.context] * (label == images.labels[i]))
    assert ((shares > 0.01) & (shares < 0.99)).any()
    # As the sharpness goes to 0 an image belongs to the nearest cluster of each clustering alone.
    monkeypatch.setattr(image_contexts, "SHARPNESS", 1e-9)
    hard = soft_counts(images, clusterings=3).contexts.toarray()
    np.testing.assert_allclose(hard, np.round(hard), atol=1e-6)
    np.testing.assert_array_equal(hard.sum(axis=1).round(6), 3)
    # Clusterings side by side are the mean of each alone: every one has an equal share of the queries.
    for start in range(0, shares.shape[1], shares.shape[1] // 3):
        part = slice(start * 5, (start + shares.shape[1] // 3) * 5)
        np.testing.assert_allclose(counts.weights[:, part].sum(axis=1), 1 / 3)


def test_a_missing_data_set_says_how_to_get_it(tmp_path: str) -> None:
    settings = VisionConfigSection(data_set="fashion_mnist", folder=str(tmp_path))
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        prepare(settings)
