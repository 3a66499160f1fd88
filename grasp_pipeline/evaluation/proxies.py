"""A cell's proxy and what it sees of its pool: language models and image classifiers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.corpus.pool import TaskPool
from grasp_pipeline.evaluation.experiment import Views
from grasp_pipeline.progress import Listener, duration, silent
from grasp_pipeline.proxy.objective import CausalLM, Objective, Parameters
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.representations import representations
from grasp_pipeline.proxy.runs import Trainer
from grasp_pipeline.proxy.training import Recipe
from grasp_pipeline.seeds import digest
from grasp_pipeline.sketch.full import FullSketcher
from grasp_pipeline.sketch.layers import LayersSketcher
from grasp_pipeline.sketch.output import OutputSketcher
from grasp_pipeline.sketch.views import (
    Layers,
    View,
    compress,
    exact_view,
    join_layers,
    join_views,
    ngram_view,
    pca_view,
    take_view,
    train_checkpoints,
)

T = TypeVar("T")


@dataclass(frozen=True)
class SketchPlan:
    """Dimensions of the views.

    Attributes:
        hidden_dim, vocab_dim: projected sides of `output`.
        full_dim, sparsity: of `full`.
        layer_dim: both projected sides of `layers`.
        exact: also take the exact gradients, n times P floats.
        batch_tokens: padded tokens per batch.
        gradient_rows: examples per batch where whole gradients are formed.
        ngram_dim: hashed bigram features.
        pca_dim: dimensions that `output` is reduced to, to see what that loses; at most a quarter of the pool.
    """

    hidden_dim: int = 64
    vocab_dim: int = 64
    full_dim: int = 2048
    sparsity: int = 4
    layer_dim: int = 8
    exact: bool = True
    batch_tokens: int = 4096
    gradient_rows: int = 32
    ngram_dim: int = 4096
    pca_dim: int = 128


def text_trainer(
    preset: str, corpus: TaskPool, recipe: Recipe, seed: int, stacked_models: int
) -> tuple[CausalLM, Trainer]:
    """Return a language model of a preset at its seeded initial weights, and how it is retrained."""
    model = build_model(
        ProxyConfig.model_validate({"preset": preset, "seed": seed}), corpus.vocabulary, recipe.chunk_tokens
    )
    objective = CausalLM(model)
    initial = {name: p.clone() for name, p in objective.parameters().items()}
    name = digest("text", preset, corpus.vocabulary, seed)
    return objective, Trainer(objective, initial, recipe, name, stacked_models)


def take_views(
    objective: Objective,
    trainer: Trainer,
    corpus: TaskPool,
    reference: Recipe,
    plan: SketchPlan,
    seed: int,
    listener: Listener = silent,
) -> Views:
    """Train the reference on the whole pool and sketch the pool with every kind.

    The projections of `layers` need a transformers model; other objectives have no such view.

    Raises:
        TrainingError: a loss or a sketch is not finite.
    """
    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - begun
        listener(f"  {name} took {duration(seconds[name])}")
        return result

    found = timed(
        "reference training",
        lambda: train_checkpoints(
            objective, trainer.initial, corpus.stream, np.arange(corpus.n), reference, EARLY_FRACTION, seed
        ),
    )
    final, length = found["reference"], corpus.rows.shape[1] - 1

    def output(weights: Parameters, draw: int) -> OutputSketcher:
        return OutputSketcher(objective, weights, plan.hidden_dim, plan.vocab_dim, draw)

    def full(weights: Parameters, draw: int) -> FullSketcher:
        return FullSketcher(objective, weights, plan.full_dim, plan.sparsity, draw)

    whole = plan.gradient_rows * length
    early = found["early"]

    def taken(draw: int, what: str) -> dict[str, tuple[View, View]]:
        """Return the early and the final view by kind."""
        return {
            "output": (
                timed(
                    f"output early{what}", lambda: take_view(output(early, draw), corpus, plan.batch_tokens)
                ),
                timed(f"output{what}", lambda: take_view(output(final, draw), corpus, plan.batch_tokens)),
            ),
            "full": (
                timed(f"full early{what}", lambda: take_view(full(early, draw), corpus, whole)),
                timed(f"full{what}", lambda: take_view(full(final, draw), corpus, whole)),
            ),
        }

    first = taken(seed, "")
    ngrams = None if corpus.chunks is None else timed("ngrams", lambda: ngram_view(corpus, plan.ngram_dim))
    if ngrams is not None:
        # TRAK weighs examples by their loss, whatever its features are.
        ngrams = compress(replace(ngrams, losses=first["full"][1].losses))

    def kinds(pairs: dict[str, tuple[View, View]]) -> dict[str, View]:
        found = {kind: pair[1] for kind, pair in pairs.items()}
        found |= {kind + TWO_CHECKPOINTS: join_views(pair, corpus.n_tokens) for kind, pair in pairs.items()}
        if ngrams is not None:
            found["ngrams"] = ngrams
            found |= {
                kind + TWO_CHECKPOINTS + NGRAMS: join_views([ngrams, *pair], corpus.n_tokens)
                for kind, pair in pairs.items()
            }
        compressed = {kind: compress(view) for kind, view in found.items()}
        dimension = min(plan.pca_dim, corpus.n // 4)
        reduced = timed(
            f"output{PCA}", lambda: pca_view(compressed["output"], corpus.n_tokens, dimension, seed)
        )
        return compressed | {f"output{PCA}": reduced}

    here, again = kinds(first), kinds(taken(seed + 1, " again"))
    seconds[f"output{PCA}"] += seconds["output"]
    seconds |= {kind + TWO_CHECKPOINTS: seconds[kind] + seconds[f"{kind} early"] for kind in first}
    if ngrams is not None:
        seconds |= {
            kind + TWO_CHECKPOINTS + NGRAMS: seconds[kind + TWO_CHECKPOINTS] + seconds["ngrams"]
            for kind in first
        }
    layers: dict[str, Layers] = {}
    if isinstance(objective, CausalLM):

        def layered(weights: Parameters) -> Layers:
            sketcher = LayersSketcher(objective, weights, plan.layer_dim, plan.layer_dim, seed)
            return take_view(sketcher, corpus, plan.batch_tokens), list(sketcher.blocks.values())

        pair = timed("layers early", lambda: layered(early)), timed("layers", lambda: layered(final))
        layers = {"layers": pair[1], "layers" + TWO_CHECKPOINTS: join_layers(pair, corpus.n_tokens)}
        if ngrams is not None:
            own = ngrams, [slice(0, ngrams.sketches.shape[1])]
            layers["layers" + TWO_CHECKPOINTS + NGRAMS] = join_layers([own, *pair], corpus.n_tokens)
    exact = None
    if plan.exact:
        exact = timed("exact", lambda: exact_view(objective, final, corpus, plan.gradient_rows))
    hidden = timed("representations", lambda: representations(objective, final, corpus.rows, corpus.sizes))
    asked = representations(objective, final, corpus.query.rows, corpus.query.sizes)
    return Views(
        kinds=here,
        second_seed=again,
        design=first["full"][1],
        rivals={kind: here[kind] for kind in ("full", *here) if not kind.endswith(PCA)},
        checkpoints={kind + TWO_CHECKPOINTS: pair for kind, pair in first.items()},
        layers=layers,
        exact=exact,
        representations=hidden,
        seconds=seconds,
        query_representations=asked,
    )


TWO_CHECKPOINTS = "+early"
"""Ending of a kind whose sketches of the early and of the final checkpoint stand side by side."""

PCA = "-pca"
"""Ending of a kind whose sketches are reduced to their principal directions."""

NGRAMS = "+ngrams"
"""Ending of a kind that has n-gram features beside its sketches."""

SKETCHES = ("output", "full")

TEXT_KINDS = (
    *SKETCHES,
    f"output{PCA}",
    *(kind + TWO_CHECKPOINTS for kind in SKETCHES),
    "ngrams",
    *(kind + TWO_CHECKPOINTS + NGRAMS for kind in SKETCHES),
)
"""Every kind that a text cell takes."""

EARLY_FRACTION = 1 / 3
"""Share of the reference training after which the early checkpoint is kept."""
