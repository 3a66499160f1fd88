"""A quality classifier: logistic regression on hashed n-grams that tells the target's texts from the corpus's.

    value = theta_0 + (1 / tokens) sum over the chunk's unigrams and bigrams g of theta[h(g)]

The filter that GPT-3's crawl went through (Brown et al. 2020, arXiv 2005.14165, appendix A). Good are the query
chunks of the tasks that count, the others are random chunks of the corpus, so nobody has to label anything; where
`finalists.quality_labels` names labelled texts, those decide. The damping is the one of least leave-one-out loss, where
each row's margin without itself is what rescaled influence says (arXiv 2506.06656).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grasp_pipeline.arrays import Bools, Floats, TokenLists
from grasp_pipeline.attribution.convex.head import ConvexHead, fit_head
from grasp_pipeline.attribution.convex.influence import HeadInfluence
from grasp_pipeline.corpus.ngrams import bucket, hashed, ngram_sums
from grasp_pipeline.seeds import generator
from grasp_pipeline.selection.candidates.context import SelectionContext
from grasp_pipeline.selection.candidates.family import Choice, Family
from grasp_pipeline.selection.explanation.chunk_filter import ChunkFilter

BUCKETS = 1024
MOST_GOOD, BACKGROUND = 512, 2
"""Most query chunks that the head is fitted to, and corpus chunks for each of them."""

DAMPINGS = (1.0, 10.0, 100.0, 1000.0)
"""lambda tried, for features of standard deviation 1."""


@dataclass(frozen=True, eq=False)
class QualityHead:
    """weights: (buckets,) float64 by hashed n-gram; offset: theta_0; head: the fit, in its rows' own directions."""

    weights: Floats
    offset: float
    head: ConvexHead

    def values(self, chunks: TokenLists) -> Floats:
        """Return the log odds (n,) that chunks are of the target."""
        return self.offset + ngram_sums(chunks, self.weights) / np.maximum(chunks.lengths, 1)

    def leverage(self) -> Floats:
        """Return (m,) of the rows that it was fitted to: near 1, a row alone decides what the head says of it."""
        return HeadInfluence(self.head).leverage


class QualityFamily(Family):
    """The chunks that a quality classifier finds most like the target's texts."""

    name = "quality-head"
    description = (
        "Most like the target's texts by a logistic regression on hashed n-grams (as GPT-3's crawl filter)."
    )
    source = "arXiv 2005.14165"
    ranks_by = "quality_log_odds"

    def values(self, context: SelectionContext) -> Floats:
        """Return the log odds of every chunk, (n,)."""
        return context.once(self.name, lambda: quality_head(context).values(context.chunks))

    def parts(self, context: SelectionContext, choice: Choice) -> ChunkFilter:
        """Return the weights as a table: tokens alone decide."""
        made = quality_head(context)
        return ChunkFilter(
            "ngram_table", offset=made.offset, ngrams=made.weights.astype(np.float32), per_token=True
        )


def quality_head(context: SelectionContext) -> QualityHead:
    """Return the head of a target, or of the labels that were given, fitted once."""
    labels = context.learned.labels
    good, others = (context.queries, context.chunks) if labels is None else (labels.good, labels.bad)
    return context.once("quality head", lambda: fit_quality_head(good, others))


def fit_quality_head(good: TokenLists, corpus: TokenLists) -> QualityHead:
    """Fit a head to query chunks and random chunks of the corpus, or to texts labelled good and bad."""
    wanted = _drawn(good, MOST_GOOD, "good")
    others = _drawn(corpus, BACKGROUND * int(wanted.sum()), "background")
    features = np.concatenate([ngram_rates(good, wanted), ngram_rates(corpus, others)])
    labels = np.repeat([1.0, 0.0], [wanted.sum(), others.sum()])
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale == 0] = np.inf
    columns = np.concatenate([(features - mean) / scale, np.ones((len(labels), 1))], axis=1)
    # The optimum lies in the span of the rows: in its own directions the head has no more parameters than rows.
    left, sizes, right = np.linalg.svd(columns, full_matrices=False)
    heads = [fit_head(left * sizes, labels, damping) for damping in DAMPINGS]
    head = min(heads, key=leave_one_out_loss)
    theta = right.T @ head.theta
    weights = theta[:-1] / scale
    return QualityHead(weights, float(theta[-1] - weights @ mean), head)


def leave_one_out_loss(head: ConvexHead) -> float:
    """Return the mean loss of every row under the head without it, by rescaled influence, nats."""
    made = HeadInfluence(head)
    own = np.einsum("id,di->i", head.features, made.inverse_features)
    margins = head.features @ head.theta + own * head.residual / (1 - made.leverage)
    return float(np.mean(np.logaddexp(0, margins) - head.labels * margins))


def ngram_rates(chunks: TokenLists, rows: Bools) -> Floats:
    """Return (k, buckets) n-grams per token of some chunks, hashed."""
    found = np.zeros((int(rows.sum()), BUCKETS))
    hashes, chunk = hashed(TokenLists.of([chunks.chunk(row) for row in np.flatnonzero(rows).tolist()]))
    np.add.at(found, (chunk, bucket(hashes, BUCKETS)), 1.0)
    return found / np.maximum(chunks.lengths[rows], 1)[:, None]


def _drawn(chunks: TokenLists, most: int, name: str) -> Bools:
    """Return (n,) which chunks are drawn."""
    keys = generator("quality head", name).random(chunks.n)
    return keys <= np.sort(keys)[min(most, chunks.n) - 1]
