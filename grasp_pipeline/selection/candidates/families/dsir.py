"""DSIR: data selection by importance resampling on hashed n-grams (Xie et al. 2023, arXiv 2302.03169).

    log w_i = sum_{g in chunk i} log( p_query[h(g)] / p_corpus[h(g)] ) ,  g over unigrams and bigrams, h a
    hash

p are bags of hashed n-grams. The published code adds 1e-8 to each probability; with a few dozen query chunks
that makes one unseen n-gram cost ten nats or more, so `smoothing` counts are added to every bucket instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from grasp_pipeline.arrays import Bools, Floats, TokenLists
from grasp_pipeline.corpus.ngrams import bucket, hashed, ngram_sums, ranges
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.candidate import Candidate, checked
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import Choice, Family, Search
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter
from grasp_pipeline.selection.solver.feasible_set import FeasibleSet


class Dsir(Family):
    """A resample by importance weights, and one without near duplicates where that leaves out more."""

    name = "dsir"
    description = "Resampled by hashed n-gram importance weights (DSIR, arXiv 2302.03169)."
    source = "arXiv 2302.03169"
    ranks_by = "ngram_importance"
    comparison = 3

    def values(self, context: SelectionContext) -> Floats:
        """Return the log importance weights, (n,)."""
        return context.once(self.name, lambda: ngram_sums(context.chunks, log_ratios(context)))

    def choose(self, context: SelectionContext, feasible: FeasibleSet) -> Bools:
        """Return the resample."""
        return dsir_resample(self.values(context), feasible, 0)

    def further(self, context: SelectionContext, search: Search) -> Iterator[Candidate]:
        """Yield the resample from one document per near-duplicate cluster."""
        if context.feasible_sets.offers("hard"):
            yield replace(self.filling(context, "hard"), name="dsir-deduplicated")

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return the log ratios as a table: tokens alone decide."""
        return ChunkFilter("ngram_table", ngrams=log_ratios(context).astype(np.float32))


def log_ratios(context: SelectionContext) -> Floats:
    """Return the log ratios by hashed n-gram, (buckets,)."""
    return context.once("dsir log ratios", lambda: dsir_weights(context.chunks, context.queries))


def dsir_weights(
    chunks: TokenLists, query: TokenLists, buckets: int = 10_000, smoothing: float = 1.0
) -> Floats:
    """Return (buckets,) log ratios of a hashed n-gram's probability in the query to that in the corpus, in nats.

    A chunk's score is the sum over its n-grams, so the table scores chunks that came later too.
    smoothing: pseudo-counts per bucket, in both bags.

    Raises:
        InputError: there are no n-grams in the corpus or the query.
        ConfigError: buckets or smoothing is not above 0.
    """
    if buckets < 1 or not smoothing > 0:
        raise ConfigError(f"{buckets} buckets with smoothing {smoothing}: both must be above 0")
    wanted = np.log(_bag(query, buckets, smoothing, "query"))
    return wanted - np.log(_bag(chunks, buckets, smoothing, "corpus"))


def dsir_scores(
    chunks: TokenLists,
    query: TokenLists,
    buckets: int = 10_000,
    smoothing: float = 1.0,
    length_normalised: bool = False,
) -> Floats:
    """Return (n,) log importance weights of the corpus's chunks under the query's chunks, in nats.

    buckets, smoothing: of `dsir_weights`. length_normalised: the mean over a chunk's n-grams
    times the corpus's mean number of n-grams per chunk, so that short chunks are not drawn towards 0; the
    paper sums (False).

    Raises:
        InputError, ConfigError: see `dsir_weights`.
    """
    total = ngram_sums(chunks, dsir_weights(chunks, query, buckets, smoothing))
    if not length_normalised:
        return total
    lengths = chunks.lengths
    grams = np.maximum(2 * lengths - 1, 0)
    return total / np.maximum(grams, 1) * grams.mean()


def dsir_resample(scores: ArrayLike, feasible: FeasibleSet, *name: str | int) -> Bools:
    """Return a membership (n,) drawn without replacement in proportion to exp(scores) until the budget is full.

    Gumbel top-k: chunks in descending order of score plus standard Gumbel noise named by `name`. Where documents are
    kept as one, theirs is the sum of their chunks' scores.

    Raises:
        InputError: the scores have another shape, or are not finite.
    """
    weights = checked(scores, feasible)
    units = np.arange(len(weights)) if feasible.unit is None else feasible.unit
    total = np.bincount(units, weights)
    noise = generator("dsir", *name).gumbel(size=len(total))
    return feasible.round((total + noise)[units], np.zeros(len(weights)))


def _bag(chunks: TokenLists, buckets: int, smoothing: float, what: str) -> Floats:
    """Return (buckets,) smoothed probabilities of hashed n-grams."""
    counts = np.zeros(buckets)
    for _, part in ranges(chunks):
        counts += np.bincount(bucket(hashed(part)[0], buckets), minlength=buckets)
    if not counts.sum() > 0:
        raise InputError(f"the {what} holds no tokens to count n-grams of")
    return (counts + smoothing) / (counts.sum() + smoothing * buckets)
