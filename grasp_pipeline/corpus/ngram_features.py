"""Dense hashed bigram features: a view of the text to set beside gradient sketches.

    phi_i[j] = (1 / w_i) sum_{bigrams g of chunk i, h(g) = j} s(g) idf(g)
    idf(g) = log((1 + N) / (1 + df(g)))

h and s are a hash to d_n buckets and to a sign (Weinberger et al. 2009, arXiv 0902.2206): inner products of
features estimate those of the full bigram vectors without bias. Terms are linear in the counts and divided by
the chunk's tokens, so the token-weighted mean over a subset is the feature vector of its pooled text; a
square root per chunk would break that. idf takes the weight from bigrams that every chunk has.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.corpus.ngrams import bigrams, bucket, hash_bigrams, ranges
from grasp_pipeline.errors import ConfigError, InputError

_TABLE = 2**18


@dataclass(frozen=True)
class NgramFeatures:
    """Fitted features: d buckets; idf (2^18,) by a second, finer hash bucket of the bigram."""

    d: int
    idf: Floats

    @classmethod
    def fit(cls, chunks: TokenLists, d: int = 1024) -> NgramFeatures:
        """Count in how many of the corpus's chunks each bigram occurs.

        Raises:
            ConfigError: d is not above 0.
            InputError: the corpus is empty.
        """
        if d < 1:
            raise ConfigError(f"{d} n-gram features were asked for; give 1 or more")
        if chunks.n == 0:
            raise InputError("the corpus holds no chunks to fit n-gram features on")
        frequency = np.zeros(_TABLE, dtype=np.int64)
        for _, part in ranges(chunks):
            first, second, chunk = bigrams(part)
            cells = np.unique(chunk * _TABLE + bucket(hash_bigrams(first, second), _TABLE))
            frequency += np.bincount(cells % _TABLE, minlength=_TABLE)
        return cls(d, np.log((1 + chunks.n) / (1 + frequency)))

    def transform(self, chunks: TokenLists) -> NDArray[np.float32]:
        """Return (n, d) float32 features; chunks of fewer than two tokens are zero."""
        features = np.zeros((chunks.n, self.d), dtype=np.float32)
        lengths = np.maximum(chunks.lengths, 1)
        for start, part in ranges(chunks):
            first, second, chunk = bigrams(part)
            hashes = hash_bigrams(first, second)
            sign = 1.0 - 2.0 * (hashes & np.uint64(1)).astype(np.float64)
            value = sign * self.idf[bucket(hashes, _TABLE)]
            # The upper half of the hash picks the feature, so that it is independent of the idf cell.
            cells = chunk * self.d + bucket(hashes >> np.uint64(32), self.d)
            sums = np.bincount(cells, value, minlength=part.n * self.d).reshape(part.n, self.d)
            features[start : start + part.n] = sums / lengths[start : start + part.n, None]
        return features
