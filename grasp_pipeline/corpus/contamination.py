"""Word n-gram overlap between held-out documents and a corpus (decontamination)."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_WORD = re.compile(r"\w+")

Gram = tuple[str, ...]


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


def words(text: str) -> list[str]:
    """The words of a text: lower-cased and split at every non-word character."""
    return _WORD.findall(text.lower())


def _runs(tokens: list[str], length: int) -> Iterable[Gram]:
    return zip(*(tokens[start:] for start in range(length)), strict=False)


def ngram_overlap(
    held_out: Mapping[str, str], corpus: Iterable[tuple[str, str]], n: int = 13
) -> list[Overlap]:
    """Every (held-out document, corpus document) pair that shares a word n-gram.

    `held_out` maps ids to texts; `corpus` yields (id, text) and is read once, so the memory used
    depends on the held-out side and on one corpus document at a time. A held-out document of
    fewer than `n` words counts as a single n-gram, its whole word sequence; one without words
    overlaps with nothing. Pairs come in corpus order, then in held-out order.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    names = list(held_out)
    totals: list[int] = []
    owners: dict[int, dict[Gram, tuple[int, ...]]] = defaultdict(dict)
    for index, name in enumerate(names):
        tokens = words(held_out[name])
        length = min(n, len(tokens))
        grams = set(_runs(tokens, length)) if length else set()
        totals.append(len(grams))
        single = (index,)  # one tuple for all of the document's unshared n-grams
        known = owners[length]
        for gram in grams:
            known[gram] = known[gram] + single if gram in known else single
    found: list[Overlap] = []
    for document, text in corpus:
        tokens = words(text)
        shared: Counter[int] = Counter()
        for length, known in owners.items():
            for gram in known.keys() & _runs(tokens, length):
                shared.update(known[gram])
        found.extend(
            Overlap(names[index], document, count, count / totals[index])
            for index, count in sorted(shared.items())
        )
    return found
