"""HTML and Mallard pages as plain text; headings keep `#` marks, code keeps its lines."""

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

from .pages import tidy

# fmt: off
_SKIPPED_TAGS = frozenset((
    "button", "form", "head", "label", "nav", "noscript", "script", "select", "style", "svg",
    "template", "title",
))
_SKIPPED_CLASSES = frozenset((
    "boring", "editsection", "hideme", "line-numbers", "menu-bar", "sidebar", "t-navbar", "test-arrow",
    "toc",
))
_LINE_TAGS = frozenset((
    "br", "caption", "dd", "div", "dt", "footer", "header", "li", "main", "section", "summary", "tr",
))
_PARAGRAPH_TAGS = frozenset((
    "article", "blockquote", "details", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "ol", "p", "pre",
    "table", "ul",
))
_VOID_TAGS = frozenset((
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track",
    "wbr",
))
# fmt: on
_CELLS = frozenset(("td", "th"))


class _TextBuilder(HTMLParser):
    """Collects the text a reader of the page would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []
        self._newlines = 0  # line breaks due before the next text
        self._space = False  # a space is due before the next text
        self._marked = False  # a list or heading mark waits for its text on the same line
        self._pre = 0
        self._skip_tag = ""
        self._skip_depth = 0

    def text(self) -> str:
        return tidy("".join(self._out))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skip_depth:
            self._skip_depth += tag == self._skip_tag
            return
        classes = next((value or "" for name, value in attrs if name == "class"), "").split()
        if tag in _SKIPPED_TAGS or not _SKIPPED_CLASSES.isdisjoint(classes):
            if tag not in _VOID_TAGS:
                self._skip_tag, self._skip_depth = tag, 1
            return
        self._break(tag)
        if tag == "pre":
            self._pre += 1
        elif tag == "li":
            self._mark("- ")
        elif len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self._mark("#" * int(tag[1]) + " ")
        elif tag in _CELLS:
            self._space = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if not self._skip_depth:
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skip_depth:
            self._skip_depth -= tag == self._skip_tag
            return
        if tag == "pre":
            self._pre = max(0, self._pre - 1)
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if self._skip_depth or not data:
            return
        if self._pre:
            self._flush()
            self._out.append(data)
            return
        words = data.split()
        if words:
            if data[0].isspace():
                self._space = True
            self._flush()
            self._out.append(" ".join(words))
        self._space = self._space or data[-1].isspace()

    def _break(self, tag: str) -> None:
        if tag in _PARAGRAPH_TAGS:
            self._newlines = 2
        elif tag in _LINE_TAGS:
            if self._pre and tag == "br":
                self._out.append("\n")
            else:
                self._newlines = max(self._newlines, 1)

    def _mark(self, mark: str) -> None:
        self._flush()
        self._out.append(mark)
        self._marked = True

    def _flush(self) -> None:
        if not self._marked:
            if self._newlines:
                self._out.append("\n" * self._newlines)
            elif self._space:
                self._out.append(" ")
        self._newlines, self._space, self._marked = 0, False, False


def html_text(html: str) -> str:
    """The visible text of an HTML page or fragment."""
    builder = _TextBuilder()
    builder.feed(html)
    builder.close()
    return builder.text()


_LISTS = frozenset(("list", "steps", "terms", "tree"))
_VERBATIM = frozenset(("code", "screen"))
# fmt: off
_BLOCKS = _LISTS | _VERBATIM | frozenset((
    "p", "title", "note", "section", "item", "example", "table", "figure", "media", "quote", "listing",
    "synopsis", "comment", "tr", "td", "thead", "tbody",
))
# fmt: on
_OMITTED = frozenset(("info", "links", "include", "col", "colgroup"))


def mallard_text(xml: bytes) -> str:
    """The text of a Mallard help page: title, description, then its blocks."""
    root = ElementTree.fromstring(xml)
    out: list[str] = []
    for child in root:
        if _tag(child) == "title":
            out.append(f"# {_flat(child)}")
    for info in root:
        if _tag(info) == "info":
            out.extend(_flat(desc) for desc in info if _tag(desc) == "desc")
    out.extend(line for child in root if _tag(child) != "title" for line in _block(child, 1))
    return tidy("\n\n".join(part for part in out if part.strip()))


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def _flat(element: ElementTree.Element) -> str:
    return re.sub(r"\s+", " ", "".join(element.itertext())).strip()


def _block(element: ElementTree.Element, depth: int) -> list[str]:
    """The paragraphs that a block element becomes."""
    tag = _tag(element)
    if tag in _OMITTED or not tag:
        return []
    if tag in _VERBATIM:
        return ["".join(element.itertext()).strip("\n")]
    if tag == "title":
        return [f"{'#' * min(depth, 6)} {_flat(element)}"]
    if tag in _LISTS:
        return ["\n".join(_items(element, depth))]
    if tag == "tr":
        return [" | ".join(" ".join(_children(cell, depth)) or _flat(cell) for cell in element)]
    if tag == "p" or not any(_tag(child) in _BLOCKS for child in element):
        return [_flat(element)]
    return _children(element, depth + (tag == "section"))


def _children(element: ElementTree.Element, depth: int) -> list[str]:
    return [part for child in element for part in _block(child, depth)]


def _items(element: ElementTree.Element, depth: int) -> list[str]:
    lines = []
    number = 0
    for child in element:
        if _tag(child) != "item":
            lines.extend(_block(child, depth + 1))
            continue
        number += 1
        mark = f"{number}. " if _tag(element) == "steps" else "- "
        parts = [
            part
            for block in child
            for part in ([_flat(block)] if _tag(block) == "title" else _block(block, depth + 1))
        ]
        lines.append(mark + "\n".join(parts or [_flat(child)]))
    return lines
