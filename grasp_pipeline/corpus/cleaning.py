"""From raw rows to documents: every row ends up among the documents or among the rejected, with its reason.

Stages, in this order: read (rows that could not be read, empty texts), noise, exact_duplicate, contamination,
perplexity, near_duplicate. Everything but the copies of a text depends on the text alone, so it is decided
once per distinct text, in order of arrival; the order of the rows given and the names of the shards change
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.contamination import HeldOutGrams, held_out_texts
from grasp_pipeline.corpus.duplicates import near_duplicate_clusters
from grasp_pipeline.corpus.noise import first_rejection, noise_rules
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.corpus.perplexity import background_sample, fit_perplexity, perplexity_limit
from grasp_pipeline.errors import ConfigError, InputError
from grasp_pipeline.progress import Listener, Progress, silent
from grasp_pipeline.tables import DOCUMENTS, REJECTED_DOCUMENTS

STAGES = ("read", "noise", "exact_duplicate", "contamination", "perplexity", "near_duplicate")
SUMMARY_SCHEMA = pl.Schema(
    {"stage": pl.String, "reason": pl.String, "documents": pl.Int64, "n_bytes": pl.Int64}
)


@dataclass(frozen=True)
class Cleaned:
    """The clean corpus.

    Attributes:
        documents: rows of `tables.DOCUMENTS`, in order of arrival.
        rejected: rows of `tables.REJECTED_DOCUMENTS`, in order of arrival.
        summary: documents and bytes per stage and reason, in order of the stages, after a first row "kept".
        perplexity_limit: query perplexity per byte above which documents were rejected; None where the rule
            is off.
    """

    documents: pl.DataFrame
    rejected: pl.DataFrame
    summary: pl.DataFrame
    perplexity_limit: float | None


@dataclass(frozen=True)
class _Verdict:
    """Why a text is rejected. duplicate_of: index of the surviving text."""

    stage: str
    reason: str
    detail: str
    value: float | None = None
    duplicate_of: int | None = None


@dataclass
class _Texts:
    """The distinct texts in order of arrival, what is wrong with them, and their near-duplicate cluster."""

    texts: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    verdicts: dict[int, _Verdict] = field(default_factory=dict)
    survivors: dict[int, int] = field(default_factory=dict)
    founding: list[bool] = field(default_factory=list)

    def clean(self) -> list[int]:
        """Return the texts without a verdict."""
        return [index for index in range(len(self.texts)) if index not in self.verdicts]


def clean_documents(
    raw: pl.DataFrame, config: CleaningConfig, tasks: pl.DataFrame, listener: Listener = silent
) -> Cleaned:
    """Normalise, filter and de-duplicate a corpus.

    Args:
        raw: columns of `manifest.PLACED_SCHEMA`, in any order.
        config: which rules apply.
        tasks: rows of `tables.TASK_DOCUMENTS`; their query texts define the perplexity rule, all of them are
            protected from contamination.
        listener: told the progress.

    Raises:
        InputError: no document is left; names the most frequent reasons.
        ConfigError: an unknown language, or the perplexity rule without query texts.
    """
    rows = raw.sort("arrival", "row")
    distinct, text_of_row = _distinct_texts(rows, listener)
    _noise(distinct, config, listener)
    _contamination(distinct, config, tasks, listener)
    limit = _perplexity(distinct, config, tasks, listener)
    _near_duplicates(distinct, config, listener)
    documents, rejected = _frames(rows, text_of_row, distinct, config)
    summary = _summary(documents, rejected)
    if documents.is_empty():
        reasons = [f"{reason} ({count})" for _, reason, count, _ in summary.iter_rows() if reason != "kept"]
        raise InputError(
            f"No document of {rows.height} rows is left after cleaning: "
            f"{', '.join(reasons[:5]) or 'there were none'}; relax the rules or give other inputs."
        )
    return Cleaned(documents, rejected, summary, limit)


def _distinct_texts(rows: pl.DataFrame, listener: Listener) -> tuple[_Texts, list[int | None]]:
    """Normalise; returns the distinct texts and each row's text, None for rows without one."""
    distinct, known, of_row = _Texts(), {}, []
    progress = Progress("normalising", rows.height, "rows", listener)
    for text, founding in rows.select("text", "founding").iter_rows():
        normal = normalize_text(text) if text is not None else ""
        if normal:
            digest = document_id(normal)
            if digest not in known:
                known[digest] = len(distinct.texts)
                distinct.texts.append(normal)
                distinct.digests.append(digest)
                distinct.founding.append(founding)
            of_row.append(known[digest])
        else:
            of_row.append(None)
        progress.advance(1)
    return distinct, of_row


