"""Perplexity of documents under the tasks' query texts: a byte trigram model backed by the corpus's bigrams.

With c the n-gram counts of the query texts, c' those of the background, and bytes x, y, b:

    q1(b)      = (c(b) + alpha / 256) / (c + alpha)
    q2(b|y)    = (c(yb) + alpha q1(b)) / (c(y) + alpha)
    q3(b|xy)   = (c(xyb) + alpha q2(b|y)) / (c(xy) + alpha)
    p(b|xy)    = weight q3(b|xy) + (1 - weight) q2'(b|y)          q2' from c' as q2 from c
    perplexity = exp(- mean over the document's bytes of log p)   per byte

The background is a sample of the corpus itself. Without it (weight 1) every document in a script that no
query uses scores above random bytes: measured on manual pages in 6 languages, English prose and Python with
2% planted junk (base64, hex, random characters...), the 1% of highest perplexity held 7-20% junk when the
queries were in one or two languages; with it 100%. Bytes keep the model meaningful for short documents and
every script; higher orders or a background of trigrams, which learns the junk by heart, measured no better.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.progress import Listener, Progress, silent

ALPHA = 4.0
WEIGHT = 0.5
HEAD_BYTES = 1_000
SAMPLE_BYTES = 4_000_000
_BATCH_BYTES = 4_000_000
_TOGETHER_BYTES = 250_000
"""Text that is looked up at once."""


@dataclass(frozen=True)
class PerplexityModel:
    """Byte trigram model.

    Attributes:
        log_p: (256, 256, 256) float32, log p(b | xy) at [x, y, b], in nats.
    """

    log_p: NDArray[np.float32]

    def perplexity(self, texts: Sequence[str], listener: Listener = silent) -> NDArray[np.float64]:
        """Return the perplexity per byte of every text, (n,); 1 for an empty one."""
        result = np.ones(len(texts))
        progress = Progress("query perplexity", len(texts), "documents", listener)
        start, size, data = 0, 0, []
        for index, text in enumerate(texts):
            data.append(text.encode("utf-8"))
            size += len(data[-1])
            if size >= _TOGETHER_BYTES or index + 1 == len(texts):
                result[start : index + 1] = self._perplexities(data)
                progress.advance(len(data))
                start, size, data = index + 1, 0, []
        return result

    def _perplexities(self, data: Sequence[bytes]) -> list[float]:
        """Return the perplexity per byte of texts in UTF-8, looked up together unless one of them is long."""
        table = self.log_p.reshape(-1)
        if any(len(each) > _BATCH_BYTES for each in data):
            pieces = [[table[codes] for codes in _trigrams(each)] for each in data]
        else:
            joined = np.concatenate([np.empty(0, np.int32), *_trigrams(b"\n\n".join(data))])
            values, ends = table[joined], np.cumsum([len(each) + 2 for each in data]) - 2
            spans = zip((ends - [len(each) for each in data]).tolist(), ends.tolist(), strict=True)
            pieces = [[values[first:end]] for first, end in spans]
        return [
            math.exp(-sum(float(part.sum(dtype=np.float64)) for part in parts) / len(each)) if each else 1.0
            for parts, each in zip(pieces, data, strict=True)
        ]


def fit_perplexity(queries: Iterable[str], background: Iterable[str]) -> PerplexityModel:
    """Fit the model of the module's docstring.

    Args:
        queries: the query texts of all tasks; their order is irrelevant.
        background: texts of the corpus, as `background_sample` draws them.
    """
    query_counts = _count_trigrams(queries)
    q3 = _smooth(query_counts, _smooth(query_counts.sum(0), _unigrams(query_counts)))
    background_counts = _count_trigrams(background)
    q2_background = _smooth(background_counts.sum(0), _unigrams(background_counts))
    mixture = WEIGHT * q3
    mixture += (1 - WEIGHT) * q2_background
    return PerplexityModel(np.log(mixture, out=mixture))


def background_sample(texts: Sequence[str], digests: Sequence[str]) -> list[str]:
    """Return the heads of documents, in order of digest, up to SAMPLE_BYTES in all.

    By digest, so that the order of the documents changes nothing.

    Args:
        texts: distinct documents of the corpus.
        digests: their doc_ids.
    """
    return heads(texts[index] for index in sorted(range(len(texts)), key=digests.__getitem__))


def heads(texts: Iterable[str]) -> list[str]:
    """Return the heads of texts up to SAMPLE_BYTES in all: no long document teaches the model its own noise."""
    sample, size = [], 0
    for text in texts:
        head = text[:HEAD_BYTES].encode("utf-8")[:HEAD_BYTES].decode("utf-8", "ignore")
        sample.append(head)
        size += len(head.encode("utf-8"))
        if size >= SAMPLE_BYTES:
            break
    return sample


def perplexity_limit(perplexities: NDArray[np.float64], quantile: float) -> float:
    """Return the value that at most a share 1 - quantile of the documents lies above."""
    return float(np.quantile(perplexities, quantile, method="higher"))


def _trigrams(data: bytes) -> Iterable[NDArray[np.int32]]:
    """Yield the trigram codes that end at each byte, in pieces; a document starts after two newlines."""
    padded = np.frombuffer(b"\n\n" + data, dtype=np.uint8)
    for start in range(0, len(data), _BATCH_BYTES):
        piece = padded[start : start + _BATCH_BYTES + 2].astype(np.int32)
        yield (piece[:-2] << 16) | (piece[1:-1] << 8) | piece[2:]


def _count_trigrams(texts: Iterable[str]) -> NDArray[np.float32]:
    """Return the counts of byte trigrams, (256, 256, 256)."""
    codes = [piece for text in texts for piece in _trigrams(text.encode("utf-8"))]
    whole = np.concatenate([np.empty(0, dtype=np.int32), *codes])
    return np.bincount(whole, minlength=1 << 24).astype(np.float32).reshape(256, 256, 256)


def _unigrams(trigrams: NDArray[np.float32]) -> NDArray[np.float32]:
    counts = trigrams.sum((0, 1))
    return (counts + np.float32(ALPHA / 256)) / (counts.sum() + np.float32(ALPHA))


def _smooth(counts: NDArray[np.float32], lower: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (counts + alpha * lower) / (context + alpha); contexts in all axes but the last."""
    context = counts.sum(-1, keepdims=True)
    smoothed = counts + np.float32(ALPHA) * lower
    smoothed /= context + np.float32(ALPHA)
    return smoothed
