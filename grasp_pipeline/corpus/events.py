"""Events of the queries, pairs of a context and the next token, counted in many chunks.

A context is the previous token (`previous_token`), or any other code per position, such as the cluster of the hidden
state that predicts it (`given_contexts`). Only events that occur in a query are counted, by their exact codes: there
are no collisions, and the counts have at most as many columns as the queries have tokens, whatever the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack

from grasp_pipeline.arrays import Bools, Floats, Ints, TokenLists
from grasp_pipeline.corpus.ngrams import ranges
from grasp_pipeline.errors import InputError
from grasp_pipeline.memberships import Membership, columns_of, sums_over

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
        events: (n, E); contexts: (n, A), how often a context of an event occurs; of the narrowest unsigned integers.
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
        return column_sums(self.events, np.ones(self.n)) / self.n_tokens.sum()

    @property
    def independent_rate(self) -> Floats:
        """Events per token if contexts and next tokens were independent, p(a) p(b): (E,)."""
        return self.context_rate * self.next_rate

    def rates(self, membership: Membership) -> tuple[Floats, Floats, Floats]:
        """Return events per token (m, E), contexts per token (m, A) and tokens (m,) of m subsets over n chunks.

        Raises:
            InputError: the memberships are of another number of chunks, or a subset is without tokens.
        """
        if membership.ndim != 2 or membership.shape[1] != self.n:
            raise InputError(f"memberships of shape {membership.shape} do not fit counts of {self.n} chunks")
        tokens = sums_over(membership, self.n_tokens)
        if not (tokens > 0).all():
            raise InputError(f"subset {int(np.argmin(tokens > 0))} holds no tokens and so has no rates")
        per_token = [
            _subset_sums(each, membership).T / tokens[:, None] for each in (self.events, self.contexts)
        ]
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

    places = _Places(keys, wanted, vocabulary)
    events, before_events = (_Cells(len(codes), len(chunks.tokens)) for codes in (keys, wanted))
    next_count = np.zeros(vocabulary)
    seen = 0
    for _, part in ranges(chunks):
        before = contexts(part, seen)
        seen += len(part.tokens)
        next_count += np.bincount(part.tokens, minlength=vocabulary)
        place = places.contexts(before)
        before_events.add(place, part.lengths)
        events.add(places.events(before, place, part.tokens), part.lengths)
    next_rate = (next_count + PSEUDO_COUNT) / (next_count.sum() + PSEUDO_COUNT * vocabulary)
    context_rate = (before_events.total + PSEUDO_COUNT) / (next_count.sum() + PSEUDO_COUNT * len(wanted))
    context = context.ravel()
    return EventCounts(
        events.matrix(),
        before_events.matrix(),
        keys,
        context,
        weights,
        next_rate[keys & ((1 << _SHIFT) - 1)],
        context_rate[context],
        chunks.lengths,
    )


def count_joined(
    chunks: TokenLists,
    queries: TokenLists,
    query_task: NDArray[np.integer[Any]],
    tasks: int,
    contexts: Sequence[Contexts],
) -> EventCounts:
    """Count the queries' events with each of several contexts, side by side; every kind has an equal share of a query.

    contexts: each of codes of its own, in ascending order of them, such as `previous_token` and clusters. Log-coverage
    of the counts is the mean of what it is with each alone. Errors as in `count_events`.
    """
    parts = [count_events(chunks, queries, query_task, tasks, each, each) for each in contexts]
    if len(parts) == 1:
        return parts[0]
    keys = np.concatenate([part.keys for part in parts])
    if (np.diff(keys) <= 0).any():
        raise InputError("contexts that are counted side by side share codes; give each codes of its own")
    first = np.cumsum([0, *(shape_of(part.contexts)[1] for part in parts[:-1])])
    return EventCounts(
        csr_array(hstack([part.events for part in parts], format="csr")),
        csr_array(hstack([part.contexts for part in parts], format="csr")),
        keys,
        np.concatenate([part.context + start for part, start in zip(parts, first, strict=True)]),
        np.concatenate([part.weights for part in parts], axis=1) / len(parts),
        np.concatenate([part.next_rate for part in parts]),
        np.concatenate([part.context_rate for part in parts]),
        parts[0].n_tokens,
    )


def events_by_group(
    keys: Ints,
    queries: TokenLists,
    group: NDArray[np.integer[Any]],
    groups: int,
    query_contexts: Contexts = previous_token,
) -> csr_array:
    """Return (groups, E) how often the events of sorted `keys` (E,) occur in groups of query chunks.

    group: (q,) of every chunk, in [0, groups).
    """
    before = query_contexts(queries, 0)
    place, found = positions(keys, event_keys(before, queries.tokens))
    found &= before >= 0
    rows = np.repeat(np.asarray(group), queries.lengths)[found]
    return csr_array((np.ones(len(rows)), (rows, place[found])), shape=(groups, len(keys)))


class _Cells:
    """Counts of E columns, gathered range by range into one matrix."""

    def __init__(self, width: int, most: int) -> None:
        # Memory that is not written is not taken: there are rarely as many counts as tokens.
        self._indices = np.empty(most, dtype=np.int32)
        self._counts: list[NDArray[np.unsignedinteger[Any]]] = []
        self._lengths: list[NDArray[np.integer[Any]]] = []
        self._width, self._filled = width, 0
        self.total = np.zeros(width)

    def add(self, columns: NDArray[np.int32], per_row: Ints) -> None:
        """Count columns, -1 for none, of consecutive rows of given lengths."""
        found = columns >= 0
        before = np.concatenate([[0], np.cumsum(found)])
        pointers = _narrow(before[np.concatenate([[0], np.cumsum(per_row)])])
        columns = columns[found]
        ones = np.ones(len(columns), dtype=np.uint32)
        self.total += np.bincount(columns, minlength=self._width)
        rows = csr_array((ones, columns, pointers), shape=(len(per_row), self._width))
        rows.sum_duplicates()
        end = self._filled + rows.nnz
        self._indices[self._filled : end] = rows.indices
        self._filled = end
        self._counts.append(rows.data.astype(np.min_scalar_type(rows.data.max(initial=0))))
        self._lengths.append(np.diff(rows.indptr))

    def matrix(self) -> csr_array:
        """Return the counts of all rows."""
        lengths = np.concatenate(self._lengths)
        pointers = _narrow(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))
        cells = (np.concatenate(self._counts), self._indices[: self._filled], pointers)
        return csr_array(cells, shape=(len(lengths), self._width))


def _narrow(pointers: Ints) -> NDArray[np.integer[Any]]:
    """Return pointers as int32 where they fit: scipy widens the indices to the type of the pointers."""
    return pointers.astype(np.int32) if pointers[-1] < 1 << 31 else pointers


_TABLE = 1 << 24
"""Most entries of a table of events by context and token, and of one of contexts: 64 MiB."""


class _Places:
    """Where sorted, distinct codes hold a context, and the events' keys a context and a token."""

    def __init__(self, keys: Ints, wanted: Ints, vocabulary: int) -> None:
        token = keys & ((1 << _SHIFT) - 1)
        self._keys, self._wanted = keys, wanted
        tokens, column = np.unique(token, return_inverse=True)
        self._context = self._token = self._event = None
        if wanted[-1] < _TABLE:
            self._context = _inverse(wanted, int(wanted[-1]) + 1)
        if len(wanted) * len(tokens) <= _TABLE:
            self._token = _inverse(tokens, vocabulary)
            self._event = np.full((len(wanted), len(tokens)), -1, dtype=np.int32)
            self._event[np.searchsorted(wanted, keys >> _SHIFT), column.ravel()] = np.arange(len(keys))

    def contexts(self, codes: Ints) -> NDArray[np.int32]:
        """Return the places of contexts, -1 where one is not wanted."""
        if self._context is None:
            return _found(self._wanted, codes)
        last = len(self._context) - 1
        inside = (codes >= 0) & (codes <= last)
        return np.where(inside, self._context[np.clip(codes, 0, last)], -1)

    def events(
        self, codes: Ints, context: NDArray[np.int32], token: NDArray[np.integer[Any]]
    ) -> NDArray[np.int32]:
        """Return the places of events, -1 where one is not wanted; context: the places of the codes."""
        found = np.full(len(codes), -1, dtype=np.int32)
        some = np.flatnonzero(context >= 0)
        if self._event is None or self._token is None:
            found[some] = _found(self._keys, event_keys(codes[some], token[some]))
            return found
        column = self._token[token[some]]
        some, column = some[column >= 0], column[column >= 0]
        found[some] = self._event[context[some], column]
        return found


