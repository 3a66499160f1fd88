"""From raw rows to documents: every row ends up among the documents or among the rejected, with its reason.

Stages, in this order: read (rows that could not be read, empty texts), noise, exact_duplicate, contamination,
perplexity, near_duplicate. Everything but the copies of a text depends on the text alone, so it is decided
once per distinct text, in order of arrival; the order of the rows given and the names of the shards change
nothing.

Three passes. What depends on one document is decided block by block, on all cores (`block_cleaning`). What compares
documents works on arrays of fixed size per document, some 150 bytes in all; texts are looked up for pairs that may be
near duplicates. Then the rows are made, one block after the other. Texts are never held but for a block or two.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.block_cleaning import (
    CLEAN,
    DIGEST_BYTES,
    UNREAD,
    BlockPlace,
    MeasurePerplexity,
    Rules,
    clean_block,
    forget_model,
    save_array,
    write_held_out,
)
from grasp_pipeline.corpus.clean_corpus import CleanCorpus
from grasp_pipeline.corpus.contamination import held_out_texts
from grasp_pipeline.corpus.duplicates import Pairs, bands_for, cluster_documents
from grasp_pipeline.corpus.noise import noise_rules
from grasp_pipeline.corpus.perplexity import HEAD_BYTES, fit_perplexity, heads, perplexity_limit
from grasp_pipeline.corpus.readers import RAW_SCHEMA
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.progress import Listener, Progress, silent
from grasp_pipeline.seeds import digest
from grasp_pipeline.tables import DOCUMENTS, REJECTED_DOCUMENTS

_OPEN_BLOCKS = 64

MapBlocks = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""Applies a function to blocks, results in their order: the builtin `map`, or an engine's `map_blocks`."""


@dataclass(frozen=True)
class Cleaned:
    """The clean corpus, in memory.

    Attributes:
        documents: rows of `tables.DOCUMENTS`, in order of arrival.
        rejected: rows of `tables.REJECTED_DOCUMENTS`, in order of arrival.
        summary: documents and bytes per stage and reason, in order of the stages, after a first row "kept".
        perplexity_limit: query perplexity per byte above which documents were rejected; None where the rule
            is off.
    """

    documents: pl.DataFrame
    rejected: pl.DataFrame
    summary: pl.DataFrame
    perplexity_limit: float | None


def clean_documents(
    raw: pl.DataFrame, config: CleaningConfig, tasks: pl.DataFrame, listener: Listener = silent
) -> Cleaned:
    """Normalise, filter and de-duplicate a corpus that fits in memory.

    Args:
        raw: columns of `manifest.PLACED_SCHEMA`, in any order.
        config: which rules apply.
        tasks: rows of `tables.TASK_DOCUMENTS`; their query texts define the perplexity rule, all of them are
            protected from contamination.
        listener: told the progress.

    Raises:
        InputError: no document is left; names the most frequent reasons.
        ConfigError: an unknown language, or the perplexity rule without query texts.
    """
    with tempfile.TemporaryDirectory() as scratch:
        rules, places = rules_of(config, tasks, Path(scratch)), []
        for block in raw.sort("arrival", "row").partition_by(
            "arrival", "uri", "shard", "founding", maintain_order=True
        ):
            uri, shard, founding, row = block.select("uri", "shard", "founding", "row").row(0)
            folder = str(Path(scratch, str(len(places))))
            clean_block(block.select(list(RAW_SCHEMA)), rules, folder)
            places.append(BlockPlace(uri, len(places), row, block.height, 0, shard, founding, folder))
        corpus = compare_documents(places, config, tasks, Path(scratch), listener=listener)
        corpus.check_not_empty()
        frames = [corpus.rows(number) for number in range(len(places))]
        documents = pl.concat([DOCUMENTS.empty(), *(documents for documents, _ in frames)])
        rejected = pl.concat([REJECTED_DOCUMENTS.empty(), *(rejected for _, rejected in frames)])
        return Cleaned(documents, rejected, corpus.summary(), corpus.perplexity_limit)


def rules_of(config: CleaningConfig, tasks: pl.DataFrame, scratch: Path) -> Rules:
    """Return what decides of one document alone, with the task documents in a file of the scratch folder.

    Raises:
        ConfigError: a language code is unknown.
    """
    noise_rules(config)
    plain = CleaningConfig(**{name: getattr(config, name) for name in CleaningConfig.model_fields})
    if config.contamination_share >= 1:
        return Rules(plain, "", "")
    return Rules(plain, *write_held_out(held_out_texts(tasks), scratch))


def compare_documents(
    places: Sequence[BlockPlace],
    config: CleaningConfig,
    tasks: pl.DataFrame,
    scratch: Path,
    map_blocks: MapBlocks = map,
    listener: Listener = silent,
) -> CleanCorpus:
    """Decide what needs more than one document: copies, query perplexity, near duplicates.

    Args:
        places: blocks in order of arrival, their results made.
        config: which rules apply.
        tasks: rows of `tables.TASK_DOCUMENTS`.
        scratch: folder for the perplexity model.
        map_blocks: where blocks are measured.
        listener: told the progress.

    Raises:
        ConfigError: the perplexity rule without query texts.
    """
    starts = np.cumsum([0, *(place.n_rows for place in places)], dtype=np.int64)
    n = int(starts[-1])
    digests = _joined(places, "digest", (n, DIGEST_BYTES), np.uint8)
    states = _joined(places, "state", (n,), np.uint8)
    first, copy = _copies(digests, states != UNREAD)
    clean = (states == CLEAN) & (first == np.arange(n))
    texts = _Texts(places, starts)
    perplexity, limit = np.full(n, np.nan), None
    if config.perplexity_quantile < 1 and clean.any():
        perplexity, limit = _perplexity(
            places, clean, digests, texts, config, tasks, scratch, map_blocks, listener
        )
    odd = clean & (perplexity > limit) if limit is not None else np.zeros(n, dtype=bool)
    pairs = Pairs(texts.text, texts.signature, config.near_duplicate_threshold)
    n_bands, _ = bands_for(config.near_duplicate_threshold)
    progress = Progress("near-duplicates", n_bands, "bands", listener)

    def bands() -> Iterator[NDArray[np.uint64]]:
        for band in range(n_bands):
            keys = np.empty(n, dtype=np.uint64)
            for number, place in enumerate(places):
                keys[starts[number] : starts[number + 1]] = place.array("keys")[band]
            progress.advance(1)
            yield keys

    clusters = cluster_documents(bands(), clean & ~odd, pairs)
    return CleanCorpus(
        config,
        places,
        starts,
        digests,
        states,
        first,
        copy,
        odd,
        perplexity,
        clusters.survivor,
        clusters.similarity,
        limit,
    )


