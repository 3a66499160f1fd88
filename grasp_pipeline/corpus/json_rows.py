"""Rows of JSON-lines files. A line that cannot be used becomes a row with a fault."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from grasp_pipeline.corpus.normalize import repair_surrogates
from grasp_pipeline.corpus.rows import (
    BOM,
    Columns,
    Extent,
    Row,
    as_field,
    missing_column,
    not_text,
    oversized,
)
from grasp_pipeline.corpus.sniffing import not_json_lines, spans_lines
from grasp_pipeline.errors import InputError

_BUFFER_BYTES = 1 << 20
_JSON_ESCAPE = 6  # \u0061: bytes a byte of text can take in JSON
_JSON_ROOM = 1 << 20  # for the other values of a line
_ROWS_TO_JUDGE = 10_000  # JSON rows after which a column that none has is called missing


def json_rows(
    uri: str, stream: io.BufferedReader, columns: Columns, max_bytes: int, extent: Extent
) -> Iterator[Row]:
    """Stream the rows of JSON lines; `row` is the 0-based line, blank lines are passed over.

    Raises:
        InputError: the file is one JSON array, its objects take several lines, no line is an object, or none has
            one of the columns.
    """
    limit = _JSON_ESCAPE * max_bytes + _JSON_ROOM
    head = stream.peek(_BUFFER_BYTES)
    if spans_lines(head):
        raise InputError(
            f"The objects of the input file {uri!r} take several lines each; write one object a line, as with "
            "`jq -c .`."
        )
    seen = _Seen(uri, columns, head)
    for number, (line, size) in enumerate(_lines(stream, limit)):
        if line is not None:
            line = line.removeprefix(BOM)  # of a later file too, where files were joined
            if not line.strip():
                extent.between += size
                continue
        if not seen.rows and _is_array(head if line is None else line):
            raise InputError(
                f"The input file {uri!r} holds a JSON array; write it as JSON lines, one object a line."
            )
        if line is None:
            detail = f"a line of {size} bytes is above the limit {limit}"
            row = Row(number, None, {}, size, "oversized", detail)
        else:
            row = _json_row(number, line, columns, max_bytes, seen)
        seen.count(row)
        yield row._replace(span=size)
    seen.judge()


def _lines(stream: io.BufferedReader, limit: int) -> Iterator[tuple[bytes | None, int]]:
    """Yield (line, its bytes); a line above the limit is passed over in pieces and gives None."""
    while line := stream.readline(limit + 1):
        size = len(line)
        if size <= limit or line.endswith(b"\n"):
            yield line, size
            continue
        del line
        while piece := stream.readline(_BUFFER_BYTES):
            size += len(piece)
            if piece.endswith(b"\n"):
                break
        yield None, size


def _is_array(line: bytes) -> bool:
    """Return whether a file's first line begins an array of objects, which is JSON but not JSON lines."""
    line = line.removeprefix(BOM)
    if not line.lstrip().startswith(b"["):
        return False
    try:
        return any(isinstance(item, dict) for item in json.loads(line))
    except (ValueError, RecursionError):
        return True


def _json_row(number: int, line: bytes, columns: Columns, max_bytes: int, seen: _Seen) -> Row:
    where = f"line {number + 1}"
    try:
        record = _parsed(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"{where}: byte {error.start} is not UTF-8"
        return Row(number, None, {}, len(line), "invalid_utf8", detail)
    except json.JSONDecodeError as error:
        return Row(number, None, {}, 0, "unparsable_json", f"{where}, column {error.colno}: {error.msg}")
    except RecursionError as error:  # nesting a thousand deep
        return Row(number, None, {}, 0, "unparsable_json", f"{where}: {type(error).__name__}")
    if not isinstance(record, dict):
        return Row(number, None, {}, 0, "not_an_object", f"{where} is not a JSON object")
    if line.count(json.dumps(columns.text, ensure_ascii=False).encode()) > 1 and _repeated(
        line, columns.text
    ):
        return Row(number, None, {}, 0, "repeated_text", f"{where} has the text's key more than once")
    seen.add(record)
    try:
        fields = {name: as_field(record.get(name)) for name in columns.others}
    except RecursionError:
        return Row(number, None, {}, 0, "unparsable_json", f"{where}: RecursionError")
    text = record.get(columns.text)
    if text is None:
        missing = "is null" if columns.text in record else "is absent"
        return Row(number, None, fields, 0, "missing_text", f"{where}: the text {missing}")
    if not isinstance(text, str):
        detail = f"{where}: the text is a {type(text).__name__}"
        return Row(number, None, fields, 0, "text_not_string", detail)
    text = repair_surrogates(text)
    size = len(text.encode("utf-8"))
    return oversized(number, size, fields, max_bytes) if size > max_bytes else Row(number, text, fields, size)


def _parsed(line: str) -> Any:
    """Parse a line; integers of thousands of digits, which `int` refuses, become decimals."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        raise
    except ValueError:
        return json.loads(line, parse_int=Decimal)


def _repeated(line: bytes, key: str) -> bool:
    """Return whether a line's object has a key more than once; of those `json` keeps the last alone."""
    pairs = json.loads(line, object_pairs_hook=list, parse_int=Decimal)
    return [name for name, _ in pairs].count(key) > 1


@dataclass
class _Seen:
    """The columns of a JSON-lines file's objects: tells a wrong column name from rows without text."""

    uri: str
    columns: Columns
    head: bytes
    rows: int = 0
    first_fault: str = ""
    objects: int = 0
    texts: int = 0
    wrong_type: str = ""
    names: set[str] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        self.objects += 1
        value = record.get(self.columns.text)
        self.texts += isinstance(value, str)
        if value is not None and not isinstance(value, str):
            self.wrong_type = type(value).__name__
        if self.objects <= _ROWS_TO_JUDGE:
            self.names.update(record)

    def count(self, row: Row) -> None:
        """Count a row; after many it shows whether the file is of this format."""
        self.rows += 1
        self.first_fault = self.first_fault or row.detail or ""
        if self.objects == _ROWS_TO_JUDGE or (self.rows == _ROWS_TO_JUDGE and not self.objects):
            self.judge()

    def judge(self) -> None:
        """Raise an InputError if no row so far was an object, none had one of the columns, or none had text."""
        if self.rows and not self.objects:
            reason = not_json_lines(self.head, self.first_fault)
            raise InputError(f"No line of the input file {self.uri!r} is a JSON object: {reason}.")
        if not self.objects or self.objects > _ROWS_TO_JUDGE:
            return
        for name in (self.columns.text, *self.columns.required):
            if name not in self.names:
                raise missing_column(self.uri, name, sorted(self.names)[:20])
        if not self.texts and self.wrong_type:
            raise not_text(self.uri, self.columns.text, self.wrong_type)
