"""The Delta store as an injected resource: tables, and the files (tokenizers, checkpoints) beside them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.locations import is_local, tidy_root

if TYPE_CHECKING:
    from resources.delta.tables import DeltaTables


_REACH = "check that the store can be reached and that its credentials allow it"

_UNUSABLE = re.compile("[\0\n\r\ud800-\udfff]")
_NAME_BYTES = 200
"""Most bytes of a name of a file or folder: file systems take 255, and scratch names are longer."""


def _leads_out(relative: str) -> StoreError:
    return StoreError(f"the path {relative!r} leads out of the store; give one below its root")


def _bytes(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


class DeltaStore(dg.ConfigurableResource):
    """Where the versioned tables lie."""

    root: str = Field(
        default="store", description="Folder or object-store URI (s3://, gs://, az://) that holds the tables."
    )
    storage_options_from_env: dict[str, str] = Field(
        default={},
        description="delta-rs storage option -> name of the environment variable that holds its value. "
        "Only names are written here, so no secret reaches a log.",
    )
    sample_text: Literal["hide", "hash", "cut"] = Field(
        default="hide",
        description="What the sample rows on the asset pages show of documents' text: `hide` its length alone, `hash` "
        "a digest of it, `cut` its first 40 characters. Whoever can open the web interface can read them.",
    )

    @property
    def storage_options(self) -> dict[str, str]:
        """Storage options with their values from the environment.

        Raises:
            StoreError: a named variable is not set.
        """
        missing = sorted(name for name in self.storage_options_from_env.values() if name not in os.environ)
        if missing:
            raise StoreError(
                f"the environment variables {', '.join(missing)} are not set; set them and launch again"
            )
        return {option: os.environ[name] for option, name in self.storage_options_from_env.items()}

    @cached_property
    def tables(self) -> DeltaTables:
        """The tables below the root."""
        from resources.delta.tables import DeltaTables

        return DeltaTables(self.root, self.storage_options)

    @cached_property
    def place(self) -> str:
        """The root as it is used and shown: see `tidy_root`.

        Raises:
            StoreError: there cannot be a store.
        """
        return tidy_root(self.root)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return is_local(self.place)

    def check_writable(self) -> None:
        """Make the store's folder and a file in it; an object store is left to the first commit.

        Raises:
            StoreError: nothing can be written there.
        """
        if self.is_local:
            remedy = "make the folder writable, or set GRASP_STORE to another"
            with boundary(StoreError, f"the store {self.place} cannot be written", remedy):
                Path(self.place).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.place):
                    pass

    def _inside(self, relative: str) -> str:
        parts = Path(relative).parts
        if not parts or Path(relative).is_absolute() or ".." in parts:
            raise _leads_out(relative)
        if _UNUSABLE.search(relative) or max(map(_bytes, parts)) > _NAME_BYTES:
            raise StoreError(
                f"the path {relative[:100]!r} has a line break, a NUL, half a character or a name above {_NAME_BYTES} "
                "bytes; give another"
            )
        target = f"{self.place}/{Path(relative).as_posix()}"
        if self.is_local:  # a link may lead to the store, none out of it
            root, real = os.path.realpath(self.place), os.path.realpath(target)
            if os.path.commonpath([root, real]) != root:
                raise _leads_out(relative)
        return target

    @contextmanager
    def new_files(self, relative: str) -> Iterator[Path]:
        """Give a scratch folder; on success its files become the store's folder `relative`, all at once.

        A local folder that was there before is moved aside first and removed last: if the machine stops in between, its
        files lie below `.old-*` beside it. An object store replaces object by object, and removes last what the new
        folder does not hold.
        """
        target = self._inside(relative)
        parent = Path(target).parent if self.is_local else None
        remedy = "make the store writable and see that it has room, or set GRASP_STORE to another"
        with boundary(StoreError, f"the folder {target} cannot be written", remedy):
            if parent is not None:
                parent.mkdir(parents=True, exist_ok=True)
            scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
        try:
            yield scratch
            if self.is_local:
                with boundary(StoreError, f"the folder {target} cannot be written", remedy):
                    _replace_folder(Path(target), scratch)
            else:
                with boundary(StoreError, f"the folder {target} cannot be written", _REACH):
                    _replace_objects(*self._remote(target), scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def has_file(self, relative: str) -> bool:
        """Return whether the store holds a file at this path."""
        target = self._inside(relative)
        if self.is_local:
            return Path(target).is_file()
        from pyarrow.fs import FileType

        remote, path = self._remote(target)
        with boundary(StoreError, f"the file {target} cannot be looked up", _REACH):
            return remote.get_file_info(path).type == FileType.File

    def _remote(self, uri: str) -> tuple[Any, str]:
        """Return the file system of an object store, under the storage options, and the path in it."""
        from pyarrow.fs import FileSystem

        from grasp_pipeline.corpus.storage import file_system, path_of

        uri = uri.replace("s3a://", "s3://", 1)
        if uri.startswith(("s3://", "gs://", "az://")):
            return file_system(uri, self.storage_options), path_of(uri)
        return FileSystem.from_uri(uri)

    @contextmanager
    def files(self, relative: str) -> Iterator[Path]:
        """Give a local folder with the files stored under `relative`.

        Raises:
            StoreError: there is no such folder.
        """
        source = self._inside(relative)
        if self.is_local:
            if not Path(source).is_dir():
                raise StoreError(
                    f"the folder {source} is missing from the store; materialize its asset again"
                )
            yield Path(source)
            return
        from pyarrow import fs

        with tempfile.TemporaryDirectory() as scratch:
            remote, path = self._remote(source)
            with boundary(StoreError, f"the folder {source} cannot be read", _REACH):
                there = remote.get_file_info(path).type == fs.FileType.Directory
                if there:
                    fs.copy_files(path, scratch, source_filesystem=remote)
            if not there:
                raise StoreError(
                    f"the folder {source} is missing from the store; materialize its asset again"
                )
            yield Path(scratch)


def _replace_objects(remote: Any, path: str, scratch: Path) -> None:
    """Copy a local folder over the objects below a path of an object store, then delete those that it does not hold."""
    from pyarrow import fs

    fs.copy_files(str(scratch), path, destination_filesystem=remote)
    new = {each.relative_to(scratch).as_posix() for each in scratch.rglob("*") if each.is_file()}
    there = remote.get_file_info(fs.FileSelector(path, recursive=True))
    for each in there:
        if each.type == fs.FileType.File and each.path.removeprefix(f"{path}/") not in new:
            remote.delete_file(each.path)


def _replace_folder(target: Path, scratch: Path) -> None:
    """Rename `scratch` to `target`, with the rights of a plain new folder; what was there is removed afterwards."""
    probe = scratch / ".rights"
    probe.mkdir()
    scratch.chmod(probe.stat().st_mode)
    probe.rmdir()
    if not target.exists():
        scratch.rename(target)
        return
    aside = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
    target.rename(aside / target.name)
    try:
        scratch.rename(target)
    except OSError:
        (aside / target.name).rename(target)
        raise
    shutil.rmtree(aside)