def _noise(distinct: _Texts, config: CleaningConfig, listener: Listener) -> None:
    rules = noise_rules(config)
    progress = Progress("noise rules", len(distinct.texts), "documents", listener)
    for index in distinct.clean():
        rejection = first_rejection(distinct.texts[index], rules)
        if rejection:
            distinct.verdicts[index] = _Verdict("noise", rejection.reason, rejection.detail, rejection.value)
        progress.advance(1)


def _contamination(distinct: _Texts, config: CleaningConfig, tasks: pl.DataFrame, listener: Listener) -> None:
    if config.contamination_share >= 1:
        return
    progress = Progress("contamination", len(distinct.texts), "documents", listener)

    def corpus():
        for index in distinct.clean():
            yield str(index), distinct.texts[index]
            progress.advance(1)

    grams = HeldOutGrams(held_out_texts(tasks))
    for index, overlap in grams.contaminated(corpus(), config.contamination_share).items():
        distinct.verdicts[int(index)] = _Verdict(
            "contamination", "contamination", overlap.detail, overlap.share
        )


def _perplexity(
    distinct: _Texts, config: CleaningConfig, tasks: pl.DataFrame, listener: Listener
) -> float | None:
    clean = distinct.clean()
    if config.perplexity_quantile >= 1 or not clean:
        return None
    queries = tasks.filter(pl.col("split") == "query")["text"].to_list()
    if not queries:
        raise ConfigError(
            f"perplexity_quantile is {config.perplexity_quantile:g}, but there are no query texts to measure "
            "perplexity under; give tasks or set it to 1."
        )
    # Model and limit come from the founding documents, so that an arrival changes no earlier verdict.
    founding = np.array([distinct.founding[index] for index in clean])
    if not founding.any():
        founding[:] = True
    founders = [index for index, first in zip(clean, founding, strict=True) if first]
    sample = background_sample(
        [distinct.texts[index] for index in founders], [distinct.digests[index] for index in founders]
    )
    values = fit_perplexity(queries, sample).perplexity([distinct.texts[index] for index in clean], listener)
    limit = perplexity_limit(values[founding], config.perplexity_quantile)
    for index, value in zip(clean, values.tolist(), strict=True):
        if value > limit:
            detail = (
                f"perplexity per byte {value:.4g} under the query texts is above {limit:.4g}, "
                f"the {config.perplexity_quantile:g} quantile of the corpus"
            )
            distinct.verdicts[index] = _Verdict("perplexity", "query_perplexity", detail, value)
    return limit


def _near_duplicates(distinct: _Texts, config: CleaningConfig, listener: Listener) -> None:
    clean = distinct.clean()
    clusters = near_duplicate_clusters(
        [distinct.texts[index] for index in clean], config.near_duplicate_threshold, listener
    )
    pairs = zip(clean, clusters.survivor.tolist(), clusters.similarity.tolist(), strict=True)
    for index, place, similarity in pairs:
        survivor = clean[place]
        distinct.survivors[index] = survivor
        if survivor != index and config.near_duplicates == "one":
            detail = f"Jaccard similarity {similarity:.3f} of word 5-grams with the document kept"
            distinct.verdicts[index] = _Verdict(
                "near_duplicate", "near_duplicate", detail, similarity, survivor
            )


