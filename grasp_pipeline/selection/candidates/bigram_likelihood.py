"""L: the query's log-likelihood under a bigram model of a candidate corpus (findings B3).

    L(S) = sum_q w_q log[ (c_S(a, b) + alpha p(b)) / (c_S(a) + alpha) ] ,   q = (a, b)

c_S are bigram counts of the subset, in which k near-duplicates count sqrt(k) together; c(a) counts pairs that
begin with a; p is the unigram distribution of the whole pool with one pseudo-count per token id, so it is
common to all subsets; q runs over the query's bigrams, with relative counts w_q. L is a mean in nats per
token. It judges; it is not optimised.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.corpus.ngrams import bigrams, ranges
from grasp_pipeline.errors import ConfigError, InputError


class BigramLikelihood:
    """L over a pool of n chunks for one query; built once, then one sparse product per subset.

    repeats: (n,) labels; chunks with one label repeat each other (for near-duplicate documents: the pair of
    cluster and position, see `corpus.duplicates.repeat_groups`). alpha: pseudo-counts of the back-off to unigrams, 8
    to 16.

    Raises:
        InputError: labels and chunks disagree, or the query holds no bigram.
        ConfigError: alpha is not above 0.
    """

    def __init__(
        self, chunks: TokenLists, query: TokenLists, repeats: NDArray[Any], alpha: float = 8.0
    ) -> None:
        if not alpha > 0:
            raise ConfigError(f"alpha is {alpha}; give pseudo-counts above 0")
        if len(repeats) != chunks.n:
            raise InputError(f"{len(repeats)} repeat labels for {chunks.n} chunks; give one for each")
        first, second, _ = bigrams(query)
        if len(first) == 0:
            raise InputError("the query holds no two neighbouring tokens")
        self.alpha = alpha
        self._repeats = np.unique(repeats, return_inverse=True)[1].ravel()
        vocabulary = 1 + int(max(chunks.tokens.max(initial=0), query.tokens.max()))

        pairs, counts = np.unique(first * vocabulary + second, return_counts=True)
        contexts, self._context = np.unique(pairs // vocabulary, return_inverse=True)
        self._share = counts / counts.sum()
        unigrams = np.bincount(chunks.tokens, minlength=vocabulary) + 1.0
        self._unigram = (unigrams / unigrams.sum())[pairs % vocabulary]
        self._pairs = _counts(chunks, pairs, vocabulary)
        self._contexts = _counts(chunks, contexts, None)

    def scores(self, membership: NDArray[np.bool_]) -> Floats:
        """Return (m,) L for (m, n) memberships, nats per token; higher is better."""
        result = np.empty(len(membership))
        for row, chosen in enumerate(membership):
            copies = np.bincount(self._repeats[chosen], minlength=len(chosen))
            weights = np.where(chosen, 1 / np.sqrt(np.maximum(copies[self._repeats], 1)), 0.0)
            pair = self._pairs.T @ weights
            context = (self._contexts.T @ weights)[self._context]
            result[row] = self._share @ np.log((pair + self.alpha * self._unigram) / (context + self.alpha))
        return result


def _counts(chunks: TokenLists, wanted: NDArray[np.int64], vocabulary: int | None) -> csr_array:
    """Return (n, len(wanted)) counts of wanted pair codes or, without a vocabulary, first tokens."""
    rows, columns = [], []
    for start, part in ranges(chunks):
        first, second, chunk = bigrams(part)
        keys = first if vocabulary is None else first * vocabulary + second
        place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
        found = wanted[place] == keys
        rows.append(chunk[found] + start)
        columns.append(place[found])
    row = np.concatenate(rows) if rows else np.empty(0, np.int64)
    column = np.concatenate(columns) if columns else np.empty(0, np.int64)
    return csr_array((np.ones(len(row)), (row, column)), shape=(chunks.n, len(wanted)))
