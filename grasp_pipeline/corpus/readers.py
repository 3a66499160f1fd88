"""From the input configuration to blocks of raw rows: the units that are assigned to shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import polars as pl

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import InputFile, resolve_inputs
from grasp_pipeline.corpus.formats import read_rows
from grasp_pipeline.corpus.rows import Columns, Extent, Row
from grasp_pipeline.corpus.storage import StorageOptions
from grasp_pipeline.errors import InputError

BLOCK_ROWS = 65_536
RAW_SCHEMA = pl.Schema(
    {
        "row": pl.Int64,
        "text": pl.String,
        "user_id": pl.String,
        "source": pl.String,
        "n_bytes": pl.Int64,
        "fault": pl.String,
        "fault_detail": pl.String,
    }
)
"""Columns of a block. Either `text` or `fault` is null; `n_bytes` is the raw text's size."""


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file, about `block_bytes` of text.

    Attributes:
        uri: the file.
        index: 0-based block within the file.
        first_row: `row` of the first row.
        n_bytes: text bytes kept.
        frame: columns of RAW_SCHEMA.
        unit: what the extents count, as `rows.Extent` does.
        extent: units of the file that the rows and what stands between them take.
        faulty_extent: of them, those of rows with a fault.
        file_extent: units of the whole file, counted below the rows; in the last block alone, where it is known.
    """

    uri: str
    index: int
    first_row: int
    n_bytes: int
    frame: pl.DataFrame
    unit: str
    extent: int
    faulty_extent: int
    file_extent: int | None = None


def read_blocks(
    file: InputFile,
    config: InputConfig,
    storage_options: StorageOptions | None = None,
    batch_rows: int | None = None,
) -> Iterator[Block]:
    """Stream a file and cut it into blocks; a block ends with the row that reaches `block_bytes`, or
    BLOCK_ROWS rows.

    Where a file is cut depends on its rows and `block_bytes` alone, not on how it is read. Memory is bounded
    by one block and one document.

    Args:
        file: as `resolve_inputs` gives it.
        config: columns, block size, largest document.
        storage_options: for object stores.
        batch_rows: rows decoded at once.

    Raises:
        InputError: the file as a whole cannot be read (`formats.read_rows`).
    """
    required = tuple(dict.fromkeys(name for name in (config.id_column, config.source_column) if name))
    columns = Columns(config.text_column, required)
    rows: list[Row] = []
    index = size = counted = 0
    extent = Extent()
    for row in read_rows(
        file, columns, config.max_document_bytes, storage_options, config, batch_rows, extent
    ):
        # A full block waits for the next row: what follows the file's last row is the last block's.
        if size >= config.block_bytes or len(rows) == BLOCK_ROWS:
            yield _block(file, index, rows, size, config, extent.unit, extent.between - counted)
            rows, size, index, counted = [], 0, index + 1, extent.between
        rows.append(row)
        size += row.n_bytes if row.text is not None else 0
    if rows:
        last = _block(file, index, rows, size, config, extent.unit, extent.between - counted)
        yield replace(last, file_extent=extent.size)


def read_corpus(
    config: InputConfig, storage_options: StorageOptions | None = None
) -> Iterator[tuple[InputFile, Block]]:
    """Stream the blocks of all inputs, file by file in order of URI.

    Raises:
        InputError: an input cannot be read, or all are empty.
        ConfigError: a storage option is not understood.
    """
    empty = True
    for file in resolve_inputs(config, storage_options):
        for block in read_blocks(file, config, storage_options):
            empty = False
            yield file, block
    if empty:
        raise no_rows(config)


def no_rows(config: InputConfig) -> InputError:
    """Return the error for inputs that are all empty."""
    named = ", ".join(map(repr, config.paths))
    return InputError(f"The corpus {named} has no rows; name inputs that hold documents.")


def _block(
    file: InputFile, index: int, rows: list[Row], size: int, config: InputConfig, unit: str, between: int
) -> Block:
    ids = [row.fields.get(config.id_column) for row in rows]
    sources = [row.fields.get(config.source_column) or file.source for row in rows]
    frame = pl.DataFrame(
        {
            "row": [row.row for row in rows],
            "text": [row.text for row in rows],
            "user_id": ids,
            "source": sources,
            "n_bytes": [row.n_bytes for row in rows],
            "fault": [row.fault for row in rows],
            "fault_detail": [row.detail for row in rows],
        },
        schema=RAW_SCHEMA,
    )
    extent = between + sum(row.span for row in rows)
    faulty = sum(row.span for row in rows if row.fault is not None)
    return Block(file.uri, index, rows[0].row, size, frame, unit, extent, faulty)
