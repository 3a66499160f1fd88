"""The corpus looked through before a plan: how much there is, and some of its documents."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.config import InputConfig

PATIENCE = 60.0
"""Seconds for which files are read to count documents; what is left is taken to be alike, byte for byte."""


@dataclass(frozen=True)
class Survey:
    """The corpus as far as it was read: how much there is, and some of its documents (columns text, id, source)."""

    text_bytes: float
    documents: float
    sample: pl.DataFrame


def survey_corpus(config: InputConfig, options: Mapping[str, str], sample_bytes: int) -> Survey:
    """Read files, in an order that does not depend on their names, until all are read or `PATIENCE` is over.

    Of every file as many documents are taken as its share of the sample, from its beginning.

    Raises:
        InputError: an input cannot be read, or there is nothing in it.
    """
    import polars as pl

    from grasp_pipeline.corpus.files import resolve_inputs
    from grasp_pipeline.corpus.readers import no_rows, read_blocks

    files = list(resolve_inputs(config, options))
    random.Random(0).shuffle(files)
    sizes = [file.size or 0 for file in files]
    frames, seen, documents, text_bytes, begun = [], 0, 0, 0, time.monotonic()
    for number, (file, size) in enumerate(zip(files, sizes, strict=True)):
        left = sample_bytes * (size / sum(sizes) if sum(sizes) else 1 / len(files))
        for block in read_blocks(file, config, options):
            rows = block.frame.filter(pl.col("text").is_not_null())
            documents += block.frame.height
            text_bytes += block.n_bytes
            if left > 0 and rows.height:
                within = rows.filter(pl.col("n_bytes").cum_sum() - pl.col("n_bytes") < left)
                left -= float(within["n_bytes"].sum())
                frames.append(within.select("text", "source", id=pl.col("row").cast(pl.String)))
        seen = number + 1
        if time.monotonic() - begun > PATIENCE:
            break
    if not documents:
        raise no_rows(config)
    read, every = sum(sizes[:seen]), sum(sizes)
    factor = every / read if read else len(files) / seen
    return Survey(text_bytes * factor, documents * factor, pl.concat(frames))
