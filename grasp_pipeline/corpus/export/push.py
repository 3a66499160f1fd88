"""Putting an export on the Hugging Face Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from grasp_pipeline.corpus.export.write import MANIFEST
from grasp_pipeline.errors import ConfigError, StoreError, boundary, reason_in


def checked_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a format's folder after comparing every file with it.

    Raises:
        ConfigError: there is no such export.
        StoreError: a file is missing, or is not the one that was written.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ConfigError(
            f"there is no export {folder}; add huggingface to export.formats and run the job that made the corpus"
        )
    manifest = json.loads(path.read_text())
    for name, facts in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise StoreError(f"the export lacks {file}, which its manifest names; materialize export again")
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != facts["sha256"]:
                raise StoreError(f"{file} was changed after the export; materialize export again")
    return manifest


def push(
    folder: Path,
    repository: str,
    *,
    private: bool = True,
    revision: str = "main",
    endpoint: str | None = None,
) -> str:
    """Upload the folder `huggingface` of an export, as one commit; returns the commit's address.

    Files of an earlier export that this one has not are deleted in the same commit. The token is the one of
    `HF_TOKEN` or of `hf auth login`.

    Args:
        folder: `STORE/export/huggingface`.
        repository: OWNER/NAME of the data set; made where there is none.
        private: of a repository that is made.
        revision: branch.
        endpoint: address of the Hub; None: `HF_ENDPOINT`, or the public one.

    Raises:
        ConfigError: there is no such export, or the Hub refuses.
        StoreError: the export was changed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    manifest = checked_manifest(folder)
    api = HfApi(endpoint=endpoint)
    remedy = "check the name, the network and the token (HF_TOKEN, or hf auth login)"
    with boundary(
        ConfigError,
        f"the export cannot be pushed to {repository}",
        remedy,
        (HfHubHTTPError, HFValidationError),
    ):
        try:
            api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository,
                repo_type="dataset",
                folder_path=folder,
                revision=revision,
                commit_message=f"{manifest['rows']:,} spans, {manifest['tokens']:,} tokens",
                delete_patterns=["data/*.parquet"],
            )
        except (HfHubHTTPError, HFValidationError) as error:
            raise ConfigError(
                f"the Hub refuses the export as {repository} ({reason_in(error)}); {remedy}"
            ) from error
    return done.commit_url
