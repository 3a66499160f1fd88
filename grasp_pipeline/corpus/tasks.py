"""Held-out documents of the target tasks: read, normalised, split, and checked for leaks between splits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, cast

import polars as pl

from grasp_pipeline.config import TasksConfig
from grasp_pipeline.corpus.files import resolve_paths
from grasp_pipeline.corpus.formats import read_rows
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.corpus.rows import Columns
from grasp_pipeline.corpus.storage import StorageOptions
from grasp_pipeline.errors import InputError
from grasp_pipeline.names import Split
from grasp_pipeline.tables import TASK_DOCUMENTS

SHARES: dict[Split, float] = {"query": 0.20, "judge": 0.15, "calibration": 0.40, "evaluation": 0.25}
"""Share of a task's documents in each split where the input does not say; the least protected first."""
FOLDS = 2
RESERVED = {
    "mean": "the mean of all tasks",
    "worst": "the task that gains least",
    "mean_over_tasks": "the mean of all tasks in fidelity",
}
"""Names that no task can have, and what they stand for."""
_NO_FOLD = (None, "", "nan")  # integers with gaps arrive as floats
_LARGEST_BYTES = 20_000_000
_LEAKS = ("task", "document", "split", "kept_task", "kept_document", "kept_split")


@dataclass(frozen=True)
class Tasks:
    """The tasks' documents.

    Attributes:
        documents: rows of `tables.TASK_DOCUMENTS`, sorted by its key.
        leaks: documents left out because the same text is in a more protected split or fold, or twice in one:
            task, document and split of each, and of the one that was kept.
    """

    documents: pl.DataFrame
    leaks: pl.DataFrame


class _Document(NamedTuple):
    task: str
    document: str
    split: Split
    fold: int
    text: str


def read_tasks(config: TasksConfig, storage_options: StorageOptions | None = None) -> Tasks:
    """Read the tasks' documents and give each a split and a fold.

    Where the columns `split` and `fold` are absent or null, both follow from a hash of the document's id, so
    that documents added later move no other. Rows that share task and document are parts of one document, in
    the order of the input. The same text stays only in its most protected split (evaluation, calibration,
    judge, query), over all tasks; calibration texts stay in one fold.

    Raises:
        InputError: a file or row cannot be read, a value is not allowed, a document is in two splits, or a
            task has fewer than `min_documents` documents in a split (calibration: in a fold).
        ConfigError: a storage option is not understood.
    """
    documents = _assemble(_parts(config, storage_options))
    kept, leaks = _protect(documents)
    _check_sizes(documents, kept, config.min_documents)
    frame = pl.DataFrame([one._asdict() for one in kept], schema_overrides={"fold": pl.Int64})
    return Tasks(
        TASK_DOCUMENTS.conform(frame).sort(TASK_DOCUMENTS.key),
        pl.DataFrame(leaks, schema=pl.Schema((name, pl.String) for name in _LEAKS), orient="row").sort(
            pl.all()
        ),
    )


def split_of(document: str) -> Split:
    """Return the split of a document by a hash of its id."""
    position, total = _uniform("split", document), 0.0
    for split, share in SHARES.items():
        total += share
        if position < total:
            return split
    return "evaluation"


def fold_of(document: str) -> int:
    """Return the fold of a document by a hash of its id."""
    return int(_uniform("fold", document) * FOLDS)


