"""Views of a pool: sketches of every example and of the tasks, by one sketcher at one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grasp_pipeline.arrays import Floats
from grasp_pipeline.corpus.ngram_features import NgramFeatures
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.proxy.objective import Objective, Parameters
from grasp_pipeline.proxy.packing import ExampleStream
from grasp_pipeline.proxy.training import Recipe, train_stacked, unstack
from grasp_pipeline.seeds import generator
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.pca import principal_directions
from grasp_pipeline.sketch.protocol import Sketcher
from grasp_pipeline.sketch.run import sketch_rows


@dataclass(frozen=True)
class View:
    """Sketches of a pool and its tasks in one space.

    Attributes:
        sketches: (n, d) float32 of the pool.
        targets: (T, d) token-weighted means of the query examples.
        losses: (n,) mean token loss, nats.
        queries: (Q, d) of the query examples.
        dimension: d of the sketcher; after `compress` d itself is smaller. Dampings are in units of tr(C) / dimension.
    """

    sketches: NDArray[np.float32]
    targets: Floats
    losses: NDArray[np.float32]
    queries: NDArray[np.float32]
    dimension: int


Layers = tuple[View, Sequence[slice]]
"""A view by layers and the columns of each layer."""


def join_layers(parts: Sequence[Layers], n_tokens: NDArray[np.int64]) -> Layers:
    """Return views by layers side by side, scaled as `join_views` does."""
    slices, start = [], 0
    for view, own in parts:
        slices += [slice(start + each.start, start + each.stop) for each in own]
        start += view.sketches.shape[1]
    return join_views([view for view, _ in parts], n_tokens), slices


def train_checkpoints(
    objective: Objective,
    initial: Parameters,
    stream: ExampleStream,
    members: NDArray[np.int64],
    recipe: Recipe,
    early_fraction: float,
    seed: int,
    device: str = "cpu",
) -> dict[str, Parameters]:
    """Train one model on the pool; returns its parameters `early` and at the end, `reference`.

    Raises:
        TrainingError: the loss is not finite.
    """
    rows = stream.rows(members, recipe.rows, recipe.chunk_tokens, "reference", seed)
    early_step = min(recipe.steps - 1, max(0, round(early_fraction * recipe.steps) - 1))
    kept: dict[str, Parameters] = {}

    def watch(step: int, losses: Tensor, weights: Parameters) -> None:
        if step == early_step:
            kept["early"] = {name: p[0].detach().clone() for name, p in weights.items()}

    weights = train_stacked(
        objective, initial, [torch.from_numpy(rows)], recipe, ["the reference proxy"], device, watch
    )
    return kept | {"reference": unstack(weights, 0)}


def take_view(sketcher: Sketcher, corpus: TaskPool, batch_tokens: int = 4096) -> View:
    """Sketch a pool and its tasks.

    Raises:
        TrainingError: a sketch is not finite; the message names the example.
    """
    sketches, losses = _sketch(sketcher, corpus.rows, corpus.sizes, "pool", batch_tokens)
    queries, _ = _sketch(sketcher, corpus.query.rows, corpus.query.sizes, "query", batch_tokens)
    return View(sketches, corpus.query.task_means(queries, len(corpus.tasks)), losses, queries, sketcher.d)


def join_views(views: Sequence[View], n_tokens: NDArray[np.int64]) -> View:
    """Return views side by side, each scaled to mean squared norm 1 over the pool's tokens.

    For sketches at several checkpoints, and for n-gram features beside gradients. Without the scale the view with the
    largest features, such as the gradients of an early checkpoint, would decide alone. Losses are those of the last
    view; queries are empty where one of the views has none.
    """
    share = n_tokens / n_tokens.sum()
    factors = [1 / np.sqrt(share @ np.square(view.sketches.astype(np.float64)).sum(axis=1)) for view in views]

    def side_by_side(name: str) -> Floats:
        parts = [factor * getattr(view, name) for view, factor in zip(views, factors, strict=True)]
        return np.hstack(parts).astype(np.float64)

    return View(
        side_by_side("sketches").astype(np.float32),
        side_by_side("targets"),
        views[-1].losses,
        side_by_side("queries").astype(np.float32)
        if len({len(view.queries) for view in views}) == 1
        else np.empty((0, sum(view.sketches.shape[1] for view in views)), dtype=np.float32),
        sum(view.dimension for view in views),
    )


def ngram_view(corpus: TaskPool, dimension: int) -> View | None:
    """Return hashed bigram features in place of gradients; None where examples are not text.

    Features are those of `grasp_pipeline.corpus.ngram_features`: no model is needed. Losses are 0.
    """
    if corpus.chunks is None:
        return None
    features = NgramFeatures.fit(corpus.chunks, dimension)
    queries = np.concatenate([features.transform(part) for part in corpus.queries])
    targets = [part.lengths / part.lengths.sum() @ features.transform(part) for part in corpus.queries]
    return View(
        features.transform(corpus.chunks),
        np.stack(targets).astype(np.float64),
        np.zeros(corpus.n, dtype=np.float32),
        queries[np.argsort(np.argsort(corpus.query.task, kind="stable"), kind="stable")],
        dimension,
    )


def pca_view(view: View, n_tokens: NDArray[np.int64], dimension: int, seed: int) -> View:
    """Return the view in the principal directions of half of the pool; see `grasp_pipeline.sketch.pca`.

    The other half and the tasks are projected as what the fit has not seen. Dampings keep their unit, so that nothing
    but the lost directions makes a difference.

    Raises:
        InputError: half of the pool is fewer examples than dimensions.
    """
    order = generator("laboratory", "pca", seed).permutation(len(view.sketches))
    fitted = np.sort(order[: len(order) // 2])
    basis = principal_directions(view.sketches[fitted], n_tokens[fitted], dimension)
    return replace(
        view,
        sketches=view.sketches @ basis,
        targets=view.targets @ basis,
        queries=view.queries @ basis,
    )


def compress(view: View) -> View:
    """Return the view in the span of its sketches and targets: fewer dimensions, the same inner products.

    Every method that works on inner products gives the same results; a pool of fewer examples than dimensions makes
    them much cheaper. A damping in units of the mean eigenvalue, tr(C) / d, means less of it at the smaller d: `Grid`
    corrects for that, rivals have theirs tuned. Query sketches are projected on that span, which is all that
    second moments acting on it see. Views of fewer dimensions are returned as they are.
    """
    rows = np.concatenate([view.sketches.astype(np.float64), view.targets])
    if len(rows) >= rows.shape[1]:
        return view
    basis, _ = np.linalg.qr(rows.T)
    return replace(
        view,
        sketches=(view.sketches @ basis).astype(np.float32),
        targets=view.targets @ basis,
        queries=(view.queries @ basis).astype(np.float32),
    )


def _sketch(
    sketcher: Sketcher, rows: Tensor, sizes: Tensor, what: str, batch_tokens: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    names = [f"{what} {i}" for i in range(len(rows))]
    return sketch_rows(sketcher, rows, sizes, names, batch_tokens)


def query_moments(
    queries: NDArray[np.float32], n_tokens: NDArray[np.int64], task: NDArray[np.int64], n_tasks: int
) -> Floats:
    """Return (T, d, d) token-weighted second moments of each task's query sketches (Q, d); n_tokens, task: (Q,)."""
    weights = n_tokens / n_tokens.sum()
    moments = []
    for t in range(n_tasks):
        mine = task == t
        rows = queries[mine].astype(np.float64) * np.sqrt(weights[mine] / weights[mine].sum())[:, None]
        moments.append(rows.T @ rows)
    return np.stack(moments)


