"""Where a store or a model lies: a local folder of any name, an object-store URI, or a name on the hub.

A path is not a URI, and a URI is not a path: delta-rs names an open table by a URI, with everything but plain ASCII
escaped, and polars takes what it names for a path. Here alone one is made of the other.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

from grasp_pipeline.errors import InputError, StoreError

_OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/+(?=.)")
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f]|[\\\[\]^|?#=]|%[0-9A-Fa-f]{2}")
"""What the path of a store may not hold. Control characters, ``\\ [ ] ^ |`` and escapes such as ``%20`` are another
name, or none, to delta-rs, which loses the history below ``? #``; polars takes a folder with ``=`` for a partition."""
_PLAIN = re.compile(r"[A-Za-z0-9._~!$&'()*+,;:@/-]*")


def is_local(root: str) -> bool:
    """Return whether a tidied root is a folder of this machine."""
    return "://" not in root


def tidy_root(root: str) -> str:
    """Return the root of a store as it is used: `~` and ``file://`` resolved, no slash at its end.

    Raises:
        StoreError: it is empty, of an unknown scheme, a file or below one, or has characters that are not read back as
            they were written.
    """
    if not root.strip():
        raise StoreError("the store has no name; set GRASP_STORE to a folder or an object-store URI")
    scheme = _SCHEME.match(root)
    if scheme is not None and scheme[1].lower() != "file":
        return _object_store(root.rstrip("/"), scheme[1])
    local = _local_path(root) if scheme is not None else os.path.expanduser(root)
    whole = os.path.abspath(local)
    if fault := _UNUSABLE.search(whole):
        raise StoreError(
            f"the store {whole!r} has {fault[0]!r} in its path, where tables would be lost; rename the folder or "
            "set GRASP_STORE to another"
        )
    above = whole
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if not os.path.isdir(above):
        raise StoreError(
            f"the store {local} cannot be a folder, since {above} is none; set GRASP_STORE to another"
        )
    return local.rstrip("/") or "/"


def _object_store(root: str, scheme: str) -> str:
    if scheme not in _OBJECT_STORES:
        raise StoreError(
            f"the store {root} has the scheme {scheme}://, which is not known; give a folder or a URI that starts with "
            f"{', '.join(f'{known}://' for known in _OBJECT_STORES)}"
        )
    if not root.startswith(f"{scheme}://"):
        raise StoreError(f"the store {root} is no URI; write {scheme}://BUCKET/PATH")
    if not _PLAIN.fullmatch(root) or "=" in root:
        raise StoreError(
            f"the store {root!r} has characters that a URI would have to escape; use letters of ASCII, digits, '-', "
            "'_', '.' and '/' below the bucket"
        )
    return root


def _local_path(uri: str) -> str:
    """Return the path that a ``file:`` URI names."""
    return unquote(urlsplit(uri).path)


def local_folder(table_uri: str) -> str | None:
    """Return the folder of an open table by the URI that delta-rs gives it; None in an object store."""
    scheme = _SCHEME.match(table_uri)
    if scheme is None:
        return table_uri
    return _local_path(table_uri) if scheme[1] == "file" else None


def local_file(table_uri: str, file_uri: str) -> str:
    """Return where a file of an open local table lies.

    Args:
        table_uri: of the table, as delta-rs gives it: escaped.
        file_uri: of the file, as delta-rs gives it: the table's escaped path, without ``file://``, and the file's own
            path as it is.
    """
    above = table_uri.removeprefix("file://").rstrip("/") + "/"
    folder = local_folder(table_uri)
    if folder is None or not file_uri.startswith(above):
        return file_uri
    return os.path.join(folder, file_uri[len(above) :])


def folder_or_hub_name(kind: str, given: str, holding: str) -> str:
    """Return the folder of a checkpoint or tokenizer with `~` resolved, or its name on the Hugging Face hub.

    Args:
        kind: what it is, for messages.
        given: as configured.
        holding: files that the folder must hold, for messages.

    Raises:
        InputError: it is a file, or can only be a folder and does not exist.
    """
    path = os.path.expanduser(given)
    if os.path.isfile(path):
        raise InputError(f"the {kind} {given!r} is a file; give the folder that holds it")
    # A name on the hub is `name` or `owner/name`; anything else would be looked up there for minutes.
    if not os.path.isdir(path) and (given[:1] in "/.~" or given.count("/") > 1):
        raise InputError(f"the {kind} {given!r} does not exist; give a folder with {holding}")
    return path if os.path.isdir(path) else given