def _perplexity(
    places: Sequence[BlockPlace],
    clean: NDArray[np.bool_],
    digests: NDArray[np.uint8],
    texts: _Texts,
    config: CleaningConfig,
    tasks: pl.DataFrame,
    scratch: Path,
    map_blocks: MapBlocks,
    listener: Listener,
) -> tuple[NDArray[np.float64], float]:
    """Return the query perplexity of every row, and the limit."""
    queries = tasks.filter(pl.col("split") == "query")["text"].to_list()
    if not queries:
        raise ConfigError(
            f"perplexity_quantile is {config.perplexity_quantile:g}, but there are no query texts to measure "
            "perplexity under; give tasks or set it to 1."
        )
    # Model and limit come from the founding documents, so that an arrival changes no earlier verdict.
    founding = clean & np.repeat([place.founding for place in places], [place.n_rows for place in places])
    if not founding.any():
        founding = clean
    founders = np.flatnonzero(founding)
    ordered = founders[_by_digest(digests[founders])]
    sample = heads(texts.heads(ordered))
    name = f"perplexity-{digest(sorted(queries), sample)[:32]}"
    model = scratch / f"{name}.npy"
    missing = [place for place in places if not Path(place.folder, f"{name}.npy").exists()]
    if missing:
        scratch.mkdir(parents=True, exist_ok=True)
        save_array(model, fit_perplexity(queries, sample).log_p)
        progress = Progress("query perplexity", sum(place.n_bytes for place in missing), "bytes", listener)
        for done in map_blocks(MeasurePerplexity(str(model), name), missing):
            progress.advance(done)
        forget_model()
        model.unlink()
    values = _joined(places, name, (len(clean),), np.float64)
    return values, perplexity_limit(values[founders], config.perplexity_quantile)


class _Texts:
    """Texts and signatures of single rows, from the files of their blocks; the last ones stay open."""

    def __init__(self, places: Sequence[BlockPlace], starts: NDArray[np.int64]) -> None:
        self._places, self._starts = places, starts
        self._open = lru_cache(_OPEN_BLOCKS)(self._opened)

    def _opened(self, number: int) -> tuple[Any, NDArray[np.uint32]]:
        import pyarrow as pa

        place = self._places[number]
        with pa.memory_map(str(Path(place.folder, "rows.arrow"))) as file:
            column = pa.ipc.open_file(file).read_all()["text"]
        return column, place.array("minhash")

    def _at(self, row: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return number, row - int(self._starts[number])

    def text(self, row: int) -> str:
        """Return the normal form of a row's text."""
        number, place = self._at(row)
        return self._open(number)[0][place].as_py()

    def heads(self, rows: NDArray[np.int64], at_once: int = 2_048) -> Iterator[str]:
        """Yield the first HEAD_BYTES characters of texts, in the order of the rows given; read block by block."""
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            found = {row: self.text(row)[:HEAD_BYTES] for row in np.sort(part).tolist()}
            yield from map(found.__getitem__, part.tolist())

    def signature(self, row: int) -> NDArray[np.uint32]:
        """Return a row's MinHash digest."""
        number, place = self._at(row)
        return self._open(number)[1][place]


def _joined(places: Sequence[BlockPlace], name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array of all blocks, one block after the other."""
    whole, at = np.empty(shape, dtype=dtype), 0
    for place in places:
        part = place.array(name)
        whole[at : at + len(part)] = part
        at += len(part)
    return whole


def _by_digest(digests: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the order of digests; of equal ones the first stays first."""
    words = digests.view(">u8").astype(np.uint64) if len(digests) else np.empty((0, 4), dtype=np.uint64)
    order = np.argsort(words[:, 0], kind="stable")
    ranked = words[order]
    tied = (ranked[1:, 0] == ranked[:-1, 0]) & (ranked[1:, 1:] != ranked[:-1, 1:]).any(axis=1)
    return np.lexsort(words.T[::-1]) if tied.any() else order


def _copies(
    digests: NDArray[np.uint8], has_text: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return each row's first row of the same text, and how many there were up to it."""
    first = np.arange(len(digests))
    copy = np.ones(len(digests), dtype=np.int32)
    rows = np.flatnonzero(has_text)
    if not len(rows):
        return first, copy
    order = rows[_by_digest(digests[rows])]
    ranked = digests[order]
    fresh = np.concatenate([[True], (ranked[1:] != ranked[:-1]).any(axis=1)])
    starts = np.flatnonzero(fresh)
    sizes = np.diff(np.append(starts, len(order)))
    first[order] = np.repeat(order[starts], sizes)
    copy[order] = np.arange(len(order)) - np.repeat(starts, sizes) + 1
    return first, copy
