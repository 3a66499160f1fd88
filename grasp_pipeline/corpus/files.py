"""From configured paths to a sorted list of input files, each with a fingerprint of its content."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.fs as pafs

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus import hub
from grasp_pipeline.corpus.globs import glob_pattern, is_deep, is_glob, split_glob
from grasp_pipeline.corpus.storage import (
    StorageOptions,
    file_digest,
    file_system,
    path_of,
    reason_of,
    scheme_of,
    uri_of,
)
from grasp_pipeline.errors import InputError

Format = Literal["parquet", "jsonl", "text", "huggingface"]
Compression = Literal["gzip", "zstd"] | None

_PACKED: dict[str, Compression] = {"": None, ".gz": "gzip", ".zst": "zstd"}
ENDINGS: dict[str, tuple[Format, Compression]] = {".parquet": ("parquet", None), ".txt": ("text", None)}
ENDINGS |= {
    ending + extra: ("jsonl", compression)
    for ending in (".jsonl", ".json", ".ndjson")
    for extra, compression in _PACKED.items()
}


@dataclass(frozen=True)
class InputFile:
    """One file, or one Hugging Face dataset, of the corpus.

    Attributes:
        uri: local path as configured, object-store URI or ``hf://`` URI; names the file in the manifest.
        format: how it is read.
        compression: of a JSON-lines file.
        fingerprint: changes when the content does. Local: blake2b of the bytes. Object store: size and time
            of the last write. Hugging Face: revision, configuration and split, or blake2b of a local folder.
        size: bytes; None for a Hugging Face dataset.
    """

    uri: str
    format: Format
    compression: Compression
    fingerprint: str
    size: int | None = None

    @property
    def source(self) -> str:
        """The file's name without its endings; a dataset's name."""
        if self.format == "huggingface":
            return hub.dataset_name(self.uri)
        name = posixpath.basename(self.uri)
        return name[: len(name) - len(_ending(name) or "")]


def resolve_inputs(config: InputConfig, storage_options: StorageOptions | None = None) -> list[InputFile]:
    """List the corpus's files, sorted by URI, each once.

    Raises:
        InputError: a path does not exist, matches nothing, has an unsupported ending or cannot be listed.
        ConfigError: a storage option is not understood.
    """
    datasets = sorted({path for path in config.paths if path.startswith(hub.SCHEME)})
    files = resolve_paths([path for path in config.paths if not path.startswith(hub.SCHEME)], storage_options)
    files += [InputFile(uri, "huggingface", None, hub.fingerprint(uri, config)) for uri in datasets]
    return sorted(files, key=lambda file: file.uri)


def resolve_paths(paths: Sequence[str], storage_options: StorageOptions | None = None) -> list[InputFile]:
    """List the files of paths, folders, globs and object-store URIs, sorted by URI, each once.

    A folder, named or matched by a glob, gives the files below it with a known ending, apart from names that
    start with a dot or an underscore; a file that is named or matched by a glob must have a known ending.

    Raises:
        InputError: as `resolve_inputs`.
        ConfigError: as `resolve_inputs`.
    """
    return [_input_file(uri, info, system) for uri, info, system in list_files(paths, storage_options)]


def list_files(
    paths: Sequence[str], storage_options: StorageOptions | None = None
) -> list[tuple[str, pafs.FileInfo, pafs.FileSystem]]:
    """List (URI, size and time of the last write, file system) of what `resolve_paths` finds; no content is read.

    Raises:
        InputError: a path does not exist, matches nothing or cannot be listed.
        ConfigError: a storage option is not understood.
    """
    found: dict[str, tuple[str, pafs.FileInfo, pafs.FileSystem]] = {}
    for path in paths:
        scheme = scheme_of(path)
        system = file_system(path, storage_options)
        try:
            for info in sorted(_expand(path, path_of(path), system), key=lambda one: one.path):
                uri = uri_of(info.path, scheme)
                found.setdefault(uri if scheme else os.path.realpath(uri), (uri, info, system))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"The input path {path!r} cannot be listed ({reason_of(error)}); check it."
            ) from error
    return sorted(found.values(), key=lambda one: one[0])


def _expand(given: str, path: str, system: pafs.FileSystem) -> list[pafs.FileInfo]:
    info = system.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [info]
    if info.type == pafs.FileType.Directory:
        return _inside(path, system)
    if not is_glob(path):
        raise InputError(f"The input path {given!r} does not exist; correct it or create the file.")
    base, rest = split_glob(path, lambda name: system.get_file_info(name).type != pafs.FileType.NotFound)
    try:
        pattern = glob_pattern(rest)
    except ValueError as error:
        raise InputError(
            f"The input pattern {given!r} has brackets that hold no set of characters; write [[] for a bracket "
            "that is part of a name."
        ) from error
    above = base.rstrip("/") or ("/" if base else ".")
    matches = [
        one for one in _below(above, system, is_deep(rest)) if pattern.fullmatch(one.path[len(base) :])
    ]
    files = [one for one in matches if one.type == pafs.FileType.File]
    chosen = {folder for one in files for folder in _folders_of(one.path)}
    for one in matches:
        # Of a folder in which the pattern itself chooses files, those are meant.
        if one.type == pafs.FileType.Directory and one.path not in chosen:
            files += _inside(one.path, system, may_be_empty=True)
    if not files:
        raise InputError(
            f"The input pattern {given!r} matches no file; correct it or create the files, and write [[] for a "
            "bracket that is part of a name."
        )
    return files


def _folders_of(path: str) -> Iterator[str]:
    while (path := posixpath.dirname(path)) not in ("", "/"):
        yield path


def _inside(folder: str, system: pafs.FileSystem, may_be_empty: bool = False) -> list[pafs.FileInfo]:
    """List the files to read below a folder.

    A folder with a known ending is one data set written in parts, so that every file in it must be readable.
    """
    everything = [one for one in _below(folder, system) if one.type == pafs.FileType.File]
    files = [one for one in everything if _ending(one.path)]
    parts = _ending(folder) is not None
    if not files and (everything or parts or not may_be_empty):
        raise InputError(f"The folder {folder!r} holds no file to read; put {_known()} files there.")
    return everything if parts else files


def _below(folder: str, system: pafs.FileSystem, deep: bool = True) -> list[pafs.FileInfo]:
    """List what is below a folder, apart from what is hidden there."""
    infos = system.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=deep))
    tidied = [_tidied(info) for info in infos]
    start = 0 if folder == "." else len(folder.rstrip("/")) + 1
    return [info for info in tidied if not _hidden(info.path[start:])]


def _tidied(info: pafs.FileInfo) -> pafs.FileInfo:
    path = info.path.removeprefix("./")
    return pafs.FileInfo(path, type=info.type, size=info.size, mtime_ns=info.mtime_ns)


def _hidden(inside: str) -> bool:
    return any(part.startswith((".", "_")) for part in inside.split("/"))


def _input_file(uri: str, info: pafs.FileInfo, system: pafs.FileSystem) -> InputFile:
    ending = _ending(uri)
    if ending is None:
        how = (
            " Of a table: polars.read_csv(FILE).write_ndjson(NEW)." if uri.endswith((".csv", ".tsv")) else ""
        )
        raise InputError(
            f"The input file {uri!r} has an ending that cannot be read; use one of {_known()}.{how}"
        )
    kind, compression = ENDINGS[ending]
    if isinstance(system, pafs.LocalFileSystem):
        fingerprint = file_digest([info.path])
    else:
        fingerprint = f"size:{info.size};written:{info.mtime_ns}"
    return InputFile(uri, kind, compression, fingerprint, info.size)


def _ending(path: str) -> str | None:
    name = posixpath.basename(path).lower()
    return max((ending for ending in ENDINGS if name.endswith(ending)), key=len, default=None)


def _known() -> str:
    return ", ".join(ENDINGS)
