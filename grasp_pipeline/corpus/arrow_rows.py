"""Rows of Arrow tables: Parquet files and Hugging Face datasets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from grasp_pipeline.corpus.rows import (
    Columns,
    Extent,
    Row,
    as_field,
    decoded,
    missing_column,
    not_text,
    repeated_column,
)
from grasp_pipeline.errors import InputError

_BUFFER_BYTES = 1 << 20
_BATCH_BYTES = 16_000_000
_MOST_BATCH_ROWS = 1_024
_EXPANDED_BYTES, _EXPANSION = 2**28, 1_000


def parquet_rows(
    uri: str,
    source: pa.NativeFile,
    columns: Columns,
    max_bytes: int,
    batch_rows: int | None,
    extent: Extent,
) -> Iterator[Row]:
    """Stream the rows of a Parquet file; `batch_rows` are decoded at once, by default about _BATCH_BYTES."""
    options = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}
    parquet = pq.ParquetFile(source, **options)
    _check_schema(uri, parquet.schema_arrow, columns)
    _check_expansion(uri, parquet.metadata, source.size())
    if _is_string(_value_type(parquet.schema_arrow.field(columns.text).type)):
        # As a dictionary, one text that thousands of rows name is held once.
        options["read_dictionary"] = [columns.text]
        parquet = pq.ParquetFile(source, metadata=parquet.metadata, **options)
    present = [name for name in (columns.text, *columns.others) if name in parquet.schema_arrow.names]
    metadata = parquet.metadata
    extent.size = metadata.num_rows
    size = sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups))
    rows = _BATCH_BYTES * metadata.num_rows // max(1, size)
    batches = parquet.iter_batches(batch_rows or min(max(1, rows), _MOST_BATCH_ROWS), columns=present)
    yield from table_rows(uri, batches, columns, max_bytes)


def _check_expansion(uri: str, metadata: pq.FileMetaData, packed: int) -> None:
    """Refuse a file of `packed` bytes that was made to fill the memory: no corpus of text is packed a thousandfold.

    The sizes are those of row groups: pyarrow ends the process where the metadata of one column are broken.
    """
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        if size > max(_EXPANDED_BYTES, _EXPANSION * packed):
            raise InputError(
                f"Row group {group} of the input {uri!r} expands to {size:,} bytes in a file of {packed:,}, "
                "which no text does; remove the file, or write it in smaller row groups"
            )


def _check_schema(uri: str, schema: pa.Schema, columns: Columns) -> None:
    for name in (columns.text, *columns.required):
        if name not in schema.names:
            raise missing_column(uri, name, schema.names)
    for name in (columns.text, *columns.others):
        if schema.names.count(name) > 1:
            raise repeated_column(uri, name)
    kind = _value_type(schema.field(columns.text).type)
    if not (_is_string(kind) or pa.types.is_null(kind)):  # all null: writers know no better type
        raise not_text(uri, columns.text, str(kind))


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_string(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def table_rows(
    uri: str, tables: Iterable[pa.Table | pa.RecordBatch], columns: Columns, max_bytes: int
) -> Iterator[Row]:
    """Turn tables with the same columns into rows."""
    row = 0
    for table in tables:
        _check_schema(uri, table.schema, columns)
        others = {
            name: _field_values(table.column(name)) if name in table.schema.names else [None] * table.num_rows
            for name in columns.others
        }
        for index, data in enumerate(_text_bytes(table.column(columns.text))):
            fields = {name: values[index] for name, values in others.items()}
            yield decoded(row, data, fields, max_bytes)
            row += 1


def _text_bytes(column: pa.ChunkedArray | pa.Array) -> Iterator[bytes | None]:
    """Yield the strings of a column as bytes: Arrow does not check that they are UTF-8.

    Those of a dictionary are made one at a time, since many rows may name a long one.
    """
    for piece in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if pa.types.is_dictionary(piece.type):
            texts = piece.dictionary.cast(pa.large_binary())
            for index in piece.indices.to_pylist():
                if index is not None and not 0 <= index < len(texts):
                    raise pa.ArrowInvalid(f"a row names text {index} of a dictionary of {len(texts)}")
                yield None if index is None else texts[index].as_py()
        else:
            yield from piece.cast(pa.large_binary()).to_pylist()


def _field_values(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    if _is_string(_value_type(column.type)):
        return [None if data is None else data.decode("utf-8", "replace") for data in _text_bytes(column)]
    return [as_field(value) for value in column.to_pylist()]
