"""Where files lie: local paths and object stores behind one file system interface (pyarrow.fs).

One byte stream for every place, so that compressed, truncated and badly encoded files are treated alike
everywhere.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pafs

from grasp_pipeline.errors import ConfigError, InputError

StorageOptions = Mapping[str, str]
"""Credentials and endpoints, named as delta-rs and polars name them. Never logged, never in a message."""

_SCHEMES = ("s3", "gs", "az")
_FALSE = ("", "0", "false", "no")

# Options of the same dictionary that concern writing or retries, not how a file is found and read.
_IRRELEVANT = re.compile(
    "timeout|max_retries|retry|pool|user_agent|conditional_put|copy_if_not_exists|unsafe_rename|locking"
    "|dynamo|max_connections|http2|checksum|metadata_endpoint|concurrency"
)
_NAMES: dict[str, dict[str, str]] = {
    "s3": {
        "access_key_id": "access_key",
        "secret_access_key": "secret_key",
        "session_token": "session_token",
        "token": "session_token",
        "region": "region",
        "default_region": "region",
        "endpoint": "endpoint_override",
        "endpoint_url": "endpoint_override",
        "skip_signature": "anonymous",
        "virtual_hosted_style_request": "force_virtual_addressing",
    },
    "gs": {
        "skip_signature": "anonymous",
        "endpoint": "endpoint_override",
        "endpoint_url": "endpoint_override",
    },
    "az": {
        "account_name": "account_name",
        "account_key": "account_key",
        "access_key": "account_key",
        "sas_token": "sas_token",
        "sas_key": "sas_token",
        "client_id": "client_id",
        "client_secret": "client_secret",
        "tenant_id": "tenant_id",
        "endpoint": "blob_storage_authority",
        "endpoint_url": "blob_storage_authority",
    },
}
_PREFIX = {"s3": "aws_", "gs": "google_", "az": "azure_(?:storage_)?"}
_SWITCHES = ("anonymous", "force_virtual_addressing")


def scheme_of(uri: str) -> str:
    """Return ``s3``, ``gs``, ``az``, or ``""`` for a local path (with or without ``file://``).

    Raises:
        InputError: the URI has another scheme.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if match is None or match[1] == "file":
        return ""
    if match[1] not in _SCHEMES:
        raise InputError(
            f"The input {uri!r} has the scheme {match[1]}://, which cannot be read; use a local path, s3://, "
            "gs://, az:// or hf://."
        )
    return match[1]


def path_of(uri: str) -> str:
    """Return the path within the file system: a tidied local path, or ``bucket/key``."""
    scheme = scheme_of(uri)
    if scheme:
        return uri[len(scheme) + 3 :].strip("/")
    return posixpath.normpath(os.path.expanduser(uri.removeprefix("file://")))


def uri_of(path: str, scheme: str) -> str:
    """Return the URI of a path within the file system of a scheme."""
    return f"{scheme}://{path}" if scheme else path


def file_system(uri: str, options: StorageOptions | None = None) -> pafs.FileSystem:
    """Return the file system that holds a URI.

    Raises:
        ConfigError: a storage option is not understood, or one that is needed is missing. Names it, not its
            value.
        InputError: the scheme is unknown.
    """
    scheme = scheme_of(uri)
    if not scheme:
        return pafs.LocalFileSystem()
    given = dict(options or {})
    if scheme == "s3" and (endpoint := os.environ.get("AWS_ENDPOINT_URL")):
        # Left to the AWS library, the variable would name hosts after buckets, which other stores do not know.
        given = {"endpoint_url": endpoint} | given
    settings = _settings(scheme, given)
    if scheme == "s3":
        named = settings.get("region") or settings.get("endpoint_override")
        if not named and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
            settings["region"] = _region(path_of(uri).split("/")[0])
        return pafs.S3FileSystem(**settings)
    if scheme == "gs":
        return pafs.GcsFileSystem(**settings)
    settings.setdefault("account_name", os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", ""))
    if not settings["account_name"]:
        raise ConfigError(
            f"{uri} lies in Azure, but no storage account is named; set the storage option account_name or "
            "the environment variable AZURE_STORAGE_ACCOUNT_NAME."
        )
    if (
        not {"account_key", "sas_token", "client_id"} & settings.keys()
        and "AZURE_STORAGE_ACCOUNT_KEY" in os.environ
    ):
        settings["account_key"] = os.environ["AZURE_STORAGE_ACCOUNT_KEY"]
    return pafs.AzureFileSystem(**settings)


def file_digest(paths: Iterable[str]) -> str:
    """Return a blake2b digest of the bytes of local files, one after the other.

    Raises:
        InputError: a file cannot be read.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            with open(path, "rb") as stream:
                total.update(hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest())
        except OSError as error:
            raise InputError(
                f"The input file {path!r} cannot be read ({reason_of(error)}); check its rights."
            ) from error
    return total.hexdigest()


def read_utf8(path: str | os.PathLike[str]) -> str:
    """Return the text of a local file that goes with the corpus; a byte order mark is not part of it.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise InputError(
            f"The file {str(path)!r} is not UTF-8 (byte {error.start}); save it as UTF-8."
        ) from error
    except OSError as error:
        raise InputError(
            f"The file {str(path)!r} cannot be read ({reason_of(error)}); check its rights."
        ) from error


def reason_of(error: Exception) -> str:
    """Return what the system says went wrong, without paths or contents."""
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__


def _settings(scheme: str, options: StorageOptions) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for option, value in options.items():
        name = re.sub(f"^{_PREFIX[scheme]}", "", option.lower())
        if name in _NAMES[scheme]:
            setting = _NAMES[scheme][name]
            settings[setting] = str(value).lower() not in _FALSE if setting in _SWITCHES else value
        elif name == "allow_http":
            if str(value).lower() not in _FALSE and scheme != "az":
                settings.setdefault("scheme", "http")
        elif not _foreign(scheme, option.lower()) and not _IRRELEVANT.search(name):
            raise ConfigError(
                f"The storage option {option!r} is not understood for {scheme}:// inputs; remove it or use "
                f"one of {', '.join(sorted(_NAMES[scheme]))}."
            )
    endpoint = "blob_storage_authority" if scheme == "az" else "endpoint_override"
    if "://" in settings.get(endpoint, ""):
        parts = urlsplit(settings[endpoint])
        settings[endpoint] = parts.netloc + parts.path.rstrip("/")
        settings["blob_storage_scheme" if scheme == "az" else "scheme"] = parts.scheme
    return settings


def _foreign(scheme: str, option: str) -> bool:
    return any(re.match(prefix, option) for other, prefix in _PREFIX.items() if other != scheme)


@cache
def _region(bucket: str) -> str:
    try:
        return pafs.resolve_s3_region(bucket)
    except OSError as error:
        raise InputError(
            f"The region of the bucket s3://{bucket} cannot be found out ({type(error).__name__}); check the "
            "bucket name and set the storage option region."
        ) from error
