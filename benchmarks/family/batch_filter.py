"""The per-batch influence filter (IIF, arXiv 2505.19281): images, text, PPO, with planted bad records."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.family.samples import mean_figure
from benchmarks.published import ROOT, Figure
from grasp_pipeline.arrays import Bools, Floats, Ints, TokenLists
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.corpus.images import load_digits
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.proxy.batch_filter import BatchFilter
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.images import ImageClassifier, ImageStream, image_rows
from grasp_pipeline.proxy.objective import CausalLM, Objective, Parameters, pad_chunks
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.training import Recipe, train_stacked
from grasp_pipeline.seeds import generator

SEEDS, SHARE, BAD = 10, 0.5, 0.25
"""Paired repetitions, share of a batch's harmful records that is left out, share of planted bad records."""

MILDER, RUNNING = 0.1, 0.9
"""A filter for noisy gradients: share left out, and share of the last update's target in the next one's."""

IMAGES, QUERY, IMAGE_RECIPE = 1_200, 200, Recipe(160, 32, 1, 3e-3, 0.1, 0.01, 1.0)
TEXT_SEEDS, CHUNKS, CHUNK_TOKENS = 4, 400, 32
TEXT_RECIPE = Recipe(100, 8, CHUNK_TOKENS, 5e-3, 0.1, 0.01, 1.0)
ENRICHED, FASTER = ">= 1.3", "below 0"


def compared(
    objective: Objective,
    rows: list[Tensor],
    bad: Bools,
    recipe: Recipe,
    target: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    target_rows: int,
) -> tuple[Floats, dict[str, Floats]]:
    """Train each repetition with the filter and without; bad: (K, rows) which rows are planted.

    Returns:
        How many times as often a row that was left out is bad as one of the batches, (K,); and the test loss with the
        filter less that without, in nats per target, after half of the steps and after all, (K,) each.
    """
    batch_filter = BatchFilter(*target, SHARE, target_rows)
    names = [f"repetition {k}" for k in range(len(rows))]
    losses: dict[str, list[Floats]] = {"half": [], "end": []}

    def watch(step: int, _: Tensor, weights: Parameters) -> None:
        when = {recipe.steps // 2 - 1: "half", recipe.steps - 1: "end"}.get(step)
        if when is not None:
            found = stacked_chunk_losses(objective, weights, *test, batch_rows=128)
            losses[when].append(found.numpy().sum(1) / float(test[1].sum()))

    for each in (batch_filter, None):
        train_stacked(objective, objective.parameters(), rows, recipe, names, "cpu", watch, batch_filter=each)
    out = torch.cat(batch_filter.log, dim=1).numpy()
    enriched = (out & bad).sum(1) / out.sum(1) / bad.mean(1)
    return enriched, {when: filtered - plain for when, (filtered, plain) in losses.items()}


def image_figures() -> list[Figure]:
    """Digits: wrong labels are bad, clean images are the target."""
    data, draw = load_digits(), generator("batch filter, digits")
    order = draw.permutation(len(data.labels))
    truth = data.labels[order]
    objective = ImageClassifier(data.images[order], 10, 0)
    rows: list[Tensor] = []
    bad: list[Bools] = []
    for seed in range(SEEDS):
        noise = generator("wrong labels", seed)
        wrong = noise.random(len(truth)) < BAD
        labels = np.where(wrong, (truth + noise.integers(1, 10, len(truth))) % 10, truth)
        mine = ImageStream(labels).rows(np.arange(IMAGES), IMAGE_RECIPE.rows, 1, "batch filter", seed)
        rows.append(torch.from_numpy(mine))
        bad.append(wrong[mine[:, 0]])
    asked = image_rows(np.arange(IMAGES, IMAGES + QUERY), truth)
    test = image_rows(np.arange(IMAGES + QUERY, len(truth)), truth)
    found = compared(objective, rows, np.stack(bad), IMAGE_RECIPE, asked, test, 64)
    return told("digits", "images", *found, f"digits, {BAD:.0%} wrong labels, batches of 32")


def text_figures() -> list[Figure]:
    """The bundled corpus: chunks of random tokens, or with theirs in a random order, are bad; tasks are the target."""
    corpus = pl.read_parquet(ROOT / "data" / "corpus" / "*.parquet").sample(CHUNKS, seed=0, shuffle=True)[
        "text"
    ]
    tasks = pl.read_parquet(ROOT / "data" / "tasks" / "*.parquet").sample(200, seed=0, shuffle=True)["text"]
    encoder = train_bpe(corpus.to_list(), 512)
    pool, asked = (
        [ids[:CHUNK_TOKENS] for ids, _ in encoder.encode(texts.to_list())] for texts in (corpus, tasks)
    )
    model = CausalLM(build_model(ProxyConfig(preset="tiny"), encoder.vocab_size, CHUNK_TOKENS))
    query, test = (pad_chunks(part, encoder.bos, CHUNK_TOKENS) for part in (asked[:100], asked[100:]))
    figures: list[Figure] = []
    for kind, what in (("random tokens", "drawn at random"), ("shuffled tokens", "put in a random order")):
        rows: list[Tensor] = []
        bad: list[Bools] = []
        for seed in range(TEXT_SEEDS):
            draw = generator("spoilt chunks", kind, seed)
            spoilt = draw.random(CHUNKS) < BAD
            lists = [
                (
                    draw.permutation(ids) if kind == "shuffled tokens" else draw.integers(0, 512, len(ids))
                ).tolist()
                if each
                else ids
                for ids, each in zip(pool, spoilt, strict=True)
            ]
            chosen = draw.integers(0, CHUNKS, TEXT_RECIPE.rows)
            rows.append(chunk_rows(TokenLists.of(lists), chosen, encoder.bos))
            bad.append(spoilt[chosen])
        found = compared(model, rows, np.stack(bad), TEXT_RECIPE, query, test, 8)
        note = f"bundled corpus, tokens of {BAD:.0%} of the chunks {what}, batches of 8, proxy tiny"
        figures += told(kind, "sequences", *found, note)
    return figures


def chunk_rows(chunks: TokenLists, chosen: Ints, bos: int) -> Tensor:
    """Return training rows (rows, L + 1), one chunk each; a shorter chunk is repeated to the length."""
    rows = np.empty((len(chosen), CHUNK_TOKENS + 1), dtype=np.int64)
    for row, chunk in zip(rows, chosen, strict=True):
        tokens = chunks.tokens[chunks.offsets[chunk] : chunks.offsets[chunk + 1]]
        row[:] = np.resize(np.concatenate([[bos], tokens]), CHUNK_TOKENS + 1)
    return torch.from_numpy(rows)


def told(name: str, what: str, enriched: Floats, gains: dict[str, Floats], note: str) -> list[Figure]:
    """Return the figures of one form."""
    words = f"{note}; {SHARE:.0%} of the {what} against the target left out, {len(enriched)} paired seeds"
    return [
        mean_figure(f"family.filter_enrichment[{name}]", enriched, "ratio", ENRICHED, words),
        *(
            mean_figure(
                f"family.filter_loss[{name}, {when}]",
                gain,
                "nats",
                FASTER,
                f"{words}; test loss with the filter less that without",
            )
            for when, gain in gains.items()
        ),
    ]


def reinforcement_figures() -> list[Figure]:
    """PPO as examples/filtered_ppo.py trains it, with the filter as published and with a milder one."""
    ppo = _example()
    figures: list[Figure] = []
    for world in ppo.WORLDS:
        plain = [ppo.train(seed, 0.0, world) for seed in range(SEEDS)]
        for setting, share, running in (("", SHARE, 0.0), (", milder", MILDER, RUNNING)):
            filtered = [ppo.train(seed, share, world, running) for seed in range(SEEDS)]
            note = (
                f"PPO, {world}, {ppo.SPOILT:.0%} of the advantages turned, {ppo.ROUNDS} rounds, {share:.0%} of the "
                f"records against the return left out, {SEEDS} paired seeds"
                + (f"; {running:.0%} of the target is the last update's" if running else "")
            )
            figures += [
                mean_figure(
                    f"family.filter_enrichment[PPO, {world}{setting}]",
                    [each.enrichment for each in filtered],
                    "ratio",
                    ENRICHED,
                    note,
                ),
                mean_figure(
                    f"family.filter_return[PPO, {world}{setting}]",
                    [
                        float(np.mean(one.returns - other.returns))
                        for one, other in zip(filtered, plain, strict=True)
                    ],
                    "rewards per episode",
                    "above 0",
                    f"{note}; mean over the rounds with the filter less that without",
                ),
            ]
    return figures


def _example() -> ModuleType:
    """Load the example, which is a script and in no package."""
    spec = spec_from_file_location("filtered_ppo", ROOT / "examples" / "filtered_ppo.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def figures() -> list[Figure]:
    """Measure the member."""
    return image_figures() + text_figures() + reinforcement_figures()
