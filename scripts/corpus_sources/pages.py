"""Pages of a source: identity, drawing order, cutting into documents."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

DOCUMENT_BYTES = 40_000  # no corpus document is larger

_BORDERS = (
    re.compile(r"\n(?=#{1,6} \S)"),  # a heading of a converted page
    re.compile(r"\n(?=\S[^\n]*\n([=\-*~^\"#+'])\1{3,}\n)"),  # a title underlined in reStructuredText
    re.compile(r"\n\n+"),
    re.compile(r"\n"),
    re.compile(r"(?<=[.!?]) "),
    re.compile(r" "),
)
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?»”)])\s+(?=\S)")


@dataclass(frozen=True)
class Page:
    """One page of a source, converted only when it is asked for.

    Pages that share a `draw_key` are drawn together: a help page and its translations.
    """

    id: str
    source: str
    load: Callable[[], str]
    draw_key: str = ""

    @property
    def rank(self) -> str:
        """The page's place in the random order of its source, fixed by its name alone."""
        return draw(self.draw_key or self.id)


@dataclass(frozen=True, slots=True)
class Document:
    """One row of the corpus."""

    id: str
    source: str
    text: str

    @property
    def size(self) -> int:
        """Bytes of text."""
        return len(self.text.encode())


def draw(name: str) -> str:
    """A number for a name that is the same on every machine, as sortable text."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def slug(name: str) -> str:
    """A name as it appears in an id: no white space, no `#`."""
    return re.sub(r"\s+", "_", name.strip()).replace("#", "%23")


def tidy(text: str) -> str:
    """Unix line ends, no trailing blanks, no runs of empty lines."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").removeprefix("\ufeff")
    text = re.sub(r"[ \t\u00a0]+\n", "\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n ")


def documents(page: Page) -> Iterator[Document]:
    """The page as corpus documents: itself, or parts `#2`, `#3`... where it is too long."""
    text = page.load()
    if not text.strip():
        return
    for number, part in enumerate(split(text, DOCUMENT_BYTES), start=1):
        yield Document(page.id if number == 1 else f"{page.id}#{number}", page.source, part)


def split(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` bytes, cut at the coarsest border that serves."""
    parts = [""]
    for piece in _pieces(text, limit, 0):
        if len((parts[-1] + piece).encode()) > limit:
            parts.append("")
        parts[-1] += piece
    return [stripped for part in parts if (stripped := part.strip("\n"))]


def _pieces(text: str, limit: int, level: int) -> Iterator[str]:
    """The text in pieces that each fit the limit; put together they are the text."""
    if len(text.encode()) <= limit:
        yield text
        return
    if level == len(_BORDERS):  # an unbroken run of characters
        step = limit // 4
        yield from (text[at : at + step] for at in range(0, len(text), step))
        return
    cuts = [0, *(match.end() for match in _BORDERS[level].finditer(text)), len(text)]
    for start, end in pairwise(cuts):
        if start < end:
            yield from _pieces(text[start:end], limit, level + 1)


def excerpt(text: str, low: int, high: int) -> str | None:
    """The start of a text up to the last border before `high` characters; None if below `low`."""
    text = text.strip()
    if len(text) > high:
        for border in (_PARAGRAPH, _SENTENCE, re.compile(r"\n"), re.compile(r"\s")):
            ends = [match.start() for match in border.finditer(text, 0, high + 1)]
            if ends and ends[-1] >= high // 2:
                text = text[: ends[-1]].rstrip()
                break
        else:
            text = text[:high]
    return text if len(text) >= low else None
