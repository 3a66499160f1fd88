"""The manifest: which block of which file belongs to which shard, in order of arrival."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from grasp_pipeline.corpus.files import InputFile
from grasp_pipeline.corpus.readers import RAW_SCHEMA, Block
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
        (block.uri, block.index, block.first_row, block.frame.height, block.n_bytes, file.fingerprint)
        for file, block in blocks
    ]
    return pl.DataFrame(rows, schema=schema, orient="row")


def extend_manifest(previous: pl.DataFrame, blocks: pl.DataFrame, shards: Sequence[str]) -> pl.DataFrame:
    """Assign blocks to shards; a block that is known keeps its shard whatever arrives, changes or vanishes.

    A new block goes to the shard with the fewest bytes so far, of equals to the first. A file whose content
    changed keeps the shards of its old block indices; blocks that are gone drop out.

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
    present = {(row["uri"], row["block"]): row for row in blocks.iter_rows(named=True)}
    known = {
        (uri, block): shard for uri, block, shard in previous.select("uri", "block", "shard").iter_rows()
    }
    founders = set(previous.filter("founding").select("uri", "block").iter_rows())
    lost = sorted({known[key] for key in known.keys() & present.keys()} - set(shards))
    if lost:
        raise ConfigError(
            f"The shards {', '.join(map(repr, lost))} hold blocks but are no longer among the {len(shards)} "
            "shards; keep them, or start with an empty store."
        )
    filled = dict.fromkeys(shards, 0)
    for key in known.keys() & present.keys():
        filled[known[key]] += present[key]["n_bytes"]
    rows = []
    for key in [key for key in known if key in present] + [key for key in present if key not in known]:
        if key not in known:
            known[key] = min(shards, key=filled.__getitem__)
            filled[known[key]] += present[key]["n_bytes"]
        founding = previous.is_empty() or key in founders
        rows.append({**present[key], "shard": known[key], "founding": founding})
    return MANIFEST.conform(pl.DataFrame(rows, schema=MANIFEST.schema))


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
