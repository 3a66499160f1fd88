"""What a file that is not what its name says probably is, from what it begins with."""

from __future__ import annotations

import codecs
import json
import re

from grasp_pipeline.corpus.rows import BOM

_BINARY = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"SQLite format 3": "an SQLite database",
    b"%PDF": "a PDF file",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b\x08": "gzip-compressed data",
    b"\x28\xb5\x2f\xfd": "zstd-compressed data",
    b"\xfd7zXZ\x00": "xz-compressed data",
    b"7z\xbc\xaf": "a 7z archive",
}


def binary_kind(head: bytes) -> str | None:
    """Return what kind of binary file begins so, with its article, or None."""
    return next((kind for magic, kind in _BINARY.items() if head.startswith(magic)), None)


def markup_kind(head: bytes) -> str | None:
    """Return what kind of text that is no data begins so, or None."""
    if head.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS instead of the file"
    return "an HTML or XML page" if head.removeprefix(BOM).lstrip().startswith(b"<") else None


def not_json_lines(head: bytes, first_fault: str) -> str:
    """Return what a file without a line of JSON probably is and what to do, as the end of a sentence.

    Args:
        head: what it begins with.
        first_fault: what is wrong with its first line.
    """
    if (kind := markup_kind(head)) is not None:
        return f"it looks like {kind}; fetch it again"
    if (kind := binary_kind(head)) is not None:
        return f"it looks like {kind}; unpack it or give it the ending of its format"
    if not _is_utf8(head):
        return "it is not UTF-8; convert it, as with iconv"
    first = head.removeprefix(BOM).lstrip().split(b"\n", 1)[0]
    if b"\0" in head:
        return "it holds zero bytes; write it again"
    if re.match(rb"\{\s*'", first):
        return "it looks like Python dictionaries; write them with json.dumps"
    if not first.startswith(b"{") and any(mark in first for mark in (b",", b"\t", b";")):
        return "it looks like CSV; write it as JSON lines, one object a line"
    return f"{first_fault}; write it as JSON lines, one object a line, or name a text file .txt"


def spans_lines(head: bytes) -> bool:
    """Return whether a file begins with a JSON object that takes several lines."""
    text = head.removeprefix(BOM).decode("utf-8", "replace").lstrip()
    if not text.startswith("{"):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return "\n" in text[:end]


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # its last character may be cut
    except UnicodeDecodeError:
        return False
    return True