def _uniform(purpose: str, document: str) -> float:
    digest = hashlib.sha256(f"{purpose}\0{document}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


class _Part(NamedTuple):
    task: str
    document: str
    split: Split | None
    fold: int | None
    text: str


def _parts(config: TasksConfig, options: StorageOptions | None) -> Iterator[_Part]:
    optional = (config.document_column, "split", "fold")
    columns = Columns(config.text_column, (config.task_column,), optional)
    for file in resolve_paths(config.paths, options):
        if file.format not in ("parquet", "jsonl"):
            raise InputError(
                f"The task file {file.uri!r} has no columns; give tasks as Parquet or JSON lines."
            )
        # As a list: whether a column is missing shows only when the whole file has been read.
        for row in list(read_rows(file, columns, _LARGEST_BYTES, options)):
            where = f"row {row.row} of the task file {file.uri!r}"
            text = normalize_text(row.text or "")
            if row.fault is not None or not text:
                reason = f"{row.fault}: {row.detail}" if row.fault else "it is empty"
                raise InputError(f"The text in {where} cannot be used ({reason}); correct or remove the row.")
            task, split, fold = row.fields[config.task_column], row.fields["split"], row.fields["fold"]
            fold = None if fold in _NO_FOLD else fold.removesuffix(".0")
            if not task or task in RESERVED:
                named = f"is named {task!r}, which stands for {RESERVED[task]}" if task else "has no name"
                raise InputError(f"The task in {where} {named}; give it a name of its own.")
            if split and split not in SHARES:
                raise InputError(
                    f"The split {split!r} in {where} is not one of {', '.join(SHARES)}; correct it."
                )
            if fold is not None and fold not in map(str, range(FOLDS)):
                raise InputError(f"The fold {fold!r} in {where} is not 0 or 1; correct it.")
            document = row.fields[config.document_column] or document_id(text)
            yield _Part(task, document, cast(Split, split) or None, None if fold is None else int(fold), text)


def _assemble(parts: Iterator[_Part]) -> list[_Document]:
    """Join the parts of every document, in order of the input.

    Raises:
        InputError: parts of a document name different splits or folds, or there is no part at all.
    """
    grouped: dict[tuple[str, str], list[_Part]] = {}
    for part in parts:
        grouped.setdefault((part.task, part.document), []).append(part)
    if not grouped:
        raise InputError("The task files have no rows; give each task documents of its own.")
    documents = []
    for (task, document), rows in grouped.items():
        splits: set[Split] = {row.split for row in rows if row.split is not None} or {split_of(document)}
        folds = {row.fold for row in rows if row.fold is not None} or {fold_of(document)}
        if len(splits) > 1 or len(folds) > 1:
            kind, values = ("splits", splits) if len(splits) > 1 else ("folds", folds)
            raise InputError(
                f"The document {document!r} of the task {task!r} is in the {kind} "
                f"{' and '.join(map(str, sorted(values)))}; put all its rows into one."
            )
        text = "\n\n".join(dict.fromkeys(row.text for row in rows))
        documents.append(_Document(task, document, splits.pop(), folds.pop(), text))
    return documents


def _protect(documents: list[_Document]) -> tuple[list[_Document], list[tuple[str, ...]]]:
    """Keep every text in its most protected split and fold, and once per task; returns (kept, leaks)."""
    order = list(SHARES)
    ranked = sorted(documents, key=lambda one: (-order.index(one.split), one.fold, one.task, one.document))
    homes: dict[str, _Document] = {}
    holders: dict[tuple[str, str], _Document] = {}
    kept: list[_Document] = []
    leaks: list[tuple[str, ...]] = []
    for one in ranked:
        digest = document_id(one.text)
        home = homes.setdefault(digest, one)
        held = holders.setdefault((one.task, digest), one) if _together(one, home) else home
        if held is one:
            kept.append(one)
        else:
            leaks.append((one.task, one.document, one.split, held.task, held.document, held.split))
    return kept, leaks


def _together(one: _Document, home: _Document) -> bool:
    same_fold = one.split != "calibration" or one.fold == home.fold
    return one.split == home.split and same_fold


def _check_sizes(documents: list[_Document], kept: list[_Document], least: int) -> None:
    for task in sorted({one.task for one in documents}):
        for split in SHARES:
            for fold in range(FOLDS) if split == "calibration" else (None,):
                number = sum(
                    one.task == task and one.split == split and fold in (None, one.fold) for one in kept
                )
                if number < least:
                    place = f"split {split!r}" + ("" if fold is None else f", fold {fold},")
                    whole = math.ceil(least / min(SHARES.values()))
                    raise InputError(
                        f"The task {task!r} has {number} documents in the {place} and needs {least}; add "
                        f"documents, more than {whole} in all where they name no split, or lower min_documents."
                    )
