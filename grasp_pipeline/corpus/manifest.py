"""The manifest: which block of which file belongs to which shard, in order of arrival."""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import InputFile
from grasp_pipeline.corpus.readers import RAW_SCHEMA, Block, read_blocks
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.tables import MANIFEST

PLACED_SCHEMA = pl.Schema(
    {
        "arrival": pl.Int64,
        "uri": pl.String,
        "shard": pl.String,
        "founding": pl.Boolean,
        **RAW_SCHEMA,
    }
)
"""Columns of placed rows: a block's columns, its file, its shard and its place in the manifest."""


def describe_blocks(blocks: Iterable[tuple[InputFile, Block]]) -> pl.DataFrame:
    """Return what the manifest keeps of blocks: the columns of `tables.MANIFEST` but the shard.

    The blocks are consumed one by one; their text is not kept.
    """
    schema = {name: dtype for name, dtype in MANIFEST.schema.items() if name not in ("shard", "founding")}
    rows = [
        (
            block.uri,
            block.index,
            block.first_row,
            block.frame.height,
            block.n_bytes,
            block.frame.height - block.frame["fault"].null_count(),
            block.unit,
            block.extent,
            block.faulty_extent,
            block.file_extent,
            _content(block.frame),
        )
        for _, block in blocks
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


@dataclass(frozen=True)
class DescribeFile:
    """Reads one file and describes its blocks; a function for `map_blocks`."""

    source: InputConfig
    storage_options: Mapping[str, str] | None = None

    def __call__(self, file: InputFile) -> pl.DataFrame:
        """Return rows of `describe_blocks`, and with each block the sources that it names.

        Raises:
            InputError: the file cannot be read.
        """
        sources: list[list[str]] = []

        def arriving() -> Iterator[tuple[InputFile, Block]]:
            for block in read_blocks(file, self.source, dict(self.storage_options or {}) or None):
                sources.append(block.frame["source"].unique().sort().to_list())
                yield file, block

        blocks = describe_blocks(arriving())
        return blocks.with_columns(sources=pl.Series(sources, dtype=pl.List(pl.String)))


def passed_over(manifest: pl.DataFrame) -> list[str]:
    """Return for each file of which a part is in no block, or in two, a sentence that says how much.

    The number of rows of a streamed Hugging Face data set is not known, so nothing is said of it.
    """
    files = manifest.group_by("uri", "unit").agg(pl.col("extent").sum(), pl.col("file_extent").max())
    known = pl.col("file_extent").is_not_null() | (pl.col("unit") == "byte")
    wrong = files.filter(known & pl.col("extent").ne_missing(pl.col("file_extent"))).sort("uri")
    return [
        f"{uri!r} has {size} {unit}s, its rows account for {extent}"
        for uri, unit, extent, size in wrong.select("uri", "unit", "extent", "file_extent").iter_rows()
    ]


def mostly_unreadable(manifest: pl.DataFrame) -> list[str]:
    """Return for each file that is more than half rows without usable text, by count or extent, a sentence."""
    columns = ("n_rows", "n_faulty", "extent", "faulty_extent")
    files = manifest.group_by("uri").agg(pl.col(columns).sum()).sort("uri")
    bad = files.filter(
        (2 * pl.col("n_faulty") > pl.col("n_rows")) | (2 * pl.col("faulty_extent") > pl.col("extent"))
    )
    return [
        f"{uri!r}: {faulty} of {rows} rows ({part / whole:.0%} of the file) have no usable text"
        for uri, rows, faulty, whole, part in bad.select("uri", *columns).iter_rows()
    ]


def first_few(sentences: Sequence[str], most: int = 5) -> list[str]:
    """Return the first sentences, and how many more there are."""
    more = len(sentences) - most
    return [*sentences[:most], *([f"and {more} more files like these"] if more > 0 else [])]


def extend_manifest(previous: pl.DataFrame, blocks: pl.DataFrame, shards: Sequence[str]) -> pl.DataFrame:
    """Assign blocks to shards; a block that is known keeps its shard whatever arrives, changes or vanishes.

    A block is known by its content, so a file that was renamed, moved or packed keeps the places of its blocks; two
    blocks of the same content are told apart by file and index. A file whose content changed keeps the places of its
    old block indices. A new block goes to the shard with the fewest bytes so far, of equals to the first; blocks that
    are gone drop out.

    Args:
        previous: the manifest so far, columns of `tables.MANIFEST`; may be empty.
        blocks: all blocks that exist now, as `describe_blocks` gives them; new ones arrive in this order.
        shards: names of the shards.

    Returns:
        Rows of `tables.MANIFEST` in order of arrival: known blocks as before, then the new ones.

    Raises:
        ConfigError: no shard is named, one is named twice, or one that holds blocks is no longer named.
        InputError: there are no blocks.
    """
    if not shards or len(set(shards)) != len(shards):
        raise ConfigError(f"The shards are {list(shards)}; name at least one, and each once.")
    if blocks.is_empty():
        raise InputError("The corpus has no rows; name inputs that hold documents.")
    known, present = previous.rows(named=True), blocks.rows(named=True)
    places = _places(known, present)
    held = {place: known[place]["shard"] for place in places if place is not None}
    lost = sorted(set(held.values()) - set(shards))
    if lost:
        raise ConfigError(
            f"The shards {', '.join(map(repr, lost))} hold blocks but are no longer among the {len(shards)} "
            "shards; keep them, or start with an empty store."
        )
    filled = dict.fromkeys(shards, 0)
    for row, place in zip(present, places, strict=True):
        if place is not None:
            filled[held[place]] += row["n_bytes"]
    rows = []
    arrivals = [len(known) if place is None else place for place in places]
    for index in sorted(range(len(present)), key=arrivals.__getitem__):
        row, place = present[index], places[index]
        if place is None:
            shard, founding = min(shards, key=filled.__getitem__), previous.is_empty()
            filled[shard] += row["n_bytes"]
        else:
            shard, founding = held[place], known[place]["founding"]
        rows.append({**row, "shard": shard, "founding": founding})
    return MANIFEST.conform(pl.DataFrame(rows, schema=MANIFEST.schema))


def _content(frame: pl.DataFrame) -> str:
    """Return a digest of a block's texts and faults, whatever the file is called and how it is packed."""
    running = hashlib.blake2b(digest_size=16)
    for text, fault, n_bytes in frame.select("text", "fault", "n_bytes").iter_rows():
        data = b"" if text is None else text.encode()
        running.update(f"{fault}:{n_bytes}:{len(data)};".encode() + data)
    return running.hexdigest()


def _places(known: Sequence[Mapping[str, Any]], present: Sequence[Mapping[str, Any]]) -> list[int | None]:
    """Return which known block each present one is, or None; no two are the same.

    The same content at the same place comes first, then the same content elsewhere, then the same place.
    """
    places: list[int | None] = [None] * len(present)
    taken: set[int] = set()
    for columns in (("uri", "block", "fingerprint"), ("fingerprint",), ("uri", "block")):
        waiting: dict[tuple, deque[int]] = defaultdict(deque)
        for place, row in enumerate(known):
            if place not in taken:
                waiting[tuple(row[name] for name in columns)].append(place)
        for index, row in enumerate(present):
            queue = waiting.get(tuple(row[name] for name in columns))
            if places[index] is None and queue:
                places[index] = queue.popleft()
        taken = {place for place in places if place is not None}
    return places


def place_blocks(blocks: Iterable[Block], manifest: pl.DataFrame) -> pl.DataFrame:
    """Join blocks with their shard and place in the manifest; columns of PLACED_SCHEMA.

    Raises:
        InputError: a block is not in the manifest as it was read.
    """
    places = {
        (uri, block): (arrival, shard, founding, first_row, n_rows, n_bytes)
        for arrival, (uri, block, first_row, n_rows, n_bytes, shard, founding) in enumerate(
            manifest.select("uri", "block", "first_row", "n_rows", "n_bytes", "shard", "founding").iter_rows()
        )
    }
    frames = [pl.DataFrame(schema=PLACED_SCHEMA)]
    for block in blocks:
        arrival, shard, founding, *extent = places.get((block.uri, block.index), (0, "", False, None))
        if extent != [block.first_row, block.frame.height, block.n_bytes]:
            raise InputError(
                f"The input {block.uri!r} has changed since the manifest was made (block {block.index}); "
                "materialize the manifest again."
            )
        columns = [
            pl.lit(arrival).alias("arrival"),
            pl.lit(block.uri).alias("uri"),
            pl.lit(shard).alias("shard"),
            pl.lit(founding).alias("founding"),
        ]
        frames.append(block.frame.select(*columns, pl.all()).cast(PLACED_SCHEMA))
    return pl.concat(frames)
