"""Events of the queries, pairs of a context and the next token, counted in many chunks.

A context is the previous token (`previous_token`), or any other code per position, such as the cluster of the hidden
state that predicts it (`given_contexts`). Only events that occur in a query are counted, by their exact codes: there
are no collisions, and the counts have at most as many columns as the queries have tokens, whatever the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from grasp_pipeline.arrays import Bools, Floats, Ints, TokenLists
from grasp_pipeline.corpus.ngrams import ranges
from grasp_pipeline.errors import InputError

Contexts = Callable[[TokenLists, int], Ints]
"""(chunks, place of their first token among all) -> the context of every token, -1 where there is none."""

PSEUDO_COUNT = 1.0
"""Added to the pool's count of every token and context, so that none has probability 0."""


def previous_token(chunks: TokenLists, first: int) -> Ints:
    """Return the token before every token of its chunk; the first of a chunk has no context."""
    codes = np.full(len(chunks.tokens), -1, dtype=np.int64)
    codes[1:] = chunks.tokens[:-1]
    starts = chunks.offsets[:-1]
    codes[starts[starts < len(codes)]] = -1
    return codes


def given_contexts(codes: NDArray[np.integer[Any]]) -> Contexts:
    """Return contexts that are known for all tokens end to end, (total,)."""

    def look_up(chunks: TokenLists, first: int) -> Ints:
        return codes[first : first + len(chunks.tokens)].astype(np.int64)

    return look_up


_SHIFT = 32
"""Bits of a token in the code of an event."""


def event_keys(context: Ints, token: NDArray[np.integer[Any]]) -> Ints:
    """Return the codes of events, context * 2^32 + token."""
    return (context << _SHIFT) | token.astype(np.int64)


@dataclass(frozen=True, eq=False)
class EventCounts:
    """How often E events, in A contexts, occur in n chunks; T queries.

    Attributes:
        events: (n, E) float32; contexts: (n, A) float32, how often a context of an event occurs.
        keys: (E,) codes of the events, ascending: see `event_keys`.
        context: (E,) places of the events' contexts in the A.
        weights: (T, E) share of every event among the query's tokens that have a context; rows sum to 1.
        next_rate: (E,) pool's probability of the event's token; context_rate: (E,) its contexts per token.
        n_tokens: (n,) tokens per chunk.
    """

    events: csr_array
    contexts: csr_array
    keys: Ints
    context: Ints
    weights: Floats
    next_rate: Floats
    context_rate: Floats
    n_tokens: Ints

    @property
    def n(self) -> int:
        """Number of chunks."""
        return len(self.n_tokens)

    @property
    def pool_rate(self) -> Floats:
        """Events per token of the whole pool, (E,)."""
        return np.asarray(self.events.sum(axis=0)).ravel() / self.n_tokens.sum()

    def rates(self, membership: NDArray[np.bool_ | np.floating[Any]]) -> tuple[Floats, Floats, Floats]:
        """Return events per token (m, E), contexts per token (m, A) and tokens (m,) of m subsets over n chunks.

        Raises:
            InputError: the memberships are of another number of chunks, or a subset is without tokens.
        """
        if membership.ndim != 2 or membership.shape[1] != self.n:
            raise InputError(f"memberships of shape {membership.shape} do not fit counts of {self.n} chunks")
        wide = membership.astype(np.float64)
        tokens = wide @ self.n_tokens
        if not (tokens > 0).all():
            raise InputError(f"subset {int(np.argmin(tokens > 0))} holds no tokens and so has no rates")
        per_token = [(counts.T @ wide.T).T / tokens[:, None] for counts in (self.events, self.contexts)]
        return per_token[0], per_token[1], tokens


