"""A filter for whatever ships: the shipped arm's own score as a sum of parts that a new chunk has too.

    value = offset + <q, features> + sum of n-gram weights + mean event value - |loss - centre| + c * loss reduction

kept where value >= tau.

An arm that ranks by one direction is q and tau (`residual_filter`). Log-coverage is a table of what one more of each of
the queries' events is worth beside the corpus that it chose. DSIR is a table of weights by hashed n-gram, its
log ratios given the corpus. Perplexity filters keep a band of losses, the conditional arm what the stored fine-tuned
proxy finds easier, and the blend the three parts of its mean. A draw and GGDA's groups have no score that a single new
chunk could be given; beside them the linear arm that kept most of the same tokens filters, without a certificate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.blocks import SketchBlocks
from grasp_pipeline.corpus.events import EventTable
from grasp_pipeline.corpus.ngrams import ngram_sums
from grasp_pipeline.errors import InputError
from grasp_pipeline.selection.explanation.residual_filter import ResidualFilter, kept_agreement

AGREEMENT_FLOOR = 0.9
"""Share of the kept tokens that a filter and the corpus that ships must have in common for the filter to stand for it.

What a certificate certifies is a corpus. A filter that trades more than a tenth of its tokens for others is another
corpus, about which nothing was measured; rounding, ties and a resampling's luck cost a few hundredths.
"""

FilterKind = Literal["direction", "ngram_table", "event_table", "loss", "conditional", "blend", "everything"]


@dataclass(frozen=True, eq=False)
class ChunkInputs:
    """What is known of n chunks; parts that a filter does not look at may be None.

    tokens: their ids; features: (n, d) of the filter's view; loss: (n,) mean token loss at the reference proxy, nats;
    reduction: (n,) by how much fine-tuning on the queries lowers it.
    """

    tokens: TokenLists
    features: SketchBlocks | None = None
    loss: Floats | None = None
    reduction: Floats | None = None


@dataclass(frozen=True, eq=False)
class ChunkFilter:
    """The parts of a value and its threshold; parts that do not count are None.

    q: (d,) float32 direction in the features; rho: damping of the metric that it was made with; ngrams: (buckets,)
    float32 weight of every hashed unigram and bigram, summed over a chunk, or with `per_token` divided by its tokens;
    events: values of events; loss_centre: nats, of the band of losses; reduction_weight: c.
    """

    kind: FilterKind
    tau: float = 0.0
    offset: float = 0.0
    q: NDArray[np.float32] | None = None
    ngrams: NDArray[np.float32] | None = None
    per_token: bool = False
    loss_centre: float | None = None
    reduction_weight: float | None = None
    rho: float = 0.0
    events: EventTable | None = None

    @property
    def reads_loss(self) -> bool:
        """Whether the value depends on the loss at the reference proxy."""
        return self.loss_centre is not None or self.reduction_weight is not None

    @property
    def reads_proxy(self) -> bool:
        """Whether a new chunk must go through the proxy; tables of n-grams or events ask for its tokens alone."""
        return self.q is not None or self.reads_loss

    def values(self, inputs: ChunkInputs) -> Floats:
        """Return (n,) values of chunks.

        Raises:
            InputError: a part that the value depends on is missing, or the features have another dimension than q.
        """
        total = np.full(inputs.tokens.n, self.offset)
        if self.q is not None:
            if inputs.features is None:
                raise InputError("the filter has a direction, and the chunks come without features")
            total += ResidualFilter.of(self.q, self.tau).values(inputs.features)
        if self.ngrams is not None:
            sums = ngram_sums(inputs.tokens, self.ngrams)
            total += sums / np.maximum(inputs.tokens.lengths, 1) if self.per_token else sums
        if self.events is not None:
            total += self.events.per_token(inputs.tokens)
        if self.loss_centre is not None:
            if inputs.loss is None:
                raise InputError("the filter keeps a band of losses, and the chunks come without")
            total -= np.abs(inputs.loss - self.loss_centre)
        if self.reduction_weight is not None:
            if inputs.reduction is None:
                raise InputError("the filter weighs loss reductions, and the chunks come without")
            total += self.reduction_weight * inputs.reduction
        return total

    def apply(self, inputs: ChunkInputs) -> NDArray[np.bool_]:
        """Return (n,) whether each chunk is kept."""
        return self.values(inputs) >= self.tau


def direction_filter(q: Floats, tau: float, rho: float) -> ChunkFilter:
    """Return the filter of a candidate that ranks by one direction."""
    return ChunkFilter("direction", tau, q=q.astype(np.float32), rho=rho)


def agreement(found: ChunkFilter, inputs: ChunkInputs, kept: NDArray[np.bool_]) -> float:
    """Return `kept_agreement` of a filter and a corpus (n,) on the corpus's own chunks."""
    return kept_agreement(found.apply(inputs), kept, inputs.tokens.lengths)
