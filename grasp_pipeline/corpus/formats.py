"""From one file to its rows, whatever its format. Only a file that is bad as a whole is an error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pyarrow as pa

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus import hub
from grasp_pipeline.corpus.arrow_rows import parquet_rows, table_rows
from grasp_pipeline.corpus.files import InputFile
from grasp_pipeline.corpus.json_rows import json_rows
from grasp_pipeline.corpus.rows import BOM, Columns, Extent, Row, decoded, oversized
from grasp_pipeline.corpus.sniffing import binary_kind, markup_kind
from grasp_pipeline.corpus.storage import StorageOptions, file_system, path_of
from grasp_pipeline.corpus.streams import open_utf8
from grasp_pipeline.errors import InputError

_BUFFER_BYTES = 1 << 20
_HEAD_BYTES = 4_096


def read_rows(
    file: InputFile,
    columns: Columns,
    max_bytes: int,
    storage_options: StorageOptions | None = None,
    config: InputConfig | None = None,
    batch_rows: int | None = None,
    extent: Extent | None = None,
) -> Iterator[Row]:
    """Stream the rows of a file, in order; memory is bounded by a batch of rows and `max_bytes`.

    Args:
        file: as `files.resolve_inputs` gives it.
        columns: what to read.
        max_bytes: longer texts become rows with the fault ``oversized``.
        storage_options: for object stores.
        config: names the configuration and split of a Hugging Face dataset; needed for those only.
        batch_rows: rows decoded at once; the default follows from the size of the rows.
        extent: is told how much of the file the rows account for.

    Raises:
        InputError: the file is missing, truncated or not in its format, not one of its lines is JSON, or it
            lacks a column or has no text in it.
    """
    extent = extent or Extent()
    if file.format == "huggingface":
        if config is None:
            raise ValueError("a Hugging Face dataset needs its InputConfig")
        extent.unit = "row"
        yield from table_rows(file.uri, hub.read_tables(file.uri, config, extent), columns, max_bytes)
    elif file.format == "parquet":
        system = file_system(file.uri, storage_options)
        extent.unit = "row"
        with _readable(file, "Parquet"), system.open_input_file(path_of(file.uri)) as source:
            head = source.read(_HEAD_BYTES)
            if not head.startswith(b"PAR1") and (kind := markup_kind(head) or binary_kind(head)) is not None:
                raise OSError(f"it looks like {kind}")
            source.seek(0)
            yield from parquet_rows(file.uri, source, columns, max_bytes, batch_rows, extent)
    elif file.format == "jsonl":
        with _readable(file, "JSON-lines"), open_utf8(file, storage_options, extent, lines=True) as stream:
            yield from json_rows(file.uri, stream, columns, max_bytes, extent)
    else:
        with _readable(file, "text"), open_utf8(file, storage_options, extent) as stream:
            yield _text_row(stream, columns, max_bytes)


@contextmanager
def _readable(file: InputFile, kind: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(
            f"The input file {file.uri!r} has gone; restore it or run the manifest again."
        ) from error
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        packed = f"{file.compression}-compressed " if file.compression else ""
        raise InputError(
            f"The input file {file.uri!r} is not a complete {packed}{kind} file ({_first_words(error)}); "
            "write it again or remove it."
        ) from error


def _first_words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(".")


def _text_row(stream: BinaryIO, columns: Columns, max_bytes: int) -> Row:
    fields: dict[str, str | None] = dict.fromkeys(columns.others)
    data = stream.read(max_bytes + 1)
    if len(data) > max_bytes:
        size = len(data)
        while piece := stream.read(_BUFFER_BYTES):
            size += len(piece)
        return oversized(0, size, fields, max_bytes)._replace(span=size)
    return decoded(0, data.removeprefix(BOM), fields, max_bytes)._replace(span=len(data))
