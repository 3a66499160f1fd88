"""What candidates are built from beside the tables: a trained similarity, and texts that somebody has labelled.

Either is asked for in the configuration. It is kept in the store as the finalists used it, so that what explains the
choice reads the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from grasp_pipeline.arrays import Floats, TokenLists
from grasp_pipeline.attribution.methods.airrep import Encoder
from grasp_pipeline.errors import InputError, boundary

FEWEST = 10
"""Fewest labelled texts of a kind that a head is fitted to."""

GOOD, BAD = ("good", "1", "true", "keep"), ("bad", "0", "false", "drop")
"""What a label may be, in any case of letters."""

FILE = "learned.npz"


@dataclass(frozen=True, eq=False)
class Labels:
    """Token ids of texts that were labelled good, and of those labelled bad."""

    good: TokenLists
    bad: TokenLists


@dataclass(frozen=True, eq=False)
class Learned:
    """What was asked for; None for what was not.

    Attributes:
        similarity: (n,) of every chunk to the target, in a space trained on measured utilities.
        encoder: into that space, for a corpus that has grown since the utilities were measured.
        labels: that the quality head is fitted to.
    """

    similarity: Floats | None = None
    encoder: Encoder | None = None
    labels: Labels | None = None

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        arrays: dict[str, np.ndarray] = {}
        if self.similarity is not None:
            arrays["similarity"] = self.similarity
        if self.encoder is not None:
            arrays |= {f"encoder_{name}": np.asarray(value) for name, value in vars(self.encoder).items()}
        if self.labels is not None:
            for name, texts in (("good", self.labels.good), ("bad", self.labels.bad)):
                arrays[f"{name}_tokens"], arrays[f"{name}_offsets"] = texts.tokens, texts.offsets
        np.savez(folder / FILE, **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, folder: Path) -> Learned:
        """Return what `save` wrote."""
        with np.load(folder / FILE, allow_pickle=False) as stored:
            labels = encoder = None
            if "encoder_scale" in stored:
                parts = {name: stored[f"encoder_{name}"] for name in Encoder.__annotations__}
                arrays = {name: part for name, part in parts.items() if name != "scale"}
                encoder = Encoder(scale=float(parts["scale"]), **arrays)
            if "good_tokens" in stored:
                good, bad = (
                    TokenLists(stored[f"{name}_tokens"], stored[f"{name}_offsets"])
                    for name in ("good", "bad")
                )
                labels = Labels(good, bad)
            return cls(stored.get("similarity"), encoder, labels)


def read_labels(path: str, encode: Callable[[Iterable[str]], Iterator[list[int]]]) -> Labels:
    """Read labelled texts.

    Args:
        path: a Parquet, CSV or JSON-lines file with the columns `text` and `label` (see `GOOD` and `BAD`).
        encode: gives the token ids of texts.

    Raises:
        InputError: the file cannot be read, lacks a column, has another label, or too few texts of a kind.
    """
    frame = label_frame(path)
    kinds = {}
    for kind in (True, False):
        ids = [found for found in encode(frame.filter(good=kind)["text"].to_list()) if found]
        _refuse_few(path, kind, len(ids))  # some may have no token
        kinds[kind] = TokenLists.of(ids)
    return Labels(kinds[True], kinds[False])


def label_frame(path: str) -> pl.DataFrame:
    """Return the columns text and good (bool) of a file of labelled texts; errors as in `read_labels`."""
    readers = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
    ending = Path(path).suffix.lower()
    if ending not in readers:
        raise InputError(f"the labels {path} end in {ending!r}; give a file .parquet, .csv or .jsonl")
    with boundary(InputError, f"the labels {path} cannot be read", "give a readable file of labelled texts"):
        frame = readers[ending](path)
    if missing := sorted({"text", "label"} - set(frame.columns)):
        raise InputError(f"the labels {path} have no column {missing[0]!r}; give the columns text and label")
    said = frame["label"].cast(pl.String).str.strip_chars().str.to_lowercase()
    known = said.is_in([*GOOD, *BAD]).fill_null(value=False)
    if not known.all():
        row = int((~known).arg_max() or 0)
        raise InputError(
            f"row {row + 1} of the labels {path} has the label {frame['label'][row]!r}; labels are good or bad"
        )
    text = frame["text"].cast(pl.String).fill_null("")
    made = pl.DataFrame({"text": text, "good": said.is_in(list(GOOD))})
    counts = {kind: made.filter(good=kind).height for kind in (True, False)}
    fewer = min(counts, key=lambda kind: counts[kind])
    _refuse_few(path, fewer, counts[fewer])
    return made


def _refuse_few(path: str, good: bool, count: int) -> None:
    if count < FEWEST:
        kind = "good" if good else "bad"
        raise InputError(f"{path} holds {count} texts labelled {kind}; give {FEWEST} or more of each")
