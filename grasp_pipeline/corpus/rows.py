"""One row of an input file: its text, or the fault that stands in its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from grasp_pipeline.corpus.normalize import repair_surrogates
from grasp_pipeline.errors import InputError

BOM = b"\xef\xbb\xbf"


@dataclass
class Extent:
    """How much of a file its rows account for, so that a part that was passed over is seen.

    Attributes:
        unit: ``byte`` of the decompressed content as UTF-8, or ``row`` where the format counts its rows.
        size: of the whole file, counted below what cuts it into rows; None until it was read to the end, and for
            data sets that do not know theirs.
        between: units read so far that belong to no row: blank lines.
    """

    unit: str = "byte"
    size: int | None = None
    between: int = 0


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        row: 0-based row, or line of a JSON-lines file.
        text: the document, or None where there is a fault.
        fields: the other columns asked for; None where null or absent.
        n_bytes: bytes of the text, as UTF-8, as far as it is known.
        fault: None, ``unparsable_json``, ``not_an_object``, ``invalid_utf8``, ``missing_text``,
            ``repeated_text``, ``text_not_string`` or ``oversized``.
        detail: the fault in words; holds nothing of the document.
        span: units of the file that the row takes, as `Extent` counts them.
    """

    row: int
    text: str | None
    fields: dict[str, str | None]
    n_bytes: int
    fault: str | None = None
    detail: str | None = None
    span: int = 1


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
        text: holds the document.
        required: others that the file must have.
        optional: others that it may have.
    """

    text: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

    @property
    def others(self) -> tuple[str, ...]:
        return self.required + self.optional


def decoded(
    row: int, data: bytes | None, fields: dict[str, str | None], max_bytes: int, where: str = ""
) -> Row:
    """Return a row for a text in bytes: UTF-8, or a fault."""
    if data is None:
        return Row(row, None, fields, 0, "missing_text", f"{where}the text is null")
    if len(data) > max_bytes:
        return oversized(row, len(data), fields, max_bytes)
    try:
        return Row(row, data.decode("utf-8"), fields, len(data))
    except UnicodeDecodeError as error:
        detail = f"{where}byte {error.start} is not UTF-8"
        return Row(row, None, fields, len(data), "invalid_utf8", detail)


def oversized(row: int, size: int, fields: dict[str, str | None], max_bytes: int) -> Row:
    """Return the row of a text above the limit; the text is not kept, its size is."""
    return Row(row, None, fields, size, "oversized", f"{size} bytes are above max_document_bytes {max_bytes}")


def as_field(value: Any) -> str | None:
    """Return a value of another column as text; None stays.

    Bytes that are UTF-8 are that text; others, such as digests, are written in hexadecimal.
    """
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.hex()
    return None if value is None else repair_surrogates(value if isinstance(value, str) else str(value))


def missing_column(uri: str, column: str, available: Iterable[str]) -> InputError:
    """Return the error for a column that a file does not have."""
    names = ", ".join(map(repr, available)) or "none"
    return InputError(
        f"The input {uri!r} has no column {column!r}; its columns are {names}: "
        "name the right one in the configuration."
    )


def repeated_column(uri: str, column: str) -> InputError:
    """Return the error for a file in which two columns have the name of one that is read."""
    return InputError(
        f"The input {uri!r} has more than one column {column!r}; rename or remove all but the one to read."
    )


def not_text(uri: str, column: str, kind: str) -> InputError:
    """Return the error for a text column that holds something else."""
    return InputError(
        f"The column {column!r} of the input {uri!r} holds {kind}, not text; name the column with the text "
        "in the configuration."
    )
