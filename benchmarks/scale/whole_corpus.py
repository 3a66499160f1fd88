"""Cleaning a whole corpus in memory and in one thread, as it was done before it went block by block: the slow twin.

The tests compare with it; the benchmark measures against it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.clean_corpus import STAGES, SUMMARY_SCHEMA
from grasp_pipeline.corpus.cleaning import Cleaned
from grasp_pipeline.corpus.contamination import HeldOutGrams, held_out_texts
from grasp_pipeline.corpus.duplicates import (
    PERMUTATIONS,
    Clusters,
    Pairs,
    band_keys,
    bands_for,
    minhash_digests,
)
from grasp_pipeline.corpus.noise import first_rejection, noise_rules
from grasp_pipeline.corpus.normalize import document_id, repair_surrogates
from grasp_pipeline.corpus.perplexity import background_sample, fit_perplexity, perplexity_limit
from grasp_pipeline.corpus.text_batch import TextBatch, batches
from grasp_pipeline.corpus.words import Hashes
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.tables import DOCUMENTS, REJECTED_DOCUMENTS

_NEWLINE = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
# C0 and C1 controls but tab and newline; zero-width space, word joiner and byte-order mark. The zero-width
# joiner and non-joiner stay: Persian, Indic scripts and emoji are spelled with them.
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")
_BLANK_LINES = re.compile("\n{5,}")


def slow_normalize(text: str) -> str:
    """Return what `normalize.normalize_text` returns."""
    text = _NEWLINE.sub("\n", repair_surrogates(text))
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    text = "\n".join(line.rstrip() for line in text.split("\n"))
    return _BLANK_LINES.sub("\n\n\n\n", text).strip()


def slow_clusters(texts: Sequence[str], threshold: float) -> Clusters:
    """Return what `duplicates.near_duplicate_clusters` returns: every key and every shingle set is held."""
    digests = np.concatenate(
        [np.empty((0, PERMUTATIONS), dtype=np.uint32)]
        + [minhash_digests(TextBatch(texts[start:stop])) for start, stop in batches(texts)]
    )
    pairs = Pairs(texts.__getitem__, digests.__getitem__, threshold)
    survivor = np.arange(len(texts))
    similarity = np.ones(len(texts))
    keys = band_keys(digests, *bands_for(threshold)).T
    shared = _shared(keys)
    buckets: dict[int, list[int]] = {}  # band key -> survivors that have it
    for index in np.flatnonzero(shared.any(axis=1)).tolist():
        places = keys[index, shared[index]].tolist()
        proposed = {other for place in places for other in buckets.get(place, ())}
        for other in pairs.plausible(index, sorted(proposed)):
            value = pairs.similarity(other, index)
            if value >= threshold:
                survivor[index], similarity[index] = other, value
                break
        else:
            for place in places:
                buckets.setdefault(place, []).append(index)
    return Clusters(survivor, similarity)


def _shared(keys: Hashes) -> NDArray[np.bool_]:
    """Return which keys another document has too, (n, bands): the others can propose no pair."""
    shared = np.zeros(keys.shape, dtype=bool)
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band])
        equal = keys[order[1:], band] == keys[order[:-1], band]
        shared[order[1:], band] |= equal
        shared[order[:-1], band] |= equal
    return shared


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


def clean_documents(raw: pl.DataFrame, config: CleaningConfig, tasks: pl.DataFrame) -> Cleaned:
    """Return what `cleaning.clean_documents` returns."""
    rows = raw.sort("arrival", "row")
    distinct, text_of_row = _distinct_texts(rows)
    _noise(distinct, config)
    _contamination(distinct, config, tasks)
    limit = _perplexity(distinct, config, tasks)
    _near_duplicates(distinct, config)
    documents, rejected = _frames(rows, text_of_row, distinct, config)
    summary = _summary(documents, rejected)
    return Cleaned(documents, rejected, summary, limit)


def _distinct_texts(rows: pl.DataFrame) -> tuple[_Texts, list[int | None]]:
    """Normalise; returns the distinct texts and each row's text, None for rows without one."""
    distinct, known, of_row = _Texts(), {}, []
    for text, founding in rows.select("text", "founding").iter_rows():
        normal = slow_normalize(text) if text is not None else ""
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
    return distinct, of_row


def _noise(distinct: _Texts, config: CleaningConfig) -> None:
    rules = noise_rules(config)
    for index in distinct.clean():
        rejection = first_rejection(distinct.texts[index], rules)
        if rejection:
            distinct.verdicts[index] = _Verdict("noise", rejection.reason, rejection.detail, rejection.value)


def _contamination(distinct: _Texts, config: CleaningConfig, tasks: pl.DataFrame) -> None:
    if config.contamination_share >= 1:
        return

    def corpus():
        for index in distinct.clean():
            yield str(index), distinct.texts[index]

    grams = HeldOutGrams(held_out_texts(tasks))
    for index, overlap in grams.contaminated(corpus(), config.contamination_share).items():
        distinct.verdicts[int(index)] = _Verdict(
            "contamination", "contamination", overlap.detail, overlap.share
        )


def _perplexity(distinct: _Texts, config: CleaningConfig, tasks: pl.DataFrame) -> float | None:
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
    values = fit_perplexity(queries, sample).perplexity([distinct.texts[index] for index in clean])
    limit = perplexity_limit(values[founding], config.perplexity_quantile)
    for index, value in zip(clean, values.tolist(), strict=True):
        if value > limit:
            detail = (
                f"perplexity per byte {value:.4g} under the query texts is above {limit:.4g}, "
                f"the {config.perplexity_quantile:g} quantile of the corpus"
            )
            distinct.verdicts[index] = _Verdict("perplexity", "query_perplexity", detail, value)
    return limit


def _near_duplicates(distinct: _Texts, config: CleaningConfig) -> None:
    clean = distinct.clean()
    clusters = slow_clusters([distinct.texts[index] for index in clean], config.near_duplicate_threshold)
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