def _inverse(codes: Ints, size: int) -> NDArray[np.int32]:
    """Return (size,) the places of sorted codes, -1 elsewhere."""
    table = np.full(size, -1, dtype=np.int32)
    table[codes] = np.arange(len(codes))
    return table


def _found(wanted: Ints, keys: Ints) -> NDArray[np.int32]:
    place, found = positions(wanted, keys)
    return np.where(found, place, -1).astype(np.int32)


_BLOCK = 1 << 20
"""Counts of a matrix that are worked on together."""


def shape_of(rows: csr_array) -> tuple[int, int]:
    """Return the shape of a matrix, as scipy's types do not promise it."""
    return cast(tuple[int, int], rows.shape)


def row_sums(rows: csr_array, values: Floats) -> Floats:
    """Return (n,) or (n, T) what the counts (n, E) of every row are worth together; values: (E,) or (E, T)."""
    total = np.empty((shape_of(rows)[0], *values.shape[1:]))
    for part, some in _blocks(rows):
        total[part] = some @ values
    return total


def column_sums(rows: csr_array, weights: NDArray[np.bool_ | np.floating[Any]]) -> Floats:
    """Return (E,) or (E, m) the counts (n, E) of all rows together; weights: of the rows, (n,) or (n, m)."""
    total = np.zeros((shape_of(rows)[1], *weights.shape[1:]))
    for part, some in _blocks(rows):
        total += some.T @ weights[part].astype(np.float64)
    return total


def _subset_sums(rows: csr_array, membership: Membership) -> Floats:
    """Return (E, m) the counts (n, E) of the rows of every subset (m, n) together."""
    total = np.zeros((shape_of(rows)[1], len(membership)))
    for part, some in _blocks(rows):
        total += some.T @ columns_of(membership, part.start, part.stop).T.astype(np.float64)
    return total


def _blocks(rows: csr_array) -> Iterator[tuple[slice, csr_array]]:
    """Yield consecutive rows of a matrix without copies: a product makes floats of a block's counts, not of all."""
    (n, width), pointers, start = shape_of(rows), rows.indptr, 0
    while start < n:
        low = int(pointers[start])
        end = max(start + 1, int(np.searchsorted(pointers, low + _BLOCK, side="right")) - 1)
        high = int(pointers[end])
        part = (rows.data[low:high], rows.indices[low:high], pointers[start : end + 1] - pointers[start])
        yield slice(start, end), csr_array(part, shape=(end - start, width))
        start = end


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
