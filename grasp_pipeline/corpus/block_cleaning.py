"""What cleaning decides block by block: from raw rows to files of fixed size per document, beside the texts.

A block's rows are read, normalised, judged by the noise rules and for contamination, and signed for the search for near
duplicates; nothing of that depends on any other block. The results are files of the block's own folder, whose name is a
digest of everything that they follow from, so that they are read, not made again, while it stays the same:

    rows.arrow     row, user_id, source, n_bytes, text (the normal form) and the verdict, uncompressed: mapped, not read
    digest.npy     (n, 32) uint8, sha-256 of the normal form; zeros without one
    state.npy      (n,) uint8, CLEAN, NOISE, CONTAMINATED or UNREAD
    minhash.npy    (n, PERMUTATIONS) uint32
    keys.npy       (bands, n) uint64, one key per band of the signature
    perplexity-*   (n,) float64, of the rows that are CLEAN; named after the model
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import unicodedata
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.config import CleaningConfig, InputConfig
from grasp_pipeline.corpus.contamination import HeldOutGrams
from grasp_pipeline.corpus.duplicates import PERMUTATIONS, band_keys, bands_for, minhash_digests
from grasp_pipeline.corpus.files import InputFile
from grasp_pipeline.corpus.noise import Rule, noise_rules, rejections
from grasp_pipeline.corpus.normalize import normalize_text
from grasp_pipeline.corpus.perplexity import PerplexityModel
from grasp_pipeline.corpus.readers import Block, read_blocks
from grasp_pipeline.corpus.text_batch import TextBatch, batches
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import digest

CLEAN, NOISE, CONTAMINATED, UNREAD = range(4)
STATES = ("", "noise", "contamination", "read")
"""The stage that gave a row its verdict, by state."""

DIGEST_BYTES = 32
ROW_SCHEMA = pl.Schema(
    {
        "row": pl.Int64,
        "user_id": pl.String,
        "source": pl.String,
        "n_bytes": pl.Int64,
        "text": pl.String,
        "reason": pl.String,
        "detail": pl.String,
        "value": pl.Float64,
    }
)
"""Columns of `rows.arrow`; n_bytes: of the normal form, of the raw text where there is none."""


@dataclass(frozen=True)
class BlockPlace:
    """One block of the manifest and where its results lie.

    Attributes:
        uri, index, first_row, n_rows, n_bytes, shard, founding: as `tables.MANIFEST` has them.
        folder: of its results.
    """

    uri: str
    index: int
    first_row: int
    n_rows: int
    n_bytes: int
    shard: str
    founding: bool
    folder: str

    @property
    def done(self) -> bool:
        """Whether the results are there."""
        return os.path.isdir(self.folder)

    def array(self, name: str) -> NDArray[Any]:
        """Return one of the block's arrays, mapped."""
        return np.load(Path(self.folder, f"{name}.npy"), mmap_mode="r").view(np.ndarray)

    def rows(self, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """Return the rows, ROW_SCHEMA, or some of the columns."""
        return pl.read_ipc(
            Path(self.folder, "rows.arrow"), columns=None if columns is None else list(columns)
        )


@dataclass(frozen=True)
class Rules:
    """What decides of one document alone, in a form that travels to workers.

    Attributes:
        config: the cleaning rules.
        held_out: file with the names and texts of the task documents.
        held_out_digest: of what the file says.
    """

    config: CleaningConfig
    held_out: str
    held_out_digest: str

    def digest(self) -> str:
        """Return a digest of everything but the row that a block's results follow from."""
        later = {"exact_duplicates", "near_duplicates", "perplexity_quantile"}
        return digest(code_digest(), self.config.model_dump(mode="json", exclude=later), self.held_out_digest)

    @property
    def noise(self) -> tuple[Rule, ...]:
        return noise_rules(self.config)

    @property
    def grams(self) -> HeldOutGrams | None:
        """The n-grams that no document may hold too many of; None where the rule is off."""
        return _held_out_grams(self.held_out) if self.config.contamination_share < 1 else None


@dataclass(frozen=True)
class Work:
    """Blocks of one file to clean: read by the worker, or handed to it.

    Attributes:
        file: where they are read; None where they were.
        blocks: those that were read.
        places: where each goes, in order of index.
    """

    file: InputFile | None
    blocks: tuple[Block, ...]
    places: tuple[BlockPlace, ...]


@dataclass(frozen=True)
class CleanWork:
    """Cleans blocks and leaves their results; a function for `map_blocks`."""

    rules: Rules
    source: InputConfig
    storage_options: Mapping[str, str] | None = None

    def __call__(self, work: Work) -> int:
        """Return the bytes of text that were cleaned.

        Raises:
            InputError: the file cannot be read, or not as the manifest says.
        """
        blocks = (
            read_blocks(work.file, self.source, dict(self.storage_options or {}) or None)
            if work.file is not None
            else work.blocks
        )
        waiting = {place.index: place for place in work.places}
        done = 0
        for block in blocks:
            place = waiting.pop(block.index, None)
            if place is None or (block.first_row, block.frame.height, block.n_bytes) != (
                place.first_row,
                place.n_rows,
                place.n_bytes,
            ):
                raise changed(block.uri, block.index)
            if not place.done:
                clean_block(block.frame, self.rules, place.folder)
            done += block.n_bytes
        for place in waiting.values():
            raise changed(place.uri, place.index)
        return done


def find_places(
    manifest: pl.DataFrame, files: Sequence[InputFile], source: InputConfig, rules: Rules, folder: Path
) -> list[BlockPlace]:
    """Return the blocks of the manifest in order of arrival, each with a folder named after all that it follows from.

    Args:
        manifest: rows of `tables.MANIFEST`.
        files: the inputs as they are now.
        source: how they are read.
        rules: what decides of one document.
        folder: that holds the folders of all blocks.
    """
    made_by = digest(rules.digest(), source.model_dump(mode="json", exclude={"paths"}))
    content = {file.uri: file.fingerprint for file in files}
    columns = ("uri", "block", "first_row", "n_rows", "n_bytes", "shard", "founding", "fingerprint")
    places = []
    for uri, index, first_row, n_rows, n_bytes, shard, founding, block in manifest.select(
        columns
    ).iter_rows():
        name = digest(made_by, uri, content.get(uri), index, block)[:40]
        path = str(folder / name[:2] / name)
        places.append(BlockPlace(uri, index, first_row, n_rows, n_bytes, shard, founding, path))
    return places


def changed(uri: str, index: int) -> InputError:
    """Return the error for a file that is not what the manifest says."""
    return InputError(
        f"The input {uri!r} has changed since the manifest was made (block {index}); "
        "materialize the manifest again."
    )


def clean_block(frame: pl.DataFrame, rules: Rules, folder: str) -> None:
    """Write the results of one block; columns of `readers.RAW_SCHEMA`. All of them appear at once."""
    columns, digests, states, signatures = _judged(frame, rules)
    keys = band_keys(signatures, *bands_for(rules.config.near_duplicate_threshold))
    parent = Path(folder).parent
    parent.mkdir(parents=True, exist_ok=True)
    new = tempfile.mkdtemp(prefix=".new-", dir=parent)
    try:
        rows = frame.select("row", "user_id", "source").with_columns(**columns)
        rows = rows.select(pl.col(name).cast(dtype) for name, dtype in ROW_SCHEMA.items())
        rows.rechunk().write_ipc(
            Path(new, "rows.arrow"), compression="uncompressed", compat_level=pl.CompatLevel.oldest()
        )
        arrays = {"digest": digests, "state": states, "minhash": signatures, "keys": keys}
        for name, array in arrays.items():
            np.save(Path(new, f"{name}.npy"), array)
        try:
            os.rename(new, folder)
        except OSError:
            if not os.path.isdir(folder):  # else another run made the same
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _judged(
    frame: pl.DataFrame, rules: Rules
) -> tuple[dict[str, pl.Series], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint32]]:
    """Return columns of verdicts, digests, states and signatures of every row."""
    raw = frame["text"].to_list()
    texts = [normalize_text(text) if text is not None else "" for text in raw]
    data = [text.encode() for text in texts]
    names = [hashlib.sha256(one).digest() for one in data]
    first: dict[bytes, int] = {}
    for index, (name, text) in enumerate(zip(names, texts, strict=True)):
        if text:
            first.setdefault(name, index)
    chosen = list(first.values())
    states = np.full(len(texts), UNREAD, dtype=np.uint8)
    signatures = np.zeros((len(texts), PERMUTATIONS), dtype=np.uint32)
    verdicts: dict[int, tuple[str, str, float]] = {}
    distinct = [texts[index] for index in chosen]
    for start, stop in batches(distinct):
        batch, places = TextBatch(distinct[start:stop]), chosen[start:stop]
        signatures[places] = minhash_digests(batch)
        states[places] = CLEAN
        found = (
            {}
            if rules.grams is None
            else rules.grams.contaminated_of(batch, rules.config.contamination_share)
        )
        for place, overlap in found.items():
            states[places[place]] = CONTAMINATED
            verdicts[places[place]] = ("contamination", overlap.detail, overlap.share)
        for place, rejection in rejections(batch, rules.noise).items():
            states[places[place]] = NOISE
            verdicts[places[place]] = (rejection.reason, rejection.detail, rejection.value)
    n_bytes = [len(one) for one in data]
    reasons: list[tuple[str | None, str | None, float | None]] = [(None, None, None)] * len(texts)
    told = frame.select("n_bytes", "fault", "fault_detail").iter_rows()
    for index, (size, fault, detail) in enumerate(told):
        if not texts[index]:
            reason = fault or "empty_text"
            told_as = detail or "nothing is left of the text after normalisation"
            reasons[index] = (reason, told_as, float(size) if reason == "oversized" else None)
            n_bytes[index] = size
            continue
        origin = first[names[index]]
        if origin != index:
            states[index], signatures[index] = states[origin], signatures[origin]
        reasons[index] = verdicts.get(origin, (None, None, None))
    reason, detail, value = zip(*reasons, strict=True) if reasons else ((), (), ())
    columns = {
        "n_bytes": pl.Series(n_bytes, dtype=pl.Int64),
        "text": pl.Series([text or None for text in texts], dtype=pl.String),
        "reason": pl.Series(reason, dtype=pl.String),
        "detail": pl.Series(detail, dtype=pl.String),
        "value": pl.Series(value, dtype=pl.Float64),
    }
    digests = np.frombuffer(b"".join(names), dtype=np.uint8).reshape(-1, DIGEST_BYTES).copy()
    digests[states == UNREAD] = 0
    return columns, digests, states, signatures


