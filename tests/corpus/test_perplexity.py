"""Query perplexity against a slow twin, and what it is for: junk above text, whatever the language."""

import base64
import math
import random
import string
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grasp_pipeline.corpus import perplexity
from grasp_pipeline.corpus.normalize import document_id
from grasp_pipeline.corpus.perplexity import (
    ALPHA,
    HEAD_BYTES,
    WEIGHT,
    background_sample,
    fit_perplexity,
    perplexity_limit,
)

ENGLISH = (
    "harbour quiet ferry ropes woman basket plums waited gangway nobody spoke gulls everyone the and of a in"
)
RUSSIAN = "гавань тихо паром канаты женщина корзина сливы ждала сходни никто говорил чайки все и в на с"
JAPANESE = "港は静かだった 船が着いた 二人の男が綱を受け取り 女は籠を持って待っていた 誰も話さなかった"


def prose(words: str, seed: int, count: int = 60) -> str:
    return " ".join(random.Random(seed).choices(words.split(), k=count)) + "."


def slow_perplexity(queries: list[str], background: list[str], text: str) -> float:
    def counts(texts: list[str], order: int) -> Counter:
        padded = [b"\n\n" + one.encode() for one in texts]
        return Counter(one[end - order + 1 : end + 1] for one in padded for end in range(2, len(one)))

    def smoothed(texts: list[str], gram: bytes) -> float:
        lower = smoothed(texts, gram[1:]) if len(gram) > 1 else 1 / 256
        grams = counts(texts, len(gram))
        context = sum(count for other, count in grams.items() if other[:-1] == gram[:-1])
        return (grams[gram] + ALPHA * lower) / (context + ALPHA)

    data = b"\n\n" + text.encode()
    total = sum(
        math.log(
            WEIGHT * smoothed(queries, data[end - 2 : end + 1])
            + (1 - WEIGHT) * smoothed(background, data[end - 1 : end + 1])
        )
        for end in range(2, len(data))
    )
    return math.exp(-total / (len(data) - 2))


def test_the_fast_model_agrees_with_the_slow_twin() -> None:
    queries, background = ["abra cadabra", "élan"], ["barbara", "bra bra", "漢字"]
    texts = ["a", "abra", "xyz é", "漢字 bra\n"]
    fast = fit_perplexity(queries, background).perplexity(texts)
    slow = [slow_perplexity(queries, background, text) for text in texts]
    np.testing.assert_allclose(fast, slow, rtol=1e-4)


def test_probabilities_sum_to_one() -> None:
    model = fit_perplexity(["some query text"], ["some background"])
    np.testing.assert_allclose(np.exp(model.log_p.astype(np.float64)).sum(-1), 1, atol=1e-4)


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fit_perplexity([prose(ENGLISH, 0)], [prose(RUSSIAN, 1)])
    whole = model.perplexity([prose(ENGLISH, 2)])
    monkeypatch.setattr(perplexity, "_BATCH_BYTES", 7)
    np.testing.assert_allclose(model.perplexity([prose(ENGLISH, 2)]), whole)


def junk(seed: int) -> list[str]:
    draw = random.Random(seed)
    return [
        base64.b64encode(draw.randbytes(90)).decode(),
        draw.randbytes(60).hex(),
        "".join(draw.choices(string.printable[:94], k=120)),
        "".join(map(chr, draw.choices(range(0x4E00, 0x9FA5), k=60))),
    ]


@pytest.mark.parametrize("queries", [[ENGLISH], [RUSSIAN], [ENGLISH, RUSSIAN, JAPANESE]])
def test_junk_ranks_above_text_of_every_language(queries: list[str]) -> None:
    texts = [prose(words, seed) for seed in range(40) for words in (ENGLISH, RUSSIAN, JAPANESE)]
    texts += [prose(words, 99, 4) for words in (ENGLISH, RUSSIAN, JAPANESE)]
    noise = [one for seed in range(2) for one in junk(seed)]
    everything = texts + noise
    sample = background_sample(everything, [document_id(text) for text in everything])
    model = fit_perplexity([prose(words, seed) for words in queries for seed in range(100, 120)], sample)
    assert model.perplexity(noise).min() > model.perplexity(texts).max()


def test_text_like_the_queries_ranks_below_other_text() -> None:
    english, russian = ([prose(words, seed) for seed in range(30)] for words in (ENGLISH, RUSSIAN))
    sample = background_sample(english + russian, [document_id(text) for text in english + russian])
    model = fit_perplexity([prose(ENGLISH, seed) for seed in range(50, 60)], sample)
    assert model.perplexity(english).max() < model.perplexity(russian).min()


def test_the_sample_ignores_the_order_and_caps_every_document(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["é" * 5_000, *(prose(ENGLISH, seed) for seed in range(30))]
    digests = [document_id(text) for text in texts]
    sample = background_sample(texts, digests)
    assert sample == background_sample(texts[::-1], digests[::-1])
    assert max(len(head.encode()) for head in sample) <= HEAD_BYTES
    monkeypatch.setattr(perplexity, "SAMPLE_BYTES", 1_000)
    assert len(background_sample(texts, digests)) < len(texts)


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=300), st.floats(0.5, 1))
@settings(max_examples=50)
def test_no_more_than_the_share_lies_above_the_limit(values: list[float], quantile: float) -> None:
    array = np.array(values)
    assert (array > perplexity_limit(array, quantile)).mean() <= 1 - quantile + 1e-9


def test_an_empty_text_has_perplexity_one() -> None:
    assert fit_perplexity(["a"], []).perplexity([""]).tolist() == [1.0]
