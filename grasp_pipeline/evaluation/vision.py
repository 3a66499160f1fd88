"""A cell on images: the vision corpus as a pool with tasks, an image classifier as the proxy, the protocol as it is.

An image is an example of one target, its label; the judge reads n-grams, so images have none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import vq

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.attribution.log_coverage import CoverageForm, LogCoverage
from grasp_pipeline.attribution.partition import group_count, kmeans_groups
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.config import VisionConfigSection
from grasp_pipeline.corpus.events import count_events, given_contexts
from grasp_pipeline.corpus.images import (
    COPIES,
    VisionConfig,
    VisionCorpus,
    build_vision_corpus,
    load_digits,
    load_fashion_mnist,
)
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.evaluation.experiment import CellResult, Protocol, run_cell
from grasp_pipeline.evaluation.proxies import SketchPlan, take_views
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.proxy.images import ImageClassifier, ImageStream, image_rows
from grasp_pipeline.proxy.runs import RunStore, Trainer
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import digest

CLUSTERS = (10, 20, 30)
"""Clusters of images tried as contexts, where the pool has eight images for each on average."""

SMOOTHINGS: dict[CoverageForm, tuple[float, ...]] = {
    "joint": (0.01, 0.03, 0.1, 0.3, 1.0),
    "conditional": (0.0003, 0.001, 0.003, 0.01, 0.03),
}
"""rho tried by form of log-coverage."""

JUDGE_IMAGES = 1
"""Judge images per task: the fewest, since nothing reads them."""

GRADIENT_ROWS = 128
"""Images per batch where whole gradients are formed."""

EXACT_FLOATS = 1 << 26
"""Exact gradients are taken where all of the pool's hold no more floats than this: 256 MiB."""


@dataclass(frozen=True)
class VisionLab:
    """settings: of the cell. corpus: pool and tasks. objective: the classifier. trainer: how it is retrained."""

    settings: VisionConfigSection
    corpus: TaskPool
    objective: ImageClassifier
    trainer: Trainer

    @property
    def name(self) -> str:
        """DATA SET/SEED."""
        return f"{self.settings.data_set}/{self.settings.seed}"


def prepare(settings: VisionConfigSection, stacked_models: int = 16) -> VisionLab:
    """Read the data set, draw the pool and its tasks, and set up the classifier; nothing is trained.

    Raises:
        InputError: the data set cannot be read.
        ConfigError: the data set is too small for the settings.
    """
    fashion = settings.data_set == "fashion_mnist"
    data = load_fashion_mnist(settings.folder) if fashion else load_digits()
    images = build_vision_corpus(data.images, data.labels, vision_config(settings))
    corpus = vision_lab_corpus(settings.data_set, images)
    objective = ImageClassifier(images.images, len(data.class_names), settings.seed)
    initial = {name: p.clone() for name, p in objective.parameters().items()}
    model = digest("image classifier", images.images.shape[1:], len(data.class_names), settings.seed)
    recipe = Recipe(
        settings.steps, settings.batch_images, 1, settings.learning_rate, 0.1, settings.weight_decay, 1.0
    )
    return VisionLab(settings, corpus, objective, Trainer(objective, initial, recipe, model, stacked_models))


def run_vision(lab: VisionLab, store: RunStore, listener: Listener = silent) -> CellResult:
    """Sketch the pool and run the protocol; utilities in the store are not measured again.

    Raises:
        TrainingError: a loss or a sketch is not finite.
    """
    settings, corpus = lab.settings, lab.corpus
    floats = corpus.n * sum(p.numel() for p in lab.trainer.initial.values())
    plan = SketchPlan(
        hidden_dim=settings.output_hidden_dim,
        vocab_dim=lab.objective.vocab_size,
        full_dim=settings.full_dim,
        exact=floats <= EXACT_FLOATS,
        gradient_rows=GRADIENT_ROWS,
    )
    views = take_views(lab.objective, lab.trainer, corpus, lab.trainer.recipe, plan, settings.seed, listener)
    coverages = cluster_coverages(corpus, views.representations, views.query_representations)
    return run_cell(
        lab.name, corpus, lab.trainer, views, protocol(settings), store, lab.name, listener, coverages
    )


def cluster_coverages(
    corpus: TaskPool, features: NDArray[np.float32], query_features: NDArray[np.float32]
) -> dict[str, list[LogCoverage]]:
    """Return log-coverage of images' labels within clusters of their features, by form; what is tuned is tried.

    The event of an image is its label in the context of its cluster. Clusters are fitted on the pool (n, h); a query
    image (Q, h) is of the cluster with the nearest mean.
    """
    labels, asked = corpus.rows[:, 1].numpy(), corpus.query.rows[:, 1].numpy()
    found: dict[str, list[LogCoverage]] = {}
    for groups in CLUSTERS:
        cluster = kmeans_groups(features, group_count(corpus.n, groups), "clusters of images", normalise=True)
        used, cluster = np.unique(cluster, return_inverse=True)
        unit, asked_unit = _directions(features), _directions(query_features)
        means = np.stack([unit[cluster == group].mean(axis=0) for group in range(len(used))])
        nearest, _ = vq(asked_unit, means)
        counts = count_events(
            TokenLists(labels, np.arange(corpus.n + 1)),
            TokenLists(asked, np.arange(len(asked) + 1)),
            corpus.query.task,
            len(corpus.tasks),
            given_contexts(cluster),
            given_contexts(nearest),
        )
        for form, smoothings in SMOOTHINGS.items():
            tried = found.setdefault(f"log-coverage of clusters, {form}", [])
            tried += [LogCoverage(counts, rho, form) for rho in smoothings]
    return found


def _directions(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return features (n, h) of length 1."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms > 0, norms, 1).astype(np.float64)


def vision_config(settings: VisionConfigSection) -> VisionConfig:
    """Return what to make of the data set."""
    return VisionConfig(
        pool=settings.pool,
        duplicate_share=settings.duplicate_share,
        copies_each=settings.copies_each,
        label_noise=settings.label_noise,
        query=settings.query_images,
        judge=JUDGE_IMAGES,
        evaluation=settings.evaluation_images,
        seed=settings.seed,
    )


def protocol(settings: VisionConfigSection) -> Protocol:
    """Return the numbers of subsets per stratum, in the laboratory's proportions, and the grid."""
    sixth, seventh = settings.calibration_subsets // 6, 2 * settings.evaluation_subsets // 7
    third = settings.calibration_subsets // 3
    return Protocol(
        calibration={
            "uniform": sixth,
            "fixed_size": sixth,
            "tilted": settings.calibration_subsets - 2 * sixth - third,
            OPTIMISED: third,
        },
        evaluation={
            "uniform": seventh,
            "fixed_size": seventh,
            "tilted": settings.evaluation_subsets - 2 * seventh,
            OPTIMISED: settings.optimised_tasks,
        },
        evaluation_seeds=settings.seeds,
        confidence=settings.confidence,
        resamples=settings.bootstrap,
        candidates=None,
        metrics=tuple(settings.metrics),
        lambdas=tuple(settings.lambdas),
    )


def vision_lab_corpus(name: str, images: VisionCorpus) -> TaskPool:
    """Return the pool of a vision corpus; every image is a document of its own, its label one token."""
    n = images.n
    rows, _ = image_rows(np.arange(n), images.labels)
    tasks = tuple(sorted({task for task, _ in images.splits}))
    kinds = np.array(["", *COPIES[1:]])[images.copy]
    content = [hashlib.sha256(images.images.tobytes()).hexdigest(), images.labels.tolist()]
    return TaskPool(
        name=name,
        digest=digest(name, content, {" ".join(key): where.tolist() for key, where in images.splits.items()}),
        stream=ImageStream(images.labels),
        rows=rows,
        n_tokens=np.ones(n, dtype=np.int64),
        source=images.source,
        document=np.arange(n),
        cluster=images.cluster,
        planted=np.where((kinds == "") & images.mislabelled, "noise", kinds),
        tasks=tasks,
        query=_held_out(images, tasks, "query"),
        judge=_held_out(images, tasks, "judge"),
        evaluation=_held_out(images, tasks, "evaluation"),
        vocabulary=int(images.labels.max()) + 1,
    )


def _held_out(images: VisionCorpus, tasks: tuple[str, ...], split: str) -> HeldOut:
    parts = [images.splits[task, split] for task in tasks]
    where = np.concatenate(parts)
    rows, sizes = image_rows(where, images.labels)
    task = np.repeat(np.arange(len(tasks)), [len(part) for part in parts])
    return HeldOut(rows, sizes, task, images.base[where])
