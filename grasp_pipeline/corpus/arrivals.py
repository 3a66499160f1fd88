"""Documents of files that came after the fit: every row is a document to score or a rejected row with its reason.

What cleaning decides for one document alone is decided here in the same way: unreadable rows, noise rules, exact copies
and text of held-out documents. Near duplicates and query perplexity compare a document with the whole corpus; they are
left to the next curation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import polars as pl

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.contamination import HeldOutGrams, Overlap
from grasp_pipeline.corpus.noise import first_rejection, noise_rules
from grasp_pipeline.corpus.normalize import document_id, normalize_text
from grasp_pipeline.tables import DOCUMENTS, REJECTED_DOCUMENTS

CORPUS = ""
"""The shard of the corpus's own documents; no file has this name, so they are never forgotten."""


class Arrivals:
    """Sorts rows into documents and rejections, block by block; remembers the documents it has let through.

    config: cleaning rules; held_out: name -> text of the tasks' documents; known: id -> shard of the documents that
    are there already (`CORPUS` for those of the corpus), which is extended by every document let through.

    Raises:
        ConfigError: a language code is unknown.
    """

    def __init__(self, config: CleaningConfig, held_out: Mapping[str, str], known: dict[str, str]) -> None:
        self._config, self._held_out, self._known = config, HeldOutGrams(held_out), known
        self._rules = noise_rules(config)

    def forget(self, shards: Collection[str]) -> None:
        """Forget the documents of shards that are about to be read again."""
        for doc_id in [doc_id for doc_id, place in self._known.items() if place in shards]:
            del self._known[doc_id]

    def holders(self, doc_ids: Iterable[str]) -> set[str]:
        """Return the files' shards that hold any of some documents."""
        return {self._known[doc_id] for doc_id in doc_ids if doc_id in self._known} - {CORPUS}

    def knows(self, doc_ids: Iterable[str]) -> bool:
        """Return whether the corpus or a file holds every one of some documents."""
        return all(doc_id in self._known for doc_id in doc_ids)

    def sort(self, block: pl.DataFrame, uri: str, shard: str) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return rows of `tables.DOCUMENTS` and of `tables.REJECTED_DOCUMENTS`, in the order given.

        block: columns of `readers.RAW_SCHEMA`; uri: its file; shard: name given to the file. Of copies the first
        counts; a copy's doc_id names its row too, so that it is unique.
        """
        documents, rejected = [], []
        for row in self._checked(block, shard):
            place = f"{uri}#{row['row']}"
            common = {
                "source": row["source"],
                "shard": shard,
                "origin": place if row["user_id"] is None else f"{place} ({row['user_id']})",
                "n_bytes": row["n_bytes"],
            }
            if row["reason"] is None:
                own = {
                    "doc_id": row["doc_id"],
                    "text": row["text"],
                    "cluster": row["doc_id"],
                    "survivor": True,
                }
                documents.append(common | own)
                continue
            why = {name: row[name] for name in ("stage", "reason", "detail", "value", "duplicate_of")}
            head = row["doc_id"] or document_id("origin:" + place)
            tail = hashlib.sha256(place.encode()).hexdigest()[:16]
            rejected.append(common | why | {"doc_id": f"{head}:{tail}"})
        return (
            DOCUMENTS.conform(pl.DataFrame(documents, schema=DOCUMENTS.schema)),
            REJECTED_DOCUMENTS.conform(pl.DataFrame(rejected, schema=REJECTED_DOCUMENTS.schema)),
        )

    def _checked(self, block: pl.DataFrame, shard: str) -> Iterator[dict]:
        """Yield every row with its text's normal form and id, and the first reason against it or None."""
        rows = [self._read(row) for row in block.iter_rows(named=True)]
        overlaps = self._contaminated([row for row in rows if row["reason"] is None])
        for row in rows:
            if row["reason"] is None and row["doc_id"] in self._known:
                detail = "the corpus, an earlier file or an earlier row holds the same normalised text"
                row |= _against("exact_duplicate", "exact_duplicate", detail, 1.0) | {
                    "duplicate_of": row["doc_id"]
                }
            elif row["reason"] is None and (found := overlaps.get(row["doc_id"])) is not None:
                row |= _against("contamination", "contamination", found.detail, found.share)
            elif row["reason"] is None:
                self._known[row["doc_id"]] = shard
            yield row

    def _read(self, row: dict) -> dict:
        """Return a row with its normal form, or what is wrong with the row or the text by itself."""
        text = normalize_text(row["text"]) if row["text"] is not None else ""
        row |= {"text": text, "doc_id": document_id(text) if text else None, "reason": None}
        if not text:
            reason = row["fault"] or "empty_text"
            detail = row["fault_detail"] or "nothing is left of the text after normalisation"
            return row | _against("read", reason, detail, row["n_bytes"] if reason == "oversized" else None)
        row["n_bytes"] = len(text.encode())
        if (noise := first_rejection(text, self._rules)) is not None:
            return row | _against("noise", noise.reason, noise.detail, noise.value)
        return row

    def _contaminated(self, rows: Sequence[dict]) -> dict[str, Overlap]:
        """Return the worst overlap above the limit for each document id."""
        limit = self._config.contamination_share
        if limit >= 1:
            return {}
        return self._held_out.contaminated(((row["doc_id"], row["text"]) for row in rows), limit)


def _against(stage: str, reason: str, detail: str, value: float | None) -> dict:
    return {"stage": stage, "reason": reason, "detail": detail, "value": value, "duplicate_of": None}
