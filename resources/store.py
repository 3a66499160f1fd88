"""The Delta store as an injected resource: tables, and the files (tokenizers, checkpoints) beside them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from grasp_pipeline.errors import StoreError, boundary
from grasp_pipeline.locations import is_local, tidy_root

if TYPE_CHECKING:
    from resources.delta.tables import DeltaTables


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

    def _inside(self, relative: str) -> str:
        parts = Path(relative).parts
        if not parts or Path(relative).is_absolute() or ".." in parts:
            raise StoreError(f"the path {relative!r} leads out of the store; give one below its root")
        return f"{self.place}/{Path(relative).as_posix()}"

    @contextmanager
    def new_files(self, relative: str) -> Iterator[Path]:
        """Give a scratch folder; on success its files become the store's folder `relative`, all at once.

        A local folder that was there before is moved aside first and removed last: if the machine stops in between, its
        files lie below `.old-*` beside it.
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
                _replace_folder(Path(target), scratch)
            else:
                from pyarrow import fs

                remote, path = fs.FileSystem.from_uri(target)
                fs.copy_files(str(scratch), path, destination_filesystem=remote)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def has_file(self, relative: str) -> bool:
        """Return whether the store holds a file at this path."""
        target = self._inside(relative)
        if self.is_local:
            return Path(target).is_file()
        from pyarrow import fs

        remote, path = fs.FileSystem.from_uri(target)
        return remote.get_file_info(path).type == fs.FileType.File

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
            remote, path = fs.FileSystem.from_uri(source)
            fs.copy_files(path, scratch, source_filesystem=remote)
            yield Path(scratch)


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
