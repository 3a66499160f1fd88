"""One normal form for text, so that equal documents have equal digests."""

from __future__ import annotations

import hashlib
import re
import unicodedata

_NEWLINE = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# C0 and C1 controls but tab and newline; zero-width space, word joiner and byte-order mark. The zero-width
# joiner and non-joiner stay: Persian, Indic scripts and emoji are spelled with them.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
_UNUSUAL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\u2060\ufeff]")
_BLANK_LINES = re.compile("\n{5,}")
_ASCII_NEWLINES = bytes.maketrans(b"\r\x0b\x0c", b"\n\n\n")
_ASCII_INVISIBLE = bytes(code for code in range(128) if _INVISIBLE.match(chr(code)))


def repair_surrogates(text: str) -> str:
    """Return text that can be encoded as UTF-8: surrogate pairs are joined, lone surrogates become U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def normalize_text(text: str) -> str:
    r"""Return the normal form of a document; normalising twice changes nothing.

    Newlines become ``\n``; control characters other than tab and newline, zero-width spaces and byte-order
    marks go; Unicode is composed (NFC); lines lose trailing spaces; more than three blank lines in a row
    become three; the ends are stripped.
    """
    if text.isascii():
        data = text.encode("ascii").replace(b"\r\n", b"\n").translate(_ASCII_NEWLINES, _ASCII_INVISIBLE)
        text = data.decode("ascii")
        ragged = " \n" in text or "\t\n" in text
    else:
        text = repair_surrogates(text)
        if _UNUSUAL.search(text):
            text = _INVISIBLE.sub("", _NEWLINE.sub("\n", text))
        text = unicodedata.normalize("NFC", text)
        ragged = True
    if ragged:
        text = "\n".join(map(str.rstrip, text.split("\n")))
    if "\n\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n\n", text)
    return text.strip()


def document_id(text: str) -> str:
    """Return the sha-256 hex digest of a normalised text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
