"""Attribution by unlearning against its formulas, and on a planted source."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import LENGTH, VOCAB, tiny_model

from grasp_pipeline.attribution.skew.ascent import Ascent, mirrored_ascent, skew
from grasp_pipeline.attribution.skew.denoiser import Denoiser, draw, shared_losses, train_denoiser
from grasp_pipeline.attribution.skew.text import masked_losses, text_skew
from grasp_pipeline.errors import ConfigError, TrainingError
from grasp_pipeline.proxy.objective import Parameters, pad_chunks
from grasp_pipeline.seeds import generator


def test_the_skew_is_the_mean_normalised_difference_on_the_same_noise() -> None:
    random = generator("skew")
    above, below = random.uniform(0, 2, (3, 5)), random.uniform(0, 2, (3, 5))
    for i, score in enumerate(skew(above, below)):
        terms = [(above[r, i] - below[r, i]) / (above[r, i] + below[r, i] + 1e-3) for r in range(3)]
        assert score == pytest.approx(sum(terms) / 3)


def valley(target: float) -> tuple:
    """A quadratic loss of one number for the training data, and the query's, which falls towards `target`."""

    def train(weights: Parameters, step: int) -> Tensor:
        return 0.5 * weights["x"].square().sum()

    def query(weights: Parameters, step: int) -> Tensor:
        return (weights["x"] - target).square().sum()

    return train, query


def test_the_ascent_ends_where_the_query_is_as_unknown_as_it_was_and_holds_the_rest() -> None:
    train, query = valley(0.5)
    start = {"x": torch.zeros(1)}
    found = mirrored_ascent(train, query, start, null=0.6, ascent=Ascent(500, 0.01, weight=2.0))
    assert found.steps < 500
    assert 0.95 * 0.6 <= found.query_loss <= 0.7
    assert start["x"].item() == 0, "the trained weights stay as they are"
    never = Ascent(500, 0.01, weight=2.0, stop=1.0)
    bounded = mirrored_ascent(train, query, start, null=0.6, ascent=never)
    free = mirrored_ascent(train, query, start, 1e9, Ascent(500, 0.01, 2.0, bounded=False, mirrored=False))
    assert bounded.query_loss < 0.8 < free.query_loss


def test_a_noisy_copys_source_is_forgotten_first() -> None:
    random = generator("planted source")
    pool = random.choice([-1.0, 1.0], (60, 16)).astype(np.float32)
    query = np.clip(pool[7:8] + 0.1 * random.standard_normal((1, 16)), -1, 1).astype(np.float32)
    denoiser = Denoiser(16, 64)
    trained = train_denoiser(denoiser, pool, np.arange(60), 600, 32, 3e-3, 0)
    null = float(shared_losses(denoiser, denoiser.parameters(), query, 16).mean())
    images, asked = torch.from_numpy(pool), torch.from_numpy(query).expand(16, -1)

    def on_query(weights: Parameters, step: int) -> Tensor:
        return denoiser.losses(weights, asked, *draw("q", step, rows=16, pixels=16)).mean()

    def on_pool(weights: Parameters, step: int) -> Tensor:
        return denoiser.losses(weights, images, *draw("p", step, rows=60, pixels=16)).mean()

    found = mirrored_ascent(on_pool, on_query, trained, null, Ascent())
    both = [shared_losses(denoiser, each, pool, 16, "s") for each in (found.parameters, trained)]
    assert int(np.argmax(skew(*both))) == 7


def test_masked_losses_are_the_models_losses_with_units_switched_off() -> None:
    model = tiny_model("llama")
    chunks = [[3, 4, 5], [9, 8, 7, 6, 5]]
    rows, sizes = pad_chunks(chunks, 0, LENGTH)
    mask = torch.tensor([0.0, 2.0] * 8)
    found = masked_losses(model, model.parameters(), rows, sizes, mask)
    for row, chunk in enumerate(chunks):
        hidden = model.hidden(model.parameters(), rows[row : row + 1, :-1])[0] * mask
        logits = hidden @ model.output_weight(model.parameters()).t()
        terms = [-torch.log_softmax(logits[i], 0)[token] for i, token in enumerate(chunk)]
        assert found[row].item() == pytest.approx((sum(terms) / len(chunk)).item(), rel=1e-4)


def test_text_skew_scores_every_chunk_the_same_way_twice() -> None:
    model = tiny_model("llama")
    random = generator("text skew")
    chunks = [random.integers(0, VOCAB, 8).tolist() for _ in range(9)]
    pool, query = pad_chunks(chunks, 0, LENGTH), pad_chunks([chunks[4]], 0, LENGTH)
    untrained = {name: 0.5 * p for name, p in model.parameters().items()}
    ascent = Ascent(steps=15, rate=1e-2, stop=1.0, mirrored=False, bounded=False)
    scores, found = text_skew(model, model.parameters(), untrained, pool, query, ascent)
    again, _ = text_skew(model, model.parameters(), untrained, pool, query, ascent)
    np.testing.assert_array_equal(scores, again)
    assert found.steps >= 1
    assert int(np.argmax(scores)) == 4


def test_refusals() -> None:
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"weight": 0.0}, {"stop": 1.5}):
        with pytest.raises(ConfigError, match="at least one step"):
            Ascent(**wrong)
    train, _ = valley(0)
    with pytest.raises(TrainingError, match="not finite at step 0"):
        mirrored_ascent(train, lambda w, s: w["x"].sum() / 0, {"x": torch.ones(1)}, 1.0, Ascent())