def count_events(
    chunks: TokenLists,
    queries: TokenLists,
    query_task: NDArray[np.integer[Any]],
    tasks: int,
    contexts: Contexts = previous_token,
    query_contexts: Contexts = previous_token,
) -> EventCounts:
    """Count the queries' events in one pass over the chunks, range by range.

    query_task: (q,) task of every query chunk, in [0, tasks).

    Raises:
        InputError: a task has no event, or the chunks hold no tokens.
    """
    if not len(chunks.tokens):
        raise InputError("the corpus holds no tokens to count events in")
    vocabulary = 1 + int(max(chunks.tokens.max(), queries.tokens.max(initial=0)))
    before = query_contexts(queries, 0)
    task = np.repeat(np.asarray(query_task), queries.lengths)
    inside = before >= 0
    keys, place = np.unique(event_keys(before, queries.tokens)[inside], return_inverse=True)
    weights = np.zeros((tasks, len(keys)))
    np.add.at(weights, (task[inside], place.ravel()), 1.0)
    if (empty := weights.sum(axis=1) == 0).any():
        raise InputError(f"the query of task {int(np.argmax(empty))} holds no token with a context before it")
    weights /= weights.sum(axis=1, keepdims=True)
    wanted, context = np.unique(keys >> _SHIFT, return_inverse=True)

    event_rows, context_rows = [], []
    next_count, context_count = np.zeros(vocabulary), np.zeros(len(wanted))
    seen = 0
    for _, part in ranges(chunks):
        before = contexts(part, seen)
        seen += len(part.tokens)
        next_count += np.bincount(part.tokens, minlength=vocabulary)
        inside = before >= 0
        chunk = np.repeat(np.arange(part.n), part.lengths)[inside]
        before = before[inside]
        event_rows.append(_counted(keys, event_keys(before, part.tokens[inside]), chunk, part.n))
        context_rows.append(_counted(wanted, before, chunk, part.n))
        context_count += np.asarray(context_rows[-1].sum(axis=0)).ravel()
    next_rate = (next_count + PSEUDO_COUNT) / (next_count.sum() + PSEUDO_COUNT * vocabulary)
    context_rate = (context_count + PSEUDO_COUNT) / (next_count.sum() + PSEUDO_COUNT * len(wanted))
    context = context.ravel()
    return EventCounts(
        csr_array(vstack(event_rows, format="csr")),
        csr_array(vstack(context_rows, format="csr")),
        keys,
        context,
        weights,
        next_rate[keys & ((1 << _SHIFT) - 1)],
        context_rate[context],
        chunks.lengths,
    )


def _counted(wanted: Ints, keys: Ints, chunk: Ints, n: int) -> csr_array:
    """Return (n, len(wanted)) float32 counts of the wanted, sorted keys in each chunk."""
    place, found = positions(wanted, keys)
    cells, counts = np.unique(chunk[found] * len(wanted) + place[found], return_counts=True)
    rows = np.bincount(cells // len(wanted), minlength=n)
    indices = (cells % len(wanted)).astype(np.int32)
    pointers = np.concatenate([[0], np.cumsum(rows)])
    return csr_array((counts.astype(np.float32), indices, pointers), shape=(n, len(wanted)))


def positions(wanted: Ints, keys: Ints) -> tuple[Ints, Bools]:
    """Return where sorted, distinct `wanted` (E,) holds keys (k,), and which of the keys it holds."""
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return place, wanted[place] == keys


@dataclass(frozen=True, eq=False)
class EventTable:
    """What one event after another is worth: keys (E,) int64 ascending (`event_keys`), values (E,) float32.

    Contexts are previous tokens.
    """

    keys: Ints
    values: NDArray[np.float32]

    def per_token(self, chunks: TokenLists) -> Floats:
        """Return (n,) the mean value over a chunk's tokens; those without an event of the table count 0."""
        total = np.zeros(chunks.n)
        for start, part in ranges(chunks):
            before = previous_token(part, 0)
            inside = before >= 0
            chunk = np.repeat(np.arange(part.n), part.lengths)[inside]
            place, found = positions(self.keys, event_keys(before[inside], part.tokens[inside]))
            worth = self.values[place[found]].astype(np.float64)
            total[start : start + part.n] = np.bincount(chunk[found], worth, part.n)
        return total / np.maximum(chunks.lengths, 1)
