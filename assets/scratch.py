"""Data of the size of the corpus in files that take no name; arrays stay in memory while they are small."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from collections.abc import Container
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.errors import StoreError
from grasp_pipeline.seeds import digest
from resources.store import DeltaStore

IN_MEMORY_BYTES = 2**28
"""Most bytes of one array that are held in memory: what the streamed optimiser holds besides (its `HELD_ROWS`), so that
a file would not lower the peak of a step."""


def _folder(store: DeltaStore) -> Path:
    return Path(store.place) if store.is_local else Path(tempfile.gettempdir())


def scratch_file(store: DeltaStore) -> IO[bytes]:
    """Return an empty file that has no name: nothing is left of it when it is closed or the process ends.

    It lies below the store's folder, which has room for data of the size of the corpus (for a store elsewhere in the
    machine's temporary folder).
    """
    return tempfile.TemporaryFile(dir=_folder(store))


def scratch_folder(store: DeltaStore, *parts: str) -> Path:
    """Return a folder for what a step can make again; whoever deletes it loses time alone.

    It lies in the store's folder, for a store elsewhere in the machine's temporary folder, apart from those of other
    stores. Files below it are named by digests of all that they follow from and appear when they are whole.
    """
    if store.is_local:
        return Path(store.place, "scratch", *parts).absolute()
    return Path(tempfile.gettempdir(), f"grasp-scratch-{digest(store.place)[:16]}", *parts)


def keep_only(folder: Path, wanted: Container[str]) -> None:
    """Delete what lies in the folders of a scratch folder, or is a file in it, and is not wanted any more; paths."""
    for path in (*folder.glob("*/*"), *folder.glob("*")):
        if str(path) not in wanted and path.parent != folder:
            shutil.rmtree(path, ignore_errors=True)
        elif str(path) not in wanted and path.is_file():
            path.unlink(missing_ok=True)


def scratch_array(store: DeltaStore, shape: tuple[int, ...], dtype: np.dtype) -> NDArray:
    """Return an array to fill, of any content: in memory, or beyond `IN_MEMORY_BYTES` mapped from a file.

    The file lies below the store's folder, which has room for data of this size (for a store elsewhere in the machine's
    temporary folder). It is unlinked before it is used: nothing is left of it when the array is collected or the
    process ends, however it ends. Its pages can be written back and dropped by the system, unlike memory.

    Raises:
        StoreError: the folder has no room for it.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes <= IN_MEMORY_BYTES:
        return np.empty(shape, dtype)
    with scratch_file(store) as file:
        try:
            # Room is taken now: a write to a mapped page that the disk has no room for would kill the process.
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            raise StoreError(
                f"no room for {n_bytes / 2**30:.1f} GiB of scratch data below {_folder(store)} "
                f"({error.strerror}); make some"
            ) from error
        return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
