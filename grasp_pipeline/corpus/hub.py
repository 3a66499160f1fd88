"""Hugging Face datasets: from the hub by name, or from a local folder."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.rows import Extent
from grasp_pipeline.corpus.storage import file_digest
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import digest

SCHEME = "hf://"
_BATCH_ROWS = 64


def dataset_name(uri: str) -> str:
    """Return the hub name, or a local folder's own name."""
    folder = local_folder(uri)
    return posixpath.basename(posixpath.normpath(folder)) if folder else uri.removeprefix(SCHEME)


def local_folder(uri: str) -> str | None:
    """Return the folder that ``hf:///FOLDER`` or ``hf://./FOLDER`` names, or None for a dataset on the hub.

    ``hf:///FOLDER`` is ``/FOLDER`` where that exists, else ``FOLDER`` below the working directory.

    Raises:
        InputError: there is no such folder, or the URI names nothing.
    """
    name = uri.removeprefix(SCHEME)
    if not name.strip("/."):
        raise InputError(f"The input {uri!r} names no dataset; write hf://NAME or hf:///LOCAL/FOLDER.")
    if not name.startswith(("/", ".")):
        return None
    for folder in (name, name.lstrip("/")):
        if os.path.isdir(folder):
            return folder
    raise InputError(
        f"The dataset folder {name!r} of {uri!r} does not exist; correct the path or save the dataset."
    )


def fingerprint(uri: str, config: InputConfig) -> str:
    """Return a digest of the dataset's content (local) or revision (hub), its configuration and its split.

    Raises:
        InputError: the dataset cannot be found.
    """
    folder = local_folder(uri)
    if folder is None:
        return digest(_builder_hash(uri, config), config.hf_config, config.hf_split)
    names = sorted(os.path.join(place, name) for place, _, files in os.walk(folder) for name in files)
    relative = [os.path.relpath(name, folder) for name in names]
    return digest(file_digest(names), relative, config.hf_config, config.hf_split)


def read_tables(uri: str, config: InputConfig, extent: Extent) -> Iterator[pa.Table]:
    """Yield a dataset's rows in order, as small Arrow tables; a streamed dataset does not know how many.

    Raises:
        InputError: the dataset, its configuration or its split does not exist, or reading breaks off.
    """
    dataset = _open(uri, config)
    extent.size = getattr(dataset, "num_rows", None)
    try:
        yield from dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS)
    except Exception as error:  # whatever the library, its network or its file readers raise
        raise InputError(
            f"The dataset {uri!r} cannot be read to its end ({type(error).__name__}); check the connection "
            "and the dataset's files, then run again."
        ) from error


def _open(uri: str, config: InputConfig) -> Any:
    import datasets

    folder = local_folder(uri)
    try:
        if folder and {"state.json", "dataset_dict.json"} & set(os.listdir(folder)):
            loaded = datasets.load_from_disk(folder)
            return loaded[config.hf_split] if isinstance(loaded, datasets.DatasetDict) else loaded
        return datasets.load_dataset(
            folder or dataset_name(uri),
            config.hf_config or None,
            split=config.hf_split,
            streaming=config.hf_streaming,
        )
    except Exception as error:  # the library raises a dozen unrelated classes here
        raise _not_found(uri, config, error) from error


def _builder_hash(uri: str, config: InputConfig) -> str:
    import datasets

    try:
        builder = datasets.load_dataset_builder(dataset_name(uri), config.hf_config or None)
    except Exception as error:  # as in _open
        raise _not_found(uri, config, error) from error
    return str(builder.hash)


def _not_found(uri: str, config: InputConfig, error: Exception) -> InputError:
    first_line = (str(error).splitlines() or [""])[0][:200]
    return InputError(
        f"The dataset {uri!r} (configuration {config.hf_config or 'default'!r}, split {config.hf_split!r}) "
        f"cannot be opened: {type(error).__name__}: {first_line}; check its name, hf_config, hf_split and "
        "the connection."
    )