def exact_view(objective: Objective, parameters: Parameters, corpus: TaskPool, batch: int = 16) -> View:
    """Return an isometric view of the exact gradients: all their inner products, in n + T dimensions.

    The Gram matrix of the n gradients and of the tasks' mean gradients is factored by its eigenvectors, so every
    method that works on inner products gives what it would give on the gradients themselves, without a sketch. Query
    sketches are not part of it (empty). Needs n times P floats of memory for P parameters.
    """
    source = FullSketcher(objective, parameters, 1, 1, 0)
    gradients, losses = _gradients(source, corpus.rows, corpus.sizes, batch)
    n_tasks = len(corpus.tasks)
    held, total = corpus.query, torch.zeros(n_tasks, gradients.shape[1])
    share = held.sizes.float()
    for start in range(0, len(held.rows), batch):
        part, _ = _gradients(
            source, held.rows[start : start + batch], held.sizes[start : start + batch], batch
        )
        total.index_add_(
            0,
            torch.from_numpy(held.task[start : start + batch]),
            part * share[start : start + batch, None],
        )
    tokens = torch.zeros(n_tasks).index_add_(0, torch.from_numpy(held.task), share)
    joint = torch.cat([gradients, total / tokens[:, None]])
    values, vectors = np.linalg.eigh((joint @ joint.T).double().numpy())
    kept = values > values[-1] * 1e-9
    embedded = vectors[:, kept] * np.sqrt(values[kept])
    n = corpus.n
    return View(
        embedded[:n].astype(np.float32),
        embedded[n:],
        losses,
        np.empty((0, embedded.shape[1]), dtype=np.float32),
        embedded.shape[1],
    )


def _gradients(
    source: FullSketcher, rows: Tensor, sizes: Tensor, batch: int
) -> tuple[Tensor, NDArray[np.float32]]:
    parts = [
        source.gradients(rows[start : start + batch], sizes[start : start + batch])
        for start in range(0, len(rows), batch)
    ]
    return torch.cat([-part for part, _ in parts]), torch.cat([loss for _, loss in parts]).numpy()
