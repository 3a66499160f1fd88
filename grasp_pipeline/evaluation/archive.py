"""Finished measurements as one .npz file each: words as JSON, arrays beside them; written atomically, never pickled."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats
from grasp_pipeline.errors import InputError
from grasp_pipeline.proxy.retrain import Run
from grasp_pipeline.seeds import digest

R = TypeVar("R")
Arrays = dict[str, NDArray[Any]]

WORDS = "words"
"""Name of the array that holds the JSON text."""


def save_archive(path: Path, words: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write words (JSON values) and arrays to one file; nothing unfinished is ever seen under its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part.npz")
    texts = {WORDS: np.array(json.dumps(words))}
    np.savez_compressed(unfinished, allow_pickle=False, **texts, **arrays)
    unfinished.replace(path)


def load_archive(path: Path, what: str) -> tuple[dict[str, Any], Arrays]:
    """Read what `save_archive` wrote.

    Args:
        path: of the file.
        what: it should be, such as "cell": for the error message.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(str(arrays.pop(WORDS))), arrays
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        EOFError,
        RuntimeError,
        BadZipFile,
        zlib.error,
    ) as error:
        raise damaged(path, what, error) from error


def damaged(path: Path, what: str, why: object) -> InputError:
    """Return the error for a file that does not hold what it should."""
    return InputError(f"{path} is no {what} of the laboratory ({why}); delete it and run the {what} again")


@dataclass(frozen=True)
class ArchiveStore:
    """A `RunStore` of one archive per batch of retrainings, in float32, one folder per recipe.

    folder: of the recipes' folders; size: k, values per run.
    """

    folder: Path
    size: int

    def known(self, recipe: str) -> dict[Run, Floats]:
        """Return the (k,) values of every run measured under a recipe.

        Raises:
            InputError: an archive cannot be read.
        """
        found: dict[Run, Floats] = {}
        for path in sorted((self.folder / recipe[:16]).glob("*.npz")):
            words, arrays = load_archive(path, "batch of losses")
            losses = arrays["losses"].astype(np.float64)
            if losses.shape != (len(words["runs"]), self.size):
                raise damaged(path, "batch of losses", f"losses of shape {losses.shape}")
            found |= {(name, seed): row for (name, seed), row in zip(words["runs"], losses, strict=True)}
        return found

    def keep(self, recipe: str, values: Mapping[Run, Floats], seconds: Mapping[Run, float]) -> None:
        """Write the (k,) values of some runs to an archive of their own."""
        losses = np.stack(list(values.values())).astype(np.float32)
        path = self.folder / recipe[:16] / f"{digest(list(values))[:16]}.npz"
        save_archive(path, {"runs": list(values)}, {"losses": losses})