def _frames(
    rows: pl.DataFrame, text_of_row: Sequence[int | None], distinct: _Texts, config: CleaningConfig
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Turn verdicts on texts into rows of the two tables."""
    documents: list[dict] = []
    rejected: list[dict] = []
    copies: dict[int, int] = {}
    columns = ("uri", "row", "user_id", "source", "shard", "n_bytes", "fault", "fault_detail")
    for index, (uri, row, user_id, source, shard, n_bytes, fault, fault_detail) in zip(
        text_of_row, rows.select(columns).iter_rows(), strict=True
    ):
        place = f"{uri}#{row}"
        origin = place if user_id is None else f"{place} ({user_id})"
        common = {"source": source, "shard": shard, "origin": origin, "n_bytes": n_bytes}
        if index is None:
            reason = fault or "empty_text"
            detail = fault_detail or "nothing is left of the text after normalisation"
            verdict = _Verdict("read", reason, detail, float(n_bytes) if reason == "oversized" else None)
            rejected.append(_rejected(document_id("origin:" + place), verdict, None, common))
            continue
        copy = copies[index] = copies.get(index, 0) + 1
        digest = distinct.digests[index]
        common["n_bytes"] = len(distinct.texts[index].encode("utf-8"))
        verdict = _row_verdict(index, copy, distinct, config)
        if verdict is not None:
            doc_id = digest if copy == 1 else f"{digest}:{_short_digest(place)}"
            survivor = None if verdict.duplicate_of is None else distinct.digests[verdict.duplicate_of]
            rejected.append(_rejected(doc_id, verdict, survivor, common))
            continue
        survivor_digest = distinct.digests[distinct.survivors[index]]
        documents.append(
            {
                **common,
                "doc_id": digest if copy == 1 else f"{digest}:{copy}",
                "text": distinct.texts[index],
                "cluster": survivor_digest,
                "survivor": copy == 1 and survivor_digest == digest,
            }
        )
    return DOCUMENTS.conform(pl.DataFrame(documents, schema=DOCUMENTS.schema)), REJECTED_DOCUMENTS.conform(
        pl.DataFrame(rejected, schema=REJECTED_DOCUMENTS.schema)
    )


def _row_verdict(index: int, copy: int, distinct: _Texts, config: CleaningConfig) -> _Verdict | None:
    """Return why a row is rejected: its text's verdict, or that it is a further copy of it."""
    verdict = distinct.verdicts.get(index)
    if copy == 1 or (verdict is not None and verdict.stage == "noise"):
        return verdict
    if config.exact_duplicates == "drop":
        return _Verdict(
            "exact_duplicate", "exact_duplicate", "the same normalised text came before", 1.0, index
        )
    if verdict is None and config.near_duplicates == "one":
        return _Verdict("near_duplicate", "near_duplicate", "the same normalised text is kept", 1.0, index)
    return verdict


def _rejected(doc_id: str, verdict: _Verdict, duplicate_of: str | None, common: dict) -> dict:
    return {
        **common,
        "doc_id": doc_id,
        "stage": verdict.stage,
        "reason": verdict.reason,
        "detail": verdict.detail,
        "value": verdict.value,
        "duplicate_of": duplicate_of,
    }


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def _summary(documents: pl.DataFrame, rejected: pl.DataFrame) -> pl.DataFrame:
    counts = [pl.len().cast(pl.Int64).alias("documents"), pl.col("n_bytes").sum()]
    kept = documents.select(pl.lit("kept").alias("stage"), pl.lit("kept").alias("reason"), *counts)
    order = pl.col("stage").replace_strict({stage: place for place, stage in enumerate(STAGES)})
    reasons = rejected.group_by("stage", "reason").agg(counts).sort(order, -pl.col("documents"), "reason")
    return pl.concat([kept.cast(SUMMARY_SCHEMA), reasons.cast(SUMMARY_SCHEMA)])
