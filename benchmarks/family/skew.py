"""Attribution by unlearning (MUCS, arXiv 2605.17938): a denoiser of images, and a language model with dropout masks."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.family.samples import mean_figure
from benchmarks.published import ROOT, Figure
from grasp_pipeline.arrays import Float32s, Floats, Ints
from grasp_pipeline.attribution.skew.ascent import Ascent, mirrored_ascent, skew
from grasp_pipeline.attribution.skew.denoiser import Denoiser, draw, shared_losses, train_denoiser
from grasp_pipeline.attribution.skew.text import text_skew
from grasp_pipeline.config import ProxyConfig
from grasp_pipeline.corpus.images import ImageSet, load_digits, load_fashion_mnist
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.proxy.objective import CausalLM, Parameters, pad_chunks
from grasp_pipeline.proxy.presets import build_model
from grasp_pipeline.proxy.training import Recipe, train_stacked, unstack
from grasp_pipeline.seeds import generator

SEEDS, POOL, STEPS, BATCH, WIDTH, RATE = 10, 400, 800, 64, 128, 2e-3
NOISE, DRAWS, TOP, REMOVED = 0.2, 32, 5, 30
"""Noise of the query over its source, draws of the skew, places that count as found, images removed."""

TIMES = 5
"""How many times as much as random removal the named images should raise the query's loss."""

TEXT_SEEDS, CHUNKS, CHUNK_TOKENS, CHANGED = 3, 160, 32, 0.2
TEXT_RECIPE = Recipe(300, 8, CHUNK_TOKENS, 5e-3, 0.1, 0.0, 1.0)


def place(scores: Floats, source: int) -> int:
    """Return the rank of the planted source, 1 the best."""
    return int((scores > scores[source]).sum()) + 1


