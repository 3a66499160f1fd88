"""Lexica: WordNet's glosses, the Jargon File and the Free On-line Dictionary of Computing."""

import gzip
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from .correspondence import mask_addresses
from .packages import Package
from .pages import Page, slug, tidy

_WORDNET = Path("usr/share/wordnet")
_JARGON = Path("usr/share/doc/jargon-text/jargon.txt.gz")
_FOLDOC = Path("usr/share/dictd")
_GLOSS_BYTES = 1_500

# The lexicographer files by number, as in the manual page lexnames(5).
# fmt: off
_LEXICOGRAPHER_FILES = (
    "adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact",
    "noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event",
    "noun.feeling", "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object",
    "noun.person", "noun.phenomenon", "noun.plant", "noun.possession", "noun.process", "noun.quantity",
    "noun.relation", "noun.shape", "noun.state", "noun.substance", "noun.time", "verb.body",
    "verb.change", "verb.cognition", "verb.communication", "verb.competition", "verb.consumption",
    "verb.contact", "verb.creation", "verb.emotion", "verb.motion", "verb.perception",
    "verb.possession", "verb.social", "verb.stative", "verb.weather", "adj.ppl",
)
# fmt: on

_JARGON_BORDER = re.compile(
    r"^(?:   :(?P<entry>\S[^\n]*?):(?= |$)|(?P<chapter>(?:Chapter|Appendix)\s\w+\.\s[^\n]+))", re.M
)
_BASE64 = {
    letter: value
    for value, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
}


def wordnet_pages(package: Package) -> Iterator[Page]:
    """Consecutive synsets of a lexicographer file, about 1.5 KB of them a page."""
    for part in ("adj", "adv", "noun", "verb"):
        path = package.root / _WORDNET / f"data.{part}"
        groups: dict[str, list[str]] = {}
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if not line.startswith(" "):  # the licence at the top is indented
                file, gloss = _synset(line)
                groups.setdefault(file, []).append(gloss)
        for file, glosses in sorted(groups.items()):
            for number, text in enumerate(_batches(glosses), start=1):
                yield Page(f"wordnet/{file}/{number:04d}", "wordnet", partial(str, text))


def _synset(line: str) -> tuple[str, str]:
    """The lexicographer file and the readable form of a synset's line, as in wndb(5)."""
    data, _, gloss = line.partition(" | ")
    fields = data.split()
    count = int(fields[3], 16)
    lemmas = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
    return _LEXICOGRAPHER_FILES[int(fields[1])], f"{', '.join(lemmas)}: {gloss.strip()}"


def _batches(lines: list[str]) -> Iterator[str]:
    batch: list[str] = []
    for line in lines:
        batch.append(line)
        if sum(map(len, batch)) >= _GLOSS_BYTES:
            yield "\n".join(batch)
            batch = []
    if batch:
        yield "\n".join(batch)


def jargon_pages(package: Package) -> Iterator[Page]:
    """Entries, chapters and appendices of the Jargon File."""
    text = gzip.decompress((package.root / _JARGON).read_bytes()).decode("utf-8", errors="replace")
    borders = list(_JARGON_BORDER.finditer(text))
    spans = [("contents", text[: borders[0].start()])]
    for border, end in zip(borders, [*(later.start() for later in borders[1:]), len(text)], strict=True):
        spans.append((border["entry"] or border["chapter"], text[border.start() : end]))
    yield from _entry_pages("jargon", spans)


def foldoc_pages(package: Package) -> Iterator[Page]:
    """Entries of the dictionary of computing; headwords of one entry share its page."""
    data = gzip.decompress((package.root / _FOLDOC / "foldoc.dict.dz").read_bytes())
    heads: dict[tuple[int, int], str] = {}
    for line in (package.root / _FOLDOC / "foldoc.index").read_text(encoding="utf-8").splitlines():
        head, start, length = line.rsplit("\t", 2)
        heads.setdefault((_number(start), _number(length)), head)
    spans = [
        (head, data[start : start + length].decode("utf-8", errors="replace"))
        for (start, length), head in sorted(heads.items())
    ]
    yield from _entry_pages("foldoc", spans)


def _number(text: str) -> int:
    value = 0
    for letter in text:
        value = value * 64 + _BASE64[letter]
    return value


def _entry_pages(source: str, spans: list[tuple[str, str]]) -> Iterator[Page]:
    """Pages with ids from headwords; a headword seen before gets a number."""
    seen: dict[str, int] = {}
    pages = []
    for head, text in spans:
        name = slug(head)
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}~{seen[name]}"
        pages.append(Page(f"{source}/{unique}", source, partial(_entry_text, text)))
    yield from sorted(pages, key=lambda page: page.id)


def _entry_text(text: str) -> str:
    return mask_addresses(tidy(text))
