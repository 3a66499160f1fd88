"""A cell on images: the vision corpus as a pool with tasks, an image classifier as the proxy, the protocol as it is.

An image is an example of one target, its label; the judge reads n-grams, so images have none.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.attribution.log_coverage import LogCoverage
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.config import VisionConfigSection
from grasp_pipeline.corpus.images import (
    COPIES,
    VisionConfig,
    VisionCorpus,
    build_vision_corpus,
    load_digits,
    load_fashion_mnist,
)
from grasp_pipeline.corpus.pool import HeldOut, TaskPool
from grasp_pipeline.evaluation.experiment import SELECTED, CellResult, Protocol, Views, run_cell
from grasp_pipeline.evaluation.image_contexts import LabelledImages, cluster_coverages, soft_coverages
from grasp_pipeline.evaluation.proxies import SketchPlan, take_views
from grasp_pipeline.progress import Listener, silent
from grasp_pipeline.proxy.images import ImageClassifier, ImageStream, image_rows
from grasp_pipeline.proxy.runs import RunStore, Trainer
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import digest

SOFT = "log-coverage of soft clusters"
BOTH = "log-coverage of soft clusters and the surrogate"
"""Names of methods: the best form of log-coverage on images, and the mean of it and the surrogate."""

JUDGE_IMAGES = 1
"""Judge images per task: the fewest, since nothing reads them."""

GRADIENT_ROWS = 128
"""Images per batch where whole gradients are formed."""

EXACT_FLOATS = 1 << 26
"""Exact gradients are taken where all of the pool's hold no more floats than this: 256 MiB."""


@dataclass(frozen=True)
class VisionLab:
    """settings: of the cell. corpus: pool and tasks. objective: the classifier. trainer: how it is retrained.

    images: (N, C, H, W) of the pool and the held-out ones, as examples name them.
    """

    settings: VisionConfigSection
    corpus: TaskPool
    objective: ImageClassifier
    trainer: Trainer
    images: NDArray[np.float32]

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
    trainer = Trainer(objective, initial, recipe, model, stacked_models)
    return VisionLab(settings, corpus, objective, trainer, images.images)


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
    forms = coverages(lab, views)
    return with_mean(
        run_cell(lab.name, corpus, lab.trainer, views, protocol(settings), store, lab.name, listener, forms)
    )


def coverages(lab: VisionLab, views: Views) -> dict[str, list[LogCoverage]]:
    """Return log-coverage of images' labels in clusters of features, by name: what is tried to beat additive methods.

    Features are the trained network's; the pixels are for comparison, as one soft clustering is for four.
    """
    corpus = lab.corpus
    where, asked = corpus.rows[:, 0].numpy(), corpus.query.rows[:, 0].numpy()
    trained = LabelledImages(
        views.representations,
        corpus.rows[:, 1].numpy(),
        views.query_representations,
        corpus.query.rows[:, 1].numpy(),
        corpus.query.task,
        len(corpus.tasks),
    )
    pixels = lab.images.reshape(len(lab.images), -1)
    raw = replace(trained, features=pixels[where], query_features=pixels[asked])
    return cluster_coverages(trained) | {
        SOFT: soft_coverages(trained),
        "log-coverage of soft clusters, one clustering": soft_coverages(trained, clusterings=1),
        "log-coverage of soft clusters of pixels": soft_coverages(raw),
    }


def with_mean(cell: CellResult) -> CellResult:
    """Return a cell with the mean of surrogate and soft log-coverage, each standardised task by task."""
    parts = [cell.predictions[SELECTED], cell.predictions[SOFT, "mean"]]
    mean = np.mean([(each - each.mean(axis=0)) / each.std(axis=0) for each in parts], axis=0)
    return replace(
        cell,
        predictions={**cell.predictions, (BOTH, "mean"): mean},
        kinds={**cell.kinds, (BOTH, "mean"): cell.kinds[SELECTED]},
    )


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
