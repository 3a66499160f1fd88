"""The verdicts on a corpus, a few bytes a row, and the rows that follow from them: block by block, texts from files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from grasp_pipeline.config import CleaningConfig
from grasp_pipeline.corpus.block_cleaning import DIGEST_BYTES, NOISE, STATES, UNREAD, BlockPlace
from grasp_pipeline.corpus.normalize import document_id
from grasp_pipeline.errors import InputError
from grasp_pipeline.seeds import digest
from grasp_pipeline.tables import DOCUMENTS, REJECTED_DOCUMENTS

STAGES = ("read", "noise", "exact_duplicate", "contamination", "perplexity", "near_duplicate")
SUMMARY_SCHEMA = pl.Schema(
    {"stage": pl.String, "reason": pl.String, "documents": pl.Int64, "n_bytes": pl.Int64}
)


@dataclass(frozen=True)
class CleanCorpus:
    """What was decided of every row of a corpus; the rows themselves stay in the files of their blocks.

    Rows are numbered in order of arrival.

    Attributes:
        config: the rules.
        places: the blocks.
        starts: (blocks + 1,) first row of every block.
        digests: (n, 32) sha-256 of each row's text.
        states: (n,) verdict of the row's text by itself.
        first: (n,) first row with the same text; its own number for rows without one.
        copy: (n,) 1 for the first row of a text, 2 for the second...
        odd: (n,) whether the first row of the text is above the limit of perplexity.
        perplexity: (n,) of first rows that were compared.
        survivor: (n,) of a first row: the row whose text stands for its cluster.
        similarity: (n,) with that text.
        perplexity_limit: None where the rule is off.
    """

    config: CleaningConfig
    places: Sequence[BlockPlace]
    starts: NDArray[np.int64]
    digests: NDArray[np.uint8]
    states: NDArray[np.uint8]
    first: NDArray[np.int64]
    copy: NDArray[np.int32]
    odd: NDArray[np.bool_]
    perplexity: NDArray[np.float64]
    survivor: NDArray[np.int64]
    similarity: NDArray[np.float64]
    perplexity_limit: float | None

    def _stages(self, start: int, stop: int) -> NDArray[np.str_]:
        """Return the stage that rejects each of some rows; empty for documents."""
        first, copy = self.first[start:stop], self.copy[start:stop]
        stage = np.array(STATES)[self.states[start:stop]].astype("U16")
        unread, noise = self.states[start:stop] == UNREAD, self.states[start:stop] == NOISE
        stage[self.odd[first]] = "perplexity"
        if self.config.near_duplicates == "one":
            stage[(stage == "") & (self.survivor[first] != first)] = "near_duplicate"
        further = (copy > 1) & ~noise & ~unread
        if self.config.exact_duplicates == "drop":
            stage[further] = "exact_duplicate"
        elif self.config.near_duplicates == "one":
            stage[further & (stage == "")] = "near_duplicate"
        return stage

    def counts(self, number: int) -> tuple[int, int]:
        """Return how many rows of one block are documents and how many are rejected."""
        start, stop = int(self.starts[number]), int(self.starts[number + 1])
        kept = int(np.count_nonzero(self._stages(start, stop) == ""))
        return kept, stop - start - kept

    def made_from(self, numbers: Sequence[int]) -> str:
        """Return a digest of all that the rows of some blocks follow from: what the blocks hold, and the verdicts."""
        running = hashlib.blake2b(digest_size=16)
        told = [self.config.model_dump(mode="json"), self.perplexity_limit]
        for number in numbers:
            place, rows = self.places[number], slice(*self.starts[number : number + 2].tolist())
            told.append([Path(place.folder).name, place.uri, place.shard])
            first = self.first[rows]
            odd = self.odd[first]
            arrays = (
                self.copy[rows],
                odd,
                self.perplexity[first][odd],
                self.similarity[first],
                self.digests[self.survivor[first]],
                self.survivor[first] == first,
            )
            for array in arrays:
                running.update(np.ascontiguousarray(array).tobytes())
        return digest(told, running.hexdigest())

    def rows(self, number: int) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the rows of one block, those of `tables.DOCUMENTS` and of `tables.REJECTED_DOCUMENTS`."""
        place = self.places[number]
        start, stop = int(self.starts[number]), int(self.starts[number + 1])
        first, copy = self.first[start:stop], self.copy[start:stop]
        survivor = self.survivor[first]
        stage = self._stages(start, stop)
        uri = pl.lit(place.uri) + "#" + pl.col("row").cast(pl.String)
        frame = place.rows().with_columns(
            place=uri,
            origin=pl.when(pl.col("user_id").is_null())
            .then(uri)
            .otherwise(uri + " (" + pl.col("user_id") + ")"),
            shard=pl.lit(place.shard, dtype=pl.String),
            doc_id=self._names(np.arange(start, stop)),
            copy=pl.Series(copy),
            stage=pl.Series(stage.tolist(), dtype=pl.String),
            cluster=self._names(survivor),
            survivor=pl.Series((copy == 1) & (survivor == first)),
            perplexity=pl.Series(self.perplexity[first]),
            similarity=pl.Series(self.similarity[first]),
        )
        kept = frame.filter(pl.col("stage") == "")
        numbered = pl.when(pl.col("copy") > 1).then(pl.col("doc_id") + ":" + pl.col("copy").cast(pl.String))
        documents = kept.with_columns(doc_id=numbered.otherwise(pl.col("doc_id"))).select(
            list(DOCUMENTS.schema)
        )
        return DOCUMENTS.conform(documents), REJECTED_DOCUMENTS.conform(
            self._rejected(frame.filter(pl.col("stage") != ""))
        )

    def _rejected(self, frame: pl.DataFrame) -> pl.DataFrame:
        rows = []
        columns = (
            "place",
            "doc_id",
            "copy",
            "stage",
            "reason",
            "detail",
            "value",
            "perplexity",
            "cluster",
            "similarity",
        )
        for (
            place,
            doc_id,
            copy,
            stage,
            reason,
            detail,
            value,
            perplexity,
            cluster,
            similarity,
        ) in frame.select(columns).iter_rows():
            duplicate_of = None
            if stage == "exact_duplicate":
                reason, detail, value = stage, "the same normalised text came before", 1.0
                duplicate_of = doc_id
            elif stage == "near_duplicate":
                reason, value, duplicate_of = stage, similarity, cluster
                detail = f"Jaccard similarity {similarity:.3f} of word 5-grams with the document kept"
                if cluster == doc_id:
                    detail = "the same normalised text is kept"
            elif stage == "perplexity":
                reason, value = "query_perplexity", perplexity
                detail = (
                    f"perplexity per byte {value:.4g} under the query texts is above {self.perplexity_limit:.4g}, "
                    f"the {self.config.perplexity_quantile:g} quantile of the corpus"
                )
            if stage == "read":
                doc_id = document_id("origin:" + place)
            elif copy > 1:
                doc_id = f"{doc_id}:{hashlib.sha256(place.encode()).hexdigest()[:16]}"
            rows.append((doc_id, reason, detail, value, duplicate_of))
        schema = {
            name: REJECTED_DOCUMENTS.schema[name]
            for name in ("doc_id", "reason", "detail", "value", "duplicate_of")
        }
        told = pl.DataFrame(rows, schema=schema, orient="row")
        return frame.select("stage", "source", "shard", "origin", "n_bytes").hstack(told)

    def _names(self, rows: NDArray[np.int64]) -> pl.Series:
        """Return the doc_ids of texts, in hexadecimal."""
        whole = self.digests[rows].tobytes().hex()
        width = 2 * DIGEST_BYTES
        return pl.Series([whole[at : at + width] for at in range(0, len(whole), width)], dtype=pl.String)

    def summary(self) -> pl.DataFrame:
        """Return documents and bytes per stage and reason, SUMMARY_SCHEMA."""
        counts = [pl.len().cast(pl.Int64).alias("documents"), pl.col("n_bytes").sum()]
        named = {
            "exact_duplicate": "exact_duplicate",
            "near_duplicate": "near_duplicate",
            "perplexity": "query_perplexity",
            "": "kept",
        }
        frames = [pl.DataFrame(schema=SUMMARY_SCHEMA)]
        for number, place in enumerate(self.places):
            stage = pl.Series(
                "stage", self._stages(*self.starts[number : number + 2].tolist()).tolist(), dtype=pl.String
            )
            frame = place.rows(["n_bytes", "reason"]).with_columns(stage)
            frame = frame.with_columns(
                reason=pl.coalesce(pl.col("stage").replace_strict(named, default=None), "reason"),
                stage=pl.when(pl.col("stage") == "").then(pl.lit("kept")).otherwise(pl.col("stage")),
            )
            frames.append(frame.group_by("stage", "reason").agg(counts))
        order = pl.col("stage").replace_strict({stage: at for at, stage in enumerate(("kept", *STAGES))})
        whole = pl.concat(frames).group_by("stage", "reason").agg(pl.col("documents", "n_bytes").sum())
        if whole.filter(stage="kept").is_empty():
            whole = whole.vstack(pl.DataFrame([("kept", "kept", 0, 0)], schema=SUMMARY_SCHEMA, orient="row"))
        return whole.sort(order, -pl.col("documents"), "reason")

    def check_not_empty(self) -> None:
        """Refuse a corpus of which nothing is left.

        Raises:
            InputError: names the most frequent reasons.
        """
        if any(
            (self._stages(a, b) == "").any()
            for a, b in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        ):
            return
        reasons = [f"{reason} ({n})" for _, reason, n, _ in self.summary().iter_rows() if reason != "kept"]
        raise InputError(
            f"No document of {self.starts[-1]} rows is left after cleaning: "
            f"{', '.join(reasons[:5]) or 'there were none'}; relax the rules or give other inputs."
        )