@dataclass(frozen=True)
class MeasurePerplexity:
    """Measures the query perplexity of a block's clean texts; a function for `map_blocks`.

    Attributes:
        model: file of the model's table.
        name: of the array that is left in the block's folder.
    """

    model: str
    name: str

    def __call__(self, place: BlockPlace) -> int:
        """Return the bytes of text of the block."""
        clean = np.flatnonzero(place.array("state") == CLEAN)
        texts = place.rows(["text"])["text"].gather(clean).to_list()
        values = np.full(place.n_rows, np.nan)
        values[clean] = _perplexity_model(self.model).perplexity(texts)
        save_array(Path(place.folder, f"{self.name}.npy"), values)
        return place.n_bytes


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array to a file that appears when it is whole."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        np.save(file, array)
    os.replace(file.name, path)


def write_held_out(texts: Mapping[str, str], folder: Path) -> tuple[str, str]:
    """Leave the task documents where workers find them; returns the file and its digest."""
    name = digest(list(texts.items()))
    path = folder / f"held-out-{name[:32]}.parquet"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame(
            {"name": list(texts), "text": list(texts.values())},
            schema=dict.fromkeys(("name", "text"), pl.String),
        )
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".new-", delete=False) as file:
            frame.write_parquet(file)
        os.replace(file.name, path)
    return str(path), name


