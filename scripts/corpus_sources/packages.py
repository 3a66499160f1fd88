"""Fetching public packages with the ordinary clients, and reading what came."""

import email.parser
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["debian", "npm", "pypi"]
_KIND_NAMES: dict[Kind, str] = {"debian": "Debian", "npm": "npm", "pypi": "PyPI"}
_TIMEOUT_S = 900


class CorpusError(Exception):
    """A build step that cannot go on, said in one sentence."""


@dataclass(frozen=True)
class PackageName:
    """A package to fetch; `version` pins it where the registry keeps old versions."""

    kind: Kind
    name: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{_KIND_NAMES[self.kind]} {self.name}"


@dataclass(frozen=True)
class Package:
    """A package that has been fetched and unpacked below `root`."""

    name: PackageName
    version: str
    root: Path


class PackageStore:
    """Fetches packages into a cache folder; what is there already is not fetched again."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._open: dict[PackageName, Package] = {}

    def get(self, name: PackageName) -> Package:
        """The package, fetched and unpacked."""
        if name not in self._open:
            home = self.work / name.kind / name.name.replace("/", "__").lstrip("@")
            archive = self._archive(name, home)
            root = home / "unpacked" / archive.name
            if not root.is_dir():
                partial = root.with_name(root.name + ".partial")
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                _unpack(name, archive, partial)
                partial.rename(root)
            version = _version(name, archive, root)
            if name.version not in (None, version):
                raise CorpusError(f"{home} holds version {version} of {name}, not {name.version}: empty it.")
            self._open[name] = Package(name, version, root)
        return self._open[name]

    def _archive(self, name: PackageName, home: Path) -> Path:
        pattern = {"debian": "*.deb", "npm": "*.tgz", "pypi": "*.whl"}[name.kind]
        home.mkdir(parents=True, exist_ok=True)
        if not (found := sorted(home.glob(pattern))):
            incoming = home / "incoming"
            shutil.rmtree(incoming, ignore_errors=True)
            incoming.mkdir()
            _fetch(name, incoming)
            for path in sorted(incoming.glob(pattern)):
                path.rename(home / path.name)
            shutil.rmtree(incoming)
            found = sorted(home.glob(pattern))
        if len(found) != 1:
            raise CorpusError(f"{home} holds {len(found)} archives of {name} where one is wanted: empty it.")
        return found[0]


def _fetch(name: PackageName, folder: Path) -> None:
    pinned = name.version is not None
    match name.kind:
        case "debian":
            command = ["apt-get", "download", f"{name.name}={name.version}" if pinned else name.name]
            hint = "run `apt-get update` on a Debian 12 machine first"
        case "npm":
            command = ["npm", "pack", "--silent", f"{name.name}@{name.version}" if pinned else name.name]
            hint = "npm must be installed and reach its registry"
        case "pypi":
            wanted = f"{name.name}=={name.version}" if pinned else name.name
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            command += ["--only-binary=:all:", "--dest", ".", wanted]
            hint = "pip must reach its package index"
    _run(name, command, folder, hint)


def _run(name: PackageName, command: list[str], folder: Path, hint: str) -> None:
    shown = command[0] if command[0] != sys.executable else "pip"
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise CorpusError(f"Cannot get the {name} package: `{shown}` is not installed ({hint}).") from None
    except subprocess.TimeoutExpired:
        raise CorpusError(f"Cannot get the {name} package: `{shown}` took over {_TIMEOUT_S} s.") from None
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        said = lines[-1].rstrip(".") if lines else f"exit status {done.returncode}"
        raise CorpusError(f"Cannot get the {name} package: `{shown}` said '{said}' ({hint}).")


def _unpack(name: PackageName, archive: Path, folder: Path) -> None:
    match name.kind:
        case "debian":
            _run(name, ["dpkg-deb", "-x", str(archive), "."], folder, "dpkg is part of Debian")
        case "npm":
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        case "pypi":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(folder)


def _version(name: PackageName, archive: Path, root: Path) -> str:
    match name.kind:
        case "debian":
            field = subprocess.run(
                ["dpkg-deb", "-f", str(archive), "Version"], capture_output=True, text=True, check=True
            )
            return field.stdout.strip()
        case "npm":
            return str(json.loads((root / "package" / "package.json").read_text())["version"])
        case "pypi":
            (metadata,) = root.glob("*.dist-info/METADATA")
            headers = email.parser.HeaderParser().parsestr(metadata.read_text(encoding="utf-8"))
            return str(headers["Version"])
