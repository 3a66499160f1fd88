"""Word n-gram overlap between held-out documents and a corpus (decontamination).

Words are those of `words.py`, so text in scripts without spaces is compared character by character. N-grams are
compared by 64-bit hashes: two different ones agree with a probability of about 5e-20.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.corpus.text_batch import SHINGLE_WORDS, TextBatch
from grasp_pipeline.corpus.words import Hashes, Integers, Words, extend_ngrams, hash_ngrams, hash_words

CONTAMINATION_WORDS = 13
_BATCH_CHARACTERS = 500_000
_BITS = 22


@dataclass(frozen=True, slots=True)
class Overlap:
    """One corpus document that holds some of a held-out document's n-grams.

    `shared` counts the held-out document's distinct n-grams found in the corpus document;
    `share` is that count over all of its distinct n-grams.
    """

    held_out: str
    document: str
    shared: int
    share: float

    @property
    def detail(self) -> str:
        """The overlap in words, as a rejected document's detail."""
        return (
            f"holds {self.share:.0%} of the {CONTAMINATION_WORDS}-grams of the task document {self.held_out}"
        )


@dataclass(frozen=True)
class _Table:
    """N-grams of one length: gram i is held by the documents ``owners[offsets[i]:offsets[i + 1]]``.

    starts: (2**_BITS,) whether an n-gram begins with a window of SHINGLE_WORDS words of these last bits, so that most
    of a text need not be looked up; None where the n-grams are shorter.
    """

    length: int
    grams: Hashes
    offsets: Integers
    owners: Integers
    starts: NDArray[np.bool_] | None


class HeldOutGrams:
    """The distinct n-grams of held-out documents, to be looked up in any number of corpus documents.

    A held-out document of fewer than `n` words counts as a single n-gram, its whole word sequence; one without
    words overlaps with nothing.

    Args:
        held_out: name -> text.
        n: words per n-gram.
    """

    def __init__(self, held_out: Mapping[str, str], n: int = CONTAMINATION_WORDS) -> None:
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        self._names = list(held_out)
        self._totals = np.zeros(len(held_out), dtype=np.int64)
        self._tables: list[_Table] = []
        words = hash_words(list(held_out.values()))
        lengths = np.minimum(np.diff(words.offsets), n)
        for length in np.unique(lengths[lengths > 0]).tolist():
            grams, owners = _windows(words, length)
            own = lengths[owners] == length
            starts = None
            if length >= SHINGLE_WORDS:
                starts = np.zeros(1 << _BITS, dtype=bool)
                starts[_last_bits(hash_ngrams(words.hashes, SHINGLE_WORDS)[_inside(words, length)[own]])] = (
                    True
                )
            grams, owners = grams[own], owners[own]
            order = np.lexsort((owners, grams))
            grams, owners = grams[order], owners[order]
            fresh = np.ones(len(grams), dtype=bool)
            fresh[1:] = (grams[1:] != grams[:-1]) | (owners[1:] != owners[:-1])
            grams, owners = grams[fresh], owners[fresh]
            self._totals += np.bincount(owners, minlength=len(self._totals))
            known, first = np.unique(grams, return_index=True)
            self._tables.append(_Table(length, known, np.append(first, len(grams)), owners, starts))

    def overlaps(self, corpus: Iterable[tuple[str, str]]) -> Iterator[Overlap]:
        """Yield every pair that shares an n-gram, in corpus order, then in held-out order.

        corpus: (id, text), read once; memory depends on the held-out side and on some documents at a time.
        """
        for documents in _batches(corpus):
            names: list[str] = [name for name, _ in documents]
            yield from self._overlaps(TextBatch([text for _, text in documents]), names)

    def _overlaps(self, batch: TextBatch, names: Sequence[str]) -> Iterator[Overlap]:
        keys = np.concatenate(
            [self._pairs(batch, table) for table in self._tables] or [np.empty(0, dtype=np.int64)]
        )
        keys, counts = np.unique(keys, return_counts=True)
        places, held = np.divmod(keys, max(1, len(self._names)))
        for place, index, shared in zip(places.tolist(), held.tolist(), counts.tolist(), strict=True):
            share = shared / int(self._totals[index])
            yield Overlap(self._names[index], names[int(place)], shared, share)

    def contaminated_of(self, batch: TextBatch, limit: float) -> dict[int, Overlap]:
        """Return what `contaminated` does of a batch, by the place of the text in it."""
        worst = _worst(self._overlaps(batch, [str(place) for place in range(len(batch.texts))]), limit)
        return {int(place): overlap for place, overlap in worst.items()}

    def contaminated(self, corpus: Iterable[tuple[str, str]], limit: float) -> dict[str, Overlap]:
        """Return the largest overlap of each corpus document that has one above the limit.

        Of equal overlaps the one with the first name counts.
        """
        return _worst(self.overlaps(corpus), limit)

    def _pairs(self, batch: TextBatch, table: _Table) -> Integers:
        """Return document * n_held_out + held-out document, once per distinct n-gram that they share."""
        words = batch.words
        if table.starts is None:
            grams, documents = _windows(words, table.length)
        else:
            at = np.flatnonzero(table.starts[_last_bits(batch.windows)])
            documents = np.searchsorted(words.offsets, at, side="right") - 1
            whole = at + table.length <= words.offsets[documents + 1]
            at, documents = at[whole], documents[whole]
            grams = extend_ngrams(batch.windows[at], words.hashes, at, SHINGLE_WORDS, table.length)
        at = np.minimum(np.searchsorted(table.grams, grams), len(table.grams) - 1)
        found = table.grams[at] == grams
        documents, at = np.divmod(
            np.unique(documents[found] * len(table.grams) + at[found]), len(table.grams)
        )
        starts, counts = table.offsets[at], np.diff(table.offsets)[at]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        owners = table.owners[np.repeat(starts, counts) + within]
        return np.repeat(documents, counts) * len(self._names) + owners