@lru_cache(maxsize=1)
def _held_out_grams(path: str) -> HeldOutGrams:
    return HeldOutGrams(dict(pl.read_parquet(path).iter_rows()))


@lru_cache(maxsize=1)
def _perplexity_model(path: str) -> PerplexityModel:
    return PerplexityModel(np.load(path, mmap_mode="r"))


def forget_model() -> None:
    """Let go of the model that this process measured with last."""
    _perplexity_model.cache_clear()


@cache
def code_digest() -> str:
    """Return a digest of the code that cleans, and of what it counts on."""
    running = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        running.update(path.read_bytes())
    libraries = [version(name) for name in ("numpy", "rensa", "py3langid")]
    running.update(repr((libraries, zlib.ZLIB_RUNTIME_VERSION, unicodedata.unidata_version)).encode())
    return running.hexdigest()


def work_of(
    files: Sequence[InputFile],
    places: Mapping[str, Sequence[BlockPlace]],
    source: InputConfig,
    storage_options: Mapping[str, str] | None,
    most_blocks: int = 16,
) -> Iterator[Work]:
    """Yield the work that is left, in order of the files.

    A file of few blocks is read where it is cleaned. One of many is read here and its blocks are handed on, so that
    one large file keeps all workers busy.

    Raises:
        InputError: a file cannot be read, or not as the manifest says.
    """
    for file in files:
        mine = tuple(places.get(file.uri, ()))
        if mine and all(place.done for place in mine):
            continue
        if len(mine) <= most_blocks:
            yield Work(file, (), mine)
            continue
        waiting = {place.index: place for place in mine}
        for block in read_blocks(file, source, dict(storage_options or {}) or None):
            place = waiting.pop(block.index, None)
            if place is None:
                raise changed(block.uri, block.index)
            yield Work(None, (block,), (place,))
        for place in waiting.values():
            raise changed(place.uri, place.index)
    known = {file.uri for file in files}
    for uri in places:
        if uri not in known:
            raise changed(uri, 0)
