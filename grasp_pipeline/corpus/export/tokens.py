"""Token ids as files for trainers: one flat array with offsets, and MosaicML Streaming's MDS shards.

Both hold one sequence per span: the id that separates documents (BOS), then the span's tokens. No EOS is written: the
next sequence's BOS ends the one before it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
from numpy.typing import NDArray

from grasp_pipeline.corpus.export.files import Counts, Ledger, Write
from grasp_pipeline.corpus.export.spans import LINEAGE, SPANS, arrow_schema
from grasp_pipeline.errors import ConfigError, StoreError


@dataclass(frozen=True)
class Vocabulary:
    """What the token ids mean. tokenizer_id: sha-256 of the tokenizer's definition; bos: the separator's id."""

    tokenizer_id: str
    size: int
    bos: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Little-endian uint16 where every id fits (at most 65,536 tokens), else uint32."""
        return np.dtype("<u2" if self.size <= 2**16 else "<u4")

    def sequences(self, spans: pl.DataFrame) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return the sequences of some spans one after the other, and the length of each with its BOS.

        Raises:
            StoreError: a token id is not in the vocabulary, or is the separator's.
        """
        lengths = spans["input_ids"].list.len().to_numpy().astype(np.int64)
        flat = spans["input_ids"].explode().to_numpy()
        wrong = np.flatnonzero((flat < 0) | (flat >= self.size) | (flat == self.bos))
        if wrong.size:
            row = int(np.searchsorted(np.cumsum(lengths), wrong[0], side="right"))
            raise StoreError(
                f"the document {spans['doc_id'][row]} in tokenized_shards holds the token {flat[wrong[0]]}, but the "
                f"tokenizer {self.tokenizer_id[:12]} has {self.size} tokens, of which {self.bos} separates documents; "
                "materialize tokenized_shards again"
            )
        starts = np.cumsum(lengths) - lengths
        return np.insert(flat, starts, self.bos).astype(self.dtype), lengths + 1


@contextmanager
def tokens_folder(folder: Path, ledger: Ledger, vocabulary: Vocabulary) -> Iterator[Write]:
    """Write `tokens/`: `tokens.bin`, `offsets.npy`, `sequences.parquet` and `index.json`.

    tokens.bin: all sequences, `Vocabulary.dtype`, no header. offsets.npy: (n + 1,) int64; sequence i is
    `tokens[offsets[i]:offsets[i + 1]]`. sequences.parquet: the columns `LINEAGE` of sequence i in row i.
    """
    target = folder / "tokens"
    target.mkdir()
    schema = arrow_schema(LINEAGE)
    end = 0
    with (
        (target / "tokens.bin").open("wb") as flat,
        (target / "offsets.npy").open("wb") as offsets,
        pq.ParquetWriter(target / "sequences.parquet", schema, compression="zstd") as sequences,
    ):
        _npy_header(offsets, 0)
        offsets.write(np.zeros(1, dtype="<i8").tobytes())

        def write(spans: pl.DataFrame) -> None:
            nonlocal end
            ids, lengths = vocabulary.sequences(spans)
            flat.write(ids.tobytes())
            offsets.write((end + np.cumsum(lengths)).astype("<i8").tobytes())
            sequences.write_table(spans.select(LINEAGE).to_arrow())
            end += len(ids)
            for name in ("tokens.bin", "sequences.parquet"):
                ledger.files[f"tokens/{name}"].add(spans)

        yield write
        rows = ledger.files["tokens/tokens.bin"].rows
        offsets.seek(0)
        _npy_header(offsets, rows + 1)
    index = {
        "dtype": vocabulary.dtype.name,
        "byte_order": "little",
        "sequences": rows,
        "tokens": end,
        "bos": vocabulary.bos,
        "begins_with_bos": True,
        "ends_with_eos": False,
        "vocabulary": vocabulary.size,
        "tokenizer_id": vocabulary.tokenizer_id,
    }
    (target / "index.json").write_text(json.dumps(index, indent=2) + "\n")


@contextmanager
def mds_folder(folder: Path, ledger: Ledger, vocabulary: Vocabulary, shard_tokens: int) -> Iterator[Write]:
    """Write `mds/` by MosaicML Streaming: the columns `LINEAGE`, and tokens (with BOS).

    A shard holds at most `shard_tokens` times the bytes of a token id, or one sequence that is larger.

    Raises:
        ConfigError: the library cannot be imported.
    """
    writer_class = _mds_writer()
    shards: list[Counts] = []
    with writer_class(
        out=str(folder / "mds"),
        columns={
            **{name: "str" if SPANS[name] == pl.String else "int" for name in LINEAGE},
            "tokens": f"ndarray:{vocabulary.dtype.name}",
        },
        hashes=["sha256"],
        size_limit=shard_tokens * vocabulary.dtype.itemsize,
    ) as writer:

        def write(spans: pl.DataFrame) -> None:
            ids, lengths = vocabulary.sequences(spans)
            pieces = np.split(ids, np.cumsum(lengths)[:-1])
            rows = spans.select(LINEAGE).iter_rows(named=True)
            for row, piece in zip(rows, pieces, strict=True):
                writer.write({**row, "tokens": piece})
                if len(writer.shards) == len(shards):
                    shards.append(Counts())
                shards[-1].rows += 1
                shards[-1].tokens += row["n_tokens"]

        yield write
    index = json.loads((folder / "mds" / "index.json").read_text())
    for shard, counts in zip(index["shards"], shards, strict=True):
        ledger.files[f"mds/{shard['raw_data']['basename']}"] = counts


def _mds_writer() -> Any:
    try:
        from streaming import MDSWriter  # type: ignore[import-not-found]
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"the export format mds needs MosaicML Streaming, which cannot be imported ({error}); install it with "
            "pip install 'grasp-pipeline[mds]', or take mds out of export.formats"
        ) from error
    return MDSWriter


def _npy_header(file: Any, count: int) -> None:
    """Write the header of an int64 vector; NumPy pads it, so that its length does not depend on `count`."""
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (count,)})
