"""Stored sketches read by a thread while the block before is used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.attribution.blocks import SketchBlocks


class ReadAhead:
    """Blocks of which a thread reads the next while the present one is used. What reading raises is raised here."""

    def __init__(self, blocks: SketchBlocks) -> None:
        self.blocks, self.n, self.d = blocks, blocks.n, blocks.d

    def __iter__(self) -> Iterator[tuple[int, NDArray[np.floating[Any]]]]:
        blocks = iter(self.blocks)
        with ThreadPoolExecutor(1, thread_name_prefix="sketch reader") as reader:
            coming = reader.submit(next, blocks, None)
            while (block := coming.result()) is not None:
                coming = reader.submit(next, blocks, None)
                yield block
