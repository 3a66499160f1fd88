"""How large a stored proxy is, from the headers of its safetensors files alone."""

from __future__ import annotations

import json
import math
from typing import Any

from grasp_pipeline.locations import is_local

LENGTH = 8
"""Bytes, little-endian, before the header, that say how long it is (the safetensors format)."""


def stored_parameters(folder: str) -> int | None:
    """Return the number of weights below a folder, tied ones counted once; None where there are no files.

    Args:
        folder: path or object-store URI of a checkpoint.
    """
    from pyarrow import fs

    try:
        files, path = (fs.LocalFileSystem(), folder) if is_local(folder) else fs.FileSystem.from_uri(folder)
        found = files.get_file_info(fs.FileSelector(path))
    except (OSError, ValueError):
        return None
    counts = [
        _weights(files, each.path) for each in found if each.is_file and each.path.endswith(".safetensors")
    ]
    return sum(counts) if counts else None


def _weights(files: Any, path: str) -> int:
    with files.open_input_file(path) as stored:
        header = json.loads(stored.read(int.from_bytes(stored.read(LENGTH), "little")))
    return sum(math.prod(about["shape"]) for name, about in header.items() if name != "__metadata__")
