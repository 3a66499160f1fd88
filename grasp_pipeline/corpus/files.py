"""From configured paths to a sorted list of input files, each with a fingerprint of its content."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.fs as pafs

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus import hub
from grasp_pipeline.corpus.globs import glob_base, glob_pattern, is_deep, is_glob
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

    A folder gives the files below it with a known ending, apart from names that start with a dot or an
    underscore; a file that is named or matched by a glob must have a known ending.

    Raises:
        InputError: as `resolve_inputs`.
        ConfigError: as `resolve_inputs`.
    """
    found: dict[str, InputFile] = {}
    for path in paths:
        scheme = scheme_of(path)
        system = file_system(path, storage_options)
        try:
            for info in sorted(_expand(path, path_of(path), system), key=lambda one: one.path):
                uri = uri_of(info.path, scheme)
                key = uri if scheme else os.path.realpath(uri)
                if key not in found:
                    found[key] = _input_file(uri, info, system)
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"The input path {path!r} cannot be listed ({reason_of(error)}); check it."
            ) from error
    return sorted(found.values(), key=lambda file: file.uri)


def _expand(given: str, path: str, system: pafs.FileSystem) -> list[pafs.FileInfo]:
    info = system.get_file_info(path)
    if info.type == pafs.FileType.File:
        return [info]
    if info.type == pafs.FileType.Directory:
        inside = [one for one in _below(path, system) if _ending(one.path) and not _hidden(one.path, path)]
        if not inside:
            raise InputError(f"The folder {given!r} holds no file to read; put {_known()} files there.")
        return inside
    if not is_glob(path):
        raise InputError(f"The input path {given!r} does not exist; correct it or create the file.")
    base, pattern = glob_base(path), glob_pattern(path)
    above = base if base not in (".", "/") else ""
    matches = [
        one
        for one in _below(base, system, is_deep(path))
        if pattern.fullmatch(one.path) and not _hidden(one.path, above)
    ]
    if not matches:
        raise InputError(f"The input pattern {given!r} matches no file; correct it or create the files.")
    return matches


def _below(folder: str, system: pafs.FileSystem, deep: bool = True) -> list[pafs.FileInfo]:
    infos = system.get_file_info(pafs.FileSelector(folder, allow_not_found=True, recursive=deep))
    return [_tidied(info) for info in infos if info.type == pafs.FileType.File]


def _tidied(info: pafs.FileInfo) -> pafs.FileInfo:
    path = info.path.removeprefix("./")
    return pafs.FileInfo(path, type=info.type, size=info.size, mtime_ns=info.mtime_ns)


def _hidden(path: str, folder: str) -> bool:
    inside = path[len(folder) :] if folder not in (".", "/") else path
    return any(part.startswith((".", "_")) for part in inside.split("/"))


def _input_file(uri: str, info: pafs.FileInfo, system: pafs.FileSystem) -> InputFile:
    ending = _ending(uri)
    if ending is None:
        raise InputError(f"The input file {uri!r} has an ending that cannot be read; use one of {_known()}.")
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