def image_scores(
    denoiser: Denoiser, trained: Parameters, pool: Float32s, query: Float32s, seed: int
) -> dict[str, Floats]:
    """Return the scores (n,) of the pool by method."""
    n, pixels = pool.shape
    images, asked = torch.from_numpy(pool), torch.from_numpy(query).expand(BATCH // 2, -1)
    null = float(shared_losses(denoiser, denoiser.parameters(), query, DRAWS, "null").mean())

    def on_query(weights: Parameters, step: int) -> Tensor:
        return denoiser.losses(
            weights, asked, *draw("query", seed, step, rows=len(asked), pixels=pixels)
        ).mean()

    def on_pool(weights: Parameters, step: int) -> Tensor:
        chosen = torch.from_numpy(generator("held", seed, step).integers(0, n, BATCH))
        noise = draw("held", seed, step, rows=BATCH, pixels=pixels)
        return denoiser.losses(weights, images[chosen], *noise).mean()

    mirrored, alone = (
        mirrored_ascent(on_pool, on_query, trained, null, Ascent(mirrored=each)).parameters
        for each in (True, False)
    )
    before = shared_losses(denoiser, trained, pool, DRAWS, "skew", seed)
    after = shared_losses(denoiser, mirrored, pool, DRAWS, "skew", seed)
    return {
        "MUCS": skew(after, before),
        "not mirrored": skew(shared_losses(denoiser, alone, pool, DRAWS, "skew", seed), before),
        "other noise": skew(shared_losses(denoiser, mirrored, pool, DRAWS, "another", seed), before),
        "difference": (after - before).mean(axis=0),
        "nearest neighbours": -np.square(pool - query).sum(axis=1).astype(np.float64),
    }


def image_figures(kind: str, data: ImageSet, of: str = "") -> list[Figure]:
    """The query is a noisy copy of one training image; of: begins the names in the figures' brackets."""
    images = (data.images.reshape(len(data.labels), -1) * 2 - 1).astype(np.float32)
    places: dict[str, list[int]] = {}
    raised: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        random = generator(f"skew, {kind}", seed)
        pool = images[random.permutation(len(images))[:POOL]]
        source = int(random.integers(POOL))
        query = np.clip(pool[source] + NOISE * random.standard_normal(pool.shape[1]), -1, 1)[None].astype(
            np.float32
        )
        denoiser = Denoiser(pool.shape[1], WIDTH, seed)

        def train(
            members: Ints, denoiser: Denoiser = denoiser, pool: Float32s = pool, seed: int = seed
        ) -> Parameters:
            return train_denoiser(denoiser, pool, members, STEPS, BATCH, RATE, seed)

        def asked(weights: Parameters, denoiser: Denoiser = denoiser, query: Float32s = query) -> float:
            return float(shared_losses(denoiser, weights, query, 256, "judge").mean())

        trained = train(np.arange(POOL))
        scores = image_scores(denoiser, trained, pool, query, seed)
        removed = {
            name: np.argsort(-scores[name], kind="stable")[:REMOVED]
            for name in ("MUCS", "nearest neighbours")
        }
        removed["random"] = random.permutation(POOL)[:REMOVED]
        whole = asked(trained)
        for name, values in scores.items():
            places.setdefault(name, []).append(place(values, source))
        for name, gone in removed.items():
            raised.setdefault(name, []).append(asked(train(np.setdiff1d(np.arange(POOL), gone))) - whole)
    note = f"denoiser of {POOL} {kind}, the query a noisy copy of one, {SEEDS} seeds"
    found = {name: sum(each <= TOP for each in ranks) for name, ranks in places.items()}
    means = {name: float(np.mean(each)) for name, each in raised.items()}
    goal = {"MUCS": ">= 9"}
    figures = [
        Figure(
            f"family.skew_found[{of}{name}]",
            count,
            f"of {SEEDS} seeds",
            goal.get(name, ""),
            note=f"{note}; source in the top {TOP}; its places {', '.join(map(str, places[name]))}",
        )
        for name, count in found.items()
    ]
    figures += [
        mean_figure(
            f"family.skew_raised[{of}{name}]",
            values,
            "squared error",
            "",
            f"{note}; after removing {REMOVED}, less before",
        )
        for name, values in raised.items()
    ]
    figures += [
        mean_figure(
            f"family.skew_raised_beyond[{of}{name}]",
            [mine - TIMES * luck for mine, luck in zip(raised[name], raised["random"], strict=True)],
            "squared error",
            "above 0" if name == "MUCS" else "",
            f"{note}; what removing {REMOVED} raises, less {TIMES} times what removing {REMOVED} at random does",
        )
        for name in ("MUCS", "nearest neighbours")
    ]
    if means["random"] <= 0:  # then there is no ratio
        return figures
    figures += [
        Figure(
            f"family.skew_raised_over_random[{of}{name}]",
            means[name] / means["random"],
            "ratio",
            f">= {TIMES}" if name == "MUCS" else "",
            note=f"{note}; means over the seeds; random removal raises it by {means['random']:.5f}",
        )
        for name in ("MUCS", "nearest neighbours")
    ]
    return figures


def text_figures() -> list[Figure]:
    """The bundled corpus: the query is a chunk some of whose tokens are changed."""
    documents = pl.read_parquet(ROOT / "data" / "corpus" / "*.parquet").sample(
        3 * CHUNKS, seed=0, shuffle=True
    )
    texts = documents["text"].to_list()
    encoder = train_bpe(texts, 512)
    chunks = [ids[:CHUNK_TOKENS] for ids, _ in encoder.encode(texts) if len(ids) >= CHUNK_TOKENS][:CHUNKS]
    places: dict[str, list[int]] = {"MUCS": [], "not mirrored": [], "shared tokens": []}
    for seed in range(TEXT_SEEDS):
        random = generator("skew, text", seed)
        source = int(random.integers(len(chunks)))
        changed = random.random(CHUNK_TOKENS) < CHANGED
        query = np.where(changed, random.integers(0, 512, CHUNK_TOKENS), chunks[source]).tolist()
        model = CausalLM(build_model(ProxyConfig(preset="tiny", seed=seed), encoder.vocab_size, CHUNK_TOKENS))
        initial = {name: p.clone() for name, p in model.parameters().items()}
        pool, asked = (pad_chunks(each, encoder.bos, CHUNK_TOKENS) for each in (chunks, [query]))
        rows = pool[0][torch.from_numpy(random.integers(0, len(chunks), TEXT_RECIPE.rows))]
        trained = unstack(train_stacked(model, initial, [rows], TEXT_RECIPE, ["the proxy"]), 0)
        for name, mirrored in (("MUCS", True), ("not mirrored", False)):
            scores, _ = text_skew(model, trained, initial, pool, asked, Ascent(steps=60, mirrored=mirrored))
            places[name].append(place(scores, source))
        shared = np.array([len(set(chunk) & set(query)) for chunk in chunks], dtype=np.float64)
        places["shared tokens"].append(place(shared, source))
    note = f"proxy tiny, {len(chunks)} chunks, the query one of them with {CHANGED:.0%} of its tokens changed"
    return [
        Figure(
            f"family.skew_found_text[{name}]",
            sum(each <= TOP for each in ranks),
            f"of {TEXT_SEEDS} seeds",
            note=f"{note}; source in the top {TOP}; its places {', '.join(map(str, ranks))}",
        )
        for name, ranks in places.items()
    ]


def figures() -> list[Figure]:
    """Measure the member; Fashion-MNIST is that of the Debian package dataset-fashion-mnist."""
    digits = image_figures("digits", load_digits())
    fashion = image_figures("images of Fashion-MNIST", load_fashion_mnist(), "Fashion-MNIST, ")
    return digits + fashion + text_figures()