def ngram_overlap(
    held_out: Mapping[str, str], corpus: Iterable[tuple[str, str]], n: int = CONTAMINATION_WORDS
) -> list[Overlap]:
    """Return every (held-out document, corpus document) pair that shares a word n-gram; see `HeldOutGrams`."""
    return list(HeldOutGrams(held_out, n).overlaps(corpus))


def held_out_texts(task_documents: pl.DataFrame) -> dict[str, str]:
    """Return the texts of all splits of `tables.TASK_DOCUMENTS` by name: task/split/document."""
    rows = task_documents.select("task", "split", "document", "text").iter_rows()
    return {f"{task}/{split}/{document}": text for task, split, document, text in rows}


def _worst(overlaps: Iterable[Overlap], limit: float) -> dict[str, Overlap]:
    """Return the largest overlap above the limit by document, of equal ones that with the first name."""
    worst: dict[str, Overlap] = {}
    for overlap in overlaps:
        if overlap.share <= limit:
            continue
        before = worst.setdefault(overlap.document, overlap)
        if (-overlap.share, overlap.held_out) < (-before.share, before.held_out):
            worst[overlap.document] = overlap
    return worst


def _windows(words: Words, length: int) -> tuple[Hashes, Integers]:
    """Return the n-grams of all texts, none across two texts, and the index of each one's text."""
    inside = _inside(words, length)
    texts = np.repeat(np.arange(len(words.offsets) - 1), np.diff(words.offsets))
    return hash_ngrams(words.hashes, length)[inside], texts[inside]


def _inside(words: Words, length: int) -> Integers:
    """Return the words that an n-gram within one text begins at."""
    ends = np.repeat(words.offsets[1:], np.diff(words.offsets))
    return np.flatnonzero(np.arange(length, len(ends) + length) <= ends)


def _last_bits(hashes: Hashes) -> Integers:
    return (hashes & np.uint64((1 << _BITS) - 1)).astype(np.int64)


def _batches(corpus: Iterable[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    batch, characters = [], 0
    for document, text in corpus:
        batch.append((document, text))
        characters += len(text)
        if characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
