"""A witness of a run: the texts, vectors and losses that the core's functions are really given, step by step.

Every task document gets the word of its split after every third word of its own, so that whatever a step was given can
be told by reading it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

WORDS = {"query": "quokka", "judge": "jackal", "calibration": "caiman", "evaluation": "echidna"}
"""The word of every split."""


def mark_splits(tasks: Path) -> None:
    """Deal a folder's task documents out to the splits, and mark them."""
    splits = list(WORDS)
    for path in sorted(tasks.glob("*.parquet")):
        frame = pl.read_parquet(path).with_row_index("row")
        rows = [
            {"task": task, "text": marked(text, WORDS[splits[row % 4]]), "split": splits[row % 4]}
            for row, task, text in frame.select("row", "task", "text").iter_rows()
        ]
        pl.DataFrame(rows).write_parquet(path)


def marked(text: str, word: str) -> str:
    """Return a text with a word after every third of its own."""
    words = text.split()
    return " ".join(f"{one} {word}" if place % 3 == 2 else one for place, one in enumerate(words))


@dataclass
class Witness:
    """What was given.

    texts: what it was used for -> token rows; vectors: (step, split) of the task sketches; sketched: split that a row
    was averaged under -> token rows; refits: the utilities of every refit, in order of the folds.
    """

    texts: dict[str, list[list[int]]] = field(default_factory=dict)
    vectors: set[tuple[str, str]] = field(default_factory=set)
    sketched: dict[str, list[list[int]]] = field(default_factory=dict)
    refits: list[np.ndarray] = field(default_factory=list)
    _tasks: list[list[int]] = field(default_factory=list)

    def saw(self, what: str, rows: Sequence[Sequence[int]]) -> None:
        self.texts.setdefault(what, []).extend(list(map(int, row)) for row in rows)


def _pool(pool: Any) -> list[list[int]]:
    return [list(part) for part in np.split(pool.tokens, pool.offsets[1:-1])]


def _padded(rows: Any, sizes: Any) -> list[list[int]]:
    """Return the rows of a padded batch (N, L + 1) without the separator that each begins with."""
    return [row[1 : 1 + size] for row, size in zip(rows.tolist(), sizes.tolist(), strict=True)]


@contextmanager
def watching() -> Iterator[Witness]:
    """Watch the runs of this process."""
    seen = Witness()

    def proxy(given: dict[str, Any]) -> None:
        seen.saw("proxy training", _pool(given["pool"]))
        seen.saw("proxy validation", _padded(*given["validation"]))

    def tuned(given: dict[str, Any]) -> None:
        for split, pool in given["texts"].items():
            seen.saw(f"fine-tuning for {split}", _pool(pool))

    def judged(given: dict[str, Any]) -> None:
        seen.saw("likelihood of the judge", _pool(given["query"]))

    def built(given: dict[str, Any]) -> None:
        seen.saw("n-grams of the candidates", _pool(given["queries"]))

    def retrained(given: dict[str, Any]) -> None:
        held_out = given["self"].held_out
        seen.saw(given["what"], _padded(held_out.rows, held_out.sizes))

    def loaded(given: dict[str, Any]) -> None:
        seen.vectors.add((given["step"].context.op_execution_context.op.name, given["split"]))

    def sketched(given: dict[str, Any]) -> None:
        if given["what"] == "the tasks":
            seen._tasks = [row.to_list() for frame in given["frames"] for row in frame["input_ids"]]

    def averaged(given: dict[str, Any]) -> None:
        for split, row in zip(given["splits"], seen._tasks, strict=True):
            seen.sketched.setdefault(split, []).append(row)

    def refitted(given: dict[str, Any]) -> None:
        seen.refits.append(given["utilities"])

    watched = {
        "grasp_pipeline.proxy.reference:train_reference": proxy,
        "grasp_pipeline.proxy.conditional:fine_tune": tuned,
        "grasp_pipeline.selection.candidates.finalists:judge_coverage": judged,
        "grasp_pipeline.selection.candidates.context:SelectionContext.__init__": built,
        "grasp_pipeline.proxy.runs:MeasuredRuns.make": retrained,
        "assets.data:load_task_vectors": loaded,
        "assets.finalists:load_task_vectors": loaded,
        "assets.engines:KindEngines.sketch": sketched,
        "grasp_pipeline.sketch.targets:task_means": averaged,
        "grasp_pipeline.selection.candidates.refit:refit_direction": refitted,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, tell in watched.items():
            _watch(patch, name, tell)
        yield seen


def _watch(patch: pytest.MonkeyPatch, name: str, tell: Any) -> None:
    """Tell the arguments of every call of `module:name` or `module:class.name`."""
    module, _, place = name.partition(":")
    *classes, last = place.split(".")
    owner: Any = import_module(module)
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, last)
    signature = inspect.signature(original)

    @wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        tell(signature.bind(*args, **kwargs).arguments)
        return original(*args, **kwargs)

    patch.setattr(owner, last, watched)
