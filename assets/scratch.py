"""Arrays of the size of the corpus: in memory while small, else in a file that takes no name."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.errors import StoreError
from resources.store import DeltaStore

IN_MEMORY_BYTES = 2**28
"""Most bytes of one array that are held in memory: what the streamed optimiser holds besides (its `HELD_ROWS`), so that
a file would not lower the peak of a step."""


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
    folder = Path(store.place) if store.is_local else Path(tempfile.gettempdir())
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            # Room is taken now: a write to a mapped page that the disk has no room for would kill the process.
            os.posix_fallocate(file.fileno(), 0, n_bytes)
        except OSError as error:
            raise StoreError(
                f"no room for {n_bytes / 2**30:.1f} GiB of scratch data below {folder} ({error.strerror}); make some"
            ) from error
        return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
