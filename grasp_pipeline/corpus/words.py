"""Words of many texts at once, as 64-bit hashes: the one tokenisation of every rule that compares texts.

Near duplicates, repetition, contamination (also of files that arrive later) and the bundled corpus's build all
count these words. A word is a run of letters, digits and underscores. Scripts written without spaces (Chinese,
Japanese, Thai, Lao, Khmer, Burmese...) give one word per character, so that n-grams of words mean something there
too. A combining mark belongs to the character before it, and invisible characters (soft hyphens, joiners,
variation selectors) belong to nothing.

Texts are compared in their compatibility form without case (NFKC, simple case folding), so full-width letters,
half-width kana and ligatures are the letters that they stand for.
"""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

SYMBOL, WORD, LONE, SPACE, MARK, INVISIBLE = 0, 1, 2, 3, 4, 5
"""Kinds of characters: none of the others; part of a word; a word by itself; white space; part of what comes before
it; part of nothing."""

# Scripts whose words are not set apart by spaces: line-break classes SA and ID of Unicode (UAX #14) and its South
# East Asian syllabaries, as blocks. What is no letter, digit or mark in them stays what it is.
_LONE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),
    (0x3021, 0x3029),
    (0x3040, 0x30FF),  # kana
    (0x3100, 0x312F),  # bopomofo
    (0x31A0, 0x31BF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),  # ideographs
    (0x4E00, 0xA4CF),  # ideographs, Yi
    (0xA980, 0xA9FF),  # Javanese, Burmese
    (0xAA60, 0xAADF),  # Burmese, Tai Viet
    (0xF900, 0xFAFF),
    (0x11700, 0x1174F),  # Ahom
    (0x16FE0, 0x18DFF),  # Tangut, Khitan
    (0x1AFF0, 0x1B2FF),  # kana, Nushu
    (0x20000, 0x3FFFF),
)
# Unicode's Default_Ignorable_Code_Point, as far as normalisation leaves it in a text.
_INVISIBLE_RANGES = (
    (0x00AD, 0x00AD),
    (0x034F, 0x034F),
    (0x061C, 0x061C),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x200B, 0x200F),
    (0x202A, 0x202E),
    (0x2060, 0x206F),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0),
    (0x1BCA0, 0x1BCA3),
    (0x1D173, 0x1D17A),
    (0xE0000, 0xE0FFF),
)
_BASE = np.uint64(0x9E3779B97F4A7C15)
_PIECE = 1 << 20

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Words:
    """Words of several texts, one after the other.

    Attributes:
        hashes: (n_words,) hash of each word.
        lengths: (n_words,) characters of each word, in the form compared.
        offsets: (n_texts + 1,) the words of text i are ``offsets[i]:offsets[i + 1]``.
    """

    hashes: Hashes
    lengths: Integers
    offsets: Integers


@cache
def character_kinds() -> NDArray[np.uint8]:
    """Return the kind of every Unicode code point, (1114112,)."""
    kinds = np.zeros(sys.maxunicode + 1, dtype=np.uint8)
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if character.isspace():
            kinds[code] = SPACE
        elif (category := unicodedata.category(character))[0] in "LN":
            kinds[code] = WORD
        elif category[0] == "M":
            kinds[code] = MARK
    kinds[ord("_")] = WORD
    for first, last in _LONE_RANGES:
        span = kinds[first : last + 1]
        span[span == WORD] = LONE
    for first, last in _INVISIBLE_RANGES:
        kinds[first : last + 1] = INVISIBLE
    return kinds


@cache
def _caseless_hashes() -> Hashes:
    """Return a 64-bit hash of every code point without its case, (1114112,)."""
    codes = np.arange(sys.maxunicode + 1, dtype=np.uint64)
    for code in range(sys.maxunicode + 1):
        folded = chr(code).casefold()
        if len(folded) == 1:
            codes[code] = ord(folded)
    return mix(codes)


def code_points(text: str) -> NDArray[np.uint32]:
    """Return the text's code points, (n_characters,)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def mix(values: Hashes) -> Hashes:
    """Scramble 64-bit values, one to one (the finaliser of splitmix64)."""
    values = values + _BASE
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_words(texts: Sequence[str]) -> Words:
    """Find and hash the words of texts; a text's words do not depend on the texts beside it.

    Works on pieces that end at white space, so that memory is bounded whatever the length of the texts.
    """
    texts = [text if text.isascii() else unicodedata.normalize("NFKC", text) for text in texts]
    joined = "\n".join(texts)
    pieces = [_words_of(joined[start:stop], start) for start, stop in _pieces(joined)]
    starts, hashes, lengths = (np.concatenate(arrays) for arrays in zip(*pieces, strict=True))
    ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    offsets = np.searchsorted(starts, np.concatenate([[0], ends]))
    return Words(hashes, lengths, offsets.astype(np.int64))


def _pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of pieces of about _PIECE characters that tile the text; one for an empty text."""
    start = 0
    while start + _PIECE < len(text):
        stops = [text.find(space, start + _PIECE) for space in " \n"]
        stop = min((place for place in stops if place >= 0), default=len(text))
        yield start, stop
        start = stop
    if start < len(text) or not text:
        yield start, len(text)


def _words_of(text: str, shift: int) -> tuple[Integers, Hashes, Integers]:
    """Return the words' first characters (counted from -shift), hashes and lengths."""
    points = code_points(text)
    kinds = character_kinds()[points]
    places = None
    if (hidden := kinds == INVISIBLE).any():
        places = np.flatnonzero(~hidden)
        points, kinds = points[places], kinds[places]
    lone = kinds == LONE
    if (marks := kinds == MARK).any():
        bases = np.where(marks, 0, np.arange(len(kinds)))
        kinds = kinds[np.maximum.accumulate(bases)]  # a mark at the very start stays one: part of no word
    in_word = kinds == WORD
    starts = lone.copy()
    starts[1:] |= in_word[1:] & ~in_word[:-1]
    starts[:1] |= in_word[:1]
    at = np.flatnonzero(in_word | (kinds == LONE))
    first = np.flatnonzero(starts[at])
    lengths = np.diff(np.append(first, len(at))).astype(np.int64)
    if len(first) == 0:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64), lengths
    place = np.arange(len(at)) - np.repeat(first, lengths)
    powers = np.cumprod(np.full(int(lengths.max()), _BASE, dtype=np.uint64))
    hashes = mix(np.add.reduceat(_caseless_hashes()[points[at]] * powers[place], first))
    origin = at[first] if places is None else places[at[first]]
    return origin + shift, hashes, lengths


def hash_ngrams(words: Hashes, n: int) -> Hashes:
    """Hash every window of n words, (max(0, n_words - n + 1),); order within the window counts."""
    count = max(0, len(words) - n + 1)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(n):
        total = mix(total * _BASE + words[place : place + count])
    return total


def extend_ngrams(grams: Hashes, words: Hashes, starts: Integers, length: int, n: int) -> Hashes:
    """Return the hashes of windows of n words from those of their first `length` words.

    grams: (k,) of the windows that begin at the words `starts` (k,); as `hash_ngrams` would give them.
    """
    for place in range(length, n):
        grams = mix(grams * _BASE + words[starts + place])
    return grams


def hash_text(text: str) -> int:
    """Return a 64-bit hash of a whole text."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )
