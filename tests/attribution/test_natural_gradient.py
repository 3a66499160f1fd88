"""GL against its formulas word by word, and what it is to first order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from grasp_pipeline.arrays import Float32s, TokenLists
from grasp_pipeline.attribution.natural_gradient import NaturalGradientCoverage
from grasp_pipeline.attribution.protocol import Attributor
from grasp_pipeline.errors import ConfigError, InputError

RNG = np.random.default_rng(7)
VOCAB, WIDTH = 9, 4
CHUNKS = TokenLists.of([RNG.integers(0, VOCAB, size=n) for n in RNG.integers(1, 8, size=20)])
QUERIES = TokenLists.of([RNG.integers(0, VOCAB - 2, size=6) for _ in range(4)])
TASK = np.array([0, 1, 1, 0])
TABLE = RNG.standard_normal((VOCAB, VOCAB + 1, WIDTH)).astype(np.float32)


def states(chunks: TokenLists) -> Float32s:
    """A state for every token, of it and the one before."""
    before = np.concatenate([[VOCAB], chunks.tokens[:-1]])
    before[chunks.offsets[:-1]] = VOCAB
    return TABLE[chunks.tokens, before]


def passes(chunks: TokenLists) -> Iterator[tuple[slice, Float32s]]:
    """Hand the states over three tokens at a time."""
    whole = states(chunks)
    for start in range(0, len(whole), 3):
        yield slice(start, min(start + 3, len(whole))), whole[start : start + 3]


def made(**changes: float) -> NaturalGradientCoverage:
    return NaturalGradientCoverage(CHUNKS, QUERIES, TASK, 2, passes, **changes)


def test_predictions_are_the_formulas() -> None:
    subsets = RNG.random((6, CHUNKS.n)) < 0.5
    vocabulary = 1 + int(max(CHUNKS.tokens.max(), QUERIES.tokens.max()))
    counts = np.bincount(CHUNKS.tokens, minlength=vocabulary) + 1
    p = counts / counts.sum()
    f = p * (1 - p) + 0.1 * np.mean(p * (1 - p))
    h, asked = states(CHUNKS).astype(float), states(QUERIES).astype(float)
    second = h.T @ h / len(h)
    inverse = np.linalg.inv(second + 0.01 * np.trace(second) / WIDTH * np.eye(WIDTH))
    chunk = np.repeat(np.arange(CHUNKS.n), CHUNKS.lengths)
    expected = np.zeros((6, 2))
    for s, subset in enumerate(subsets):
        mine = np.flatnonzero(subset[chunk])
        g = np.mean([np.outer(np.eye(vocabulary)[CHUNKS.tokens[j]] - p, h[j]) for j in mine], axis=0)
        step = np.diag(1 / f) @ g @ inverse
        for t in range(2):
            worth = [
                np.log(np.log1p(np.exp(4 * gain)) / 4 + 0.03)
                for q, y in enumerate(QUERIES.tokens)
                if np.repeat(TASK, QUERIES.lengths)[q] == t
                for gain in [1 + (np.eye(vocabulary)[y] - p) @ step @ asked[q]]
            ]
            expected[s, t] = np.mean(worth)
    found = made()
    assert isinstance(found, Attributor)
    np.testing.assert_allclose(found.predict(subsets), expected, rtol=1e-9)


def test_weights_between_0_and_1_count_in_proportion() -> None:
    whole = np.ones((1, CHUNKS.n))
    np.testing.assert_allclose(made().predict(0.5 * whole), made().predict(whole))


def test_bad_requests_are_named() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        made(floor=0.0)
    with pytest.raises(InputError, match="subset 1 holds no tokens"):
        made().predict(np.array([[True] * CHUNKS.n, [False] * CHUNKS.n]))
    with pytest.raises(InputError, match="do not fit"):
        made().predict(np.ones((2, 3), dtype=bool))
    with pytest.raises(InputError, match="task 2 holds no"):
        NaturalGradientCoverage(CHUNKS, QUERIES, TASK, 3, passes)
