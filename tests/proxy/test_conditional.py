"""Fine-tuning on wanted texts lowers the loss of chunks like them most."""

from __future__ import annotations

import numpy as np
import torch
from toys import tiny_model

from grasp_pipeline.arrays import TokenLists
from grasp_pipeline.proxy.conditional import TUNING_SHARE, TUNING_STEPS, fine_tune
from grasp_pipeline.proxy.evaluation import stacked_chunk_losses
from grasp_pipeline.proxy.objective import pad_chunks
from grasp_pipeline.proxy.packing import TextStream
from grasp_pipeline.proxy.training import Recipe, train_stacked, unstack
from grasp_pipeline.seeds import generator

RECIPE = Recipe(500, 2, 16, 0.02, 0.1, 0.01, 1.0)


def pool(name: str, low: int, high: int, count: int = 30) -> TokenLists:
    draw = generator("conditional", name)
    return TokenLists(draw.integers(low, high, 16 * count).astype(np.int32), np.arange(count + 1) * 16)


def test_chunks_like_the_wanted_texts_gain_most() -> None:
    model = tiny_model("llama")
    reference = model.parameters()
    texts = {"query": pool("query", 1, 20), "judge": pool("judge", 20, 40)}
    weights = fine_tune(model, reference, texts, RECIPE, bos=0)
    chunks = [pool(f"low {i}", 1, 20, 1).chunk(0) for i in range(8)]
    chunks += [pool(f"high {i}", 20, 40, 1).chunk(0) for i in range(8)]
    rows = pad_chunks(chunks, 0, 16)
    query, judge = stacked_chunk_losses(model, weights, *rows).numpy()
    (before,) = stacked_chunk_losses(model, {k: p[None] for k, p in reference.items()}, *rows).numpy()
    gained = np.stack([before - query, before - judge])
    assert gained[0, :8].min() > gained[0, 8:].max()
    assert gained[1, 8:].min() > gained[1, :8].max()


def test_texts_tuned_together_are_as_if_tuned_alone() -> None:
    """Against one training of one model."""
    model = tiny_model("llama")
    texts = {"query": pool("query", 1, 20), "judge": pool("judge", 20, 40)}
    together = fine_tune(model, model.parameters(), texts, RECIPE, bos=0)
    short = Recipe(TUNING_STEPS, 2, 16, TUNING_SHARE * 0.02, 0.1, 0.01, 1.0)
    rows = TextStream(texts["judge"], 0).rows(np.arange(30), short.rows, 16, "conditional", "judge")
    alone = train_stacked(model, model.parameters(), [torch.from_numpy(rows)], short, ["alone"])
    for name, p in unstack(alone, 0).items():
        torch.testing.assert_close(together[name][1], p, rtol=1e-3, atol=1e-4)
