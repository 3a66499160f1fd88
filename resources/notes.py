"""What assets leave for their readers in a commit's `statistics`, typed: one note for each asset that leaves one.

Written by `to_json`, read back by `of`: a note that lacks something, or says what its class does not know, is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from grasp_pipeline.errors import StoreError
from resources.delta.commits import Commit


class Note(BaseModel):
    """A note; only fields that were given are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def to_json(self) -> dict[str, Any]:
        """Return what the commit stores."""
        return self.model_dump(mode="json", exclude_unset=True)

    @classmethod
    def of(cls, commit: Commit) -> Self:
        """Return the note of a commit.

        Raises:
            StoreError: it is not one of this kind.
        """
        try:
            return cls.model_validate(commit.statistics)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise StoreError(
                f"the commit {commit.version} of the table {commit.table} was not left as its readers expect "
                f"({'; '.join(faults)}); delete the table {commit.table} from the store and materialize the asset that "
                "writes it again"
            ) from error


class ManifestNote(Note):
    """Of `manifest`: digest of the files listed, and the configuration that they are read by."""

    files: str
    input: dict[str, Any]


class ShardNote(Note):
    """Of a shard of `documents` or `rejected_documents`; last: whether its commit closed the write of all shards;
    made_from: digest of the blocks and verdicts that its rows follow from.
    """

    rows: int
    last: bool
    made_from: str = ""


class TokensNote(Note):
    """Of a shard of `tokenized_shards`; bytes: of its documents."""

    tokens: int
    rows: int
    bytes: int


class TasksNote(Note):
    """Of `tasks`: digest of the sealed evaluation documents; see `resources.audit.documents_digest`."""

    evaluation_documents: str


class MadeNote(Note):
    """Of a partition that is current while it is made from the same things; made_from: their digest."""

    made_from: str


class SketchNote(MadeNote):
    """Of one kind's sketches of a shard."""

    rows: int
    tokens: int
    seconds: float
    bytes_per_chunk: int


class ConditionalNote(MadeNote):
    """Of a shard of `conditional_losses`: folder and sha-256 of the proxy fine-tuned on the query documents."""

    tuned_path: str
    tuned_sha256: str


class SubsetsNote(Note):
    """Of the calibration or evaluation split of `subsets`.

    ids: see `resources.audit.short_ids`; seeds: training seeds of every subset; calibration_pool: version of that table
    when they were drawn, None where there was none yet; evaluation_documents: as in `TasksNote`, "" where none were
    chunked.
    """

    ids: list[str]
    seeds: int
    calibration_pool: int | None
    evaluation_documents: str


class SurrogatesNote(Note):
    """Of `surrogates`.

    query_documents: rank correlation with all, half and a quarter of the query documents; empty: not to be had;
    predicted: rows as of `FidelityNote`, of the calibration subsets.
    """

    query_documents: dict[str, float] = {}
    predicted: list[list[str | float]] = []


class FidelityNote(Note):
    """Of the text rows of `fidelity`.

    predicted: task, stratum, utility as the chosen configuration predicted it and as it was measured (minus nats per
    token), of every sealed subset.
    """

    predicted: list[list[str | float]] = []


def predicted_rows(
    predicted: Any, measured: Any, tasks: Sequence[str], strata: Sequence[str]
) -> list[list[str | float]]:
    """Return the rows of `predicted` in the notes.

    Args:
        predicted, measured: (m, T) utilities.
        tasks: T names.
        strata: m names.
    """
    return [
        [task, stratum, round(float(predicted[i][t]), 6), round(float(measured[i][t]), 6)]
        for i, stratum in enumerate(strata)
        for t, task in enumerate(tasks)
    ]


class UtilitiesNote(Note):
    """Of a batch of retrainings in `subset_utilities`; seconds: what they took in all."""

    models: int
    seconds: float = 0.0


class SealNote(Note):
    """Of `selected_config`: digests of the evaluation subsets and documents that it was chosen beside."""

    evaluation_subsets: str
    evaluation_documents: str


class FinalistsNote(Note):
    """Of `finalists`: the settings of `FinalistsConfig` that are for the steps after it."""

    confidence: float
    allow_uncertified: bool
    refit: bool
    fresh_runs: int
    trust_share: float
    optimiser_gap: float
    max_passes: int
    learned: str = ""
    """Folder of the store with `Learned`, "" where neither part was asked for."""
    training_tokens: int = 0
    """Of a finalist's retraining; 0: as many as of a calibration subset's."""
    cluster_share: float = 1.0
    """Of the clusters that a finalist's retraining sees; below 1 it is of a scale model."""


class CertificatesNote(Note):
    """Of `certificates`: the target certified on, and whether a corpus without a certificate may be published."""

    target: str
    allow_uncertified: bool


class FilteredNote(MadeNote):
    """Of a file's rows in `filtered_shards` and `filtered_rejections`: counts and its threshold.

    rests_on: files that hold what this one has copies of -> version of `filtered_shards` that wrote them.
    """

    documents: int
    rejected: int
    chunks: int
    kept_chunks: int
    tokens: int
    kept_tokens: int
    tau: float
    rests_on: dict[str, int]


class VisionNote(Note):
    """Of a data set's rows of `fidelity`: digests of images and configuration, and the choice in words."""

    pool: str
    config: str
    reason: str
