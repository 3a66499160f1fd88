"""What the export reads: the kept corpus, what its card tells, and a digest of all of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import polars as pl
import yaml

from assets.provenance import measured_elsewhere
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.config import ExportConfig
from grasp_pipeline.corpus.export.card import Card, reason_counts, source_counts
from grasp_pipeline.corpus.export.files import Ledger
from grasp_pipeline.corpus.export.licences import Licences, find_licences
from grasp_pipeline.corpus.export.spans import KeptCorpus
from grasp_pipeline.corpus.export.tokens import Vocabulary
from grasp_pipeline.seeds import digest

CURATION = "curation.yaml"
"""The export's file that says which curation it is, and all that it follows from."""

PARSED = ("inputs", "packages", "versions", "certificate")


def curation_yaml(row: dict[str, Any]) -> str:
    """Return a row of `curations` as YAML, its JSON and YAML columns as what they hold."""
    told = {name: json.loads(value) if name in PARSED else value for name, value in row.items()}
    told["configuration"] = yaml.safe_load(row["configuration"])
    return yaml.safe_dump(told, allow_unicode=True, sort_keys=False)


def published_row(step: Step) -> dict[str, Any] | None:
    """Return the row of `curations` of what ships; None where it was published before there were any.

    The row is part of the stamp, the table's version is not: a later refusal adds a row and changes no export.
    """
    number, commit = step.tables.curation(tables.PRUNED_CORPUS), step.tables.latest(tables.CURATIONS)
    if number is None or commit is None:
        return None
    rows = step.tables.read(tables.CURATIONS, commit.version).filter(pl.col("curation") == number).collect()
    return rows.row(0, named=True)


@dataclass(frozen=True)
class ExportTables:
    """The tables behind an export, each at its pinned version; the large ones are lazy."""

    corpus: KeptCorpus
    dropped: pl.LazyFrame
    rejected: pl.LazyFrame
    vocabulary: Vocabulary
    certificates: list[dict[str, Any]]
    choice_of: str | None
    selected: dict[str, Any]
    protocol: dict[str, Any]
    licences: Licences
    curation: dict[str, Any] | None

    @classmethod
    def pinned(cls, step: Step) -> ExportTables:
        """Pin and read all of them, each as `pruned_corpus` saw it."""
        pruned = step.read(tables.PRUNED_CORPUS)
        shipped = step.tables.standing(tables.PRUNED_CORPUS)
        assert shipped is not None, "read above"

        read = partial(step.read_beside, shipped)

        tokenizer = read(tables.TOKENIZER).collect().row(0, named=True)
        protocol = (
            read(tables.CANDIDATES)
            .head(1)
            .select("target", "task_weights", "budget_tokens", "budget_documents", "budget_fraction")
        )
        uris = read(tables.MANIFEST).select(pl.col("uri").unique()).collect()["uri"]
        return cls(
            corpus=KeptCorpus(
                pruned=pruned,
                chunks=read(tables.TOKENIZED_SHARDS),
                documents=read(tables.DOCUMENTS),
            ),
            dropped=step.read(tables.DROP_REASONS),
            rejected=read(tables.REJECTED_DOCUMENTS),
            vocabulary=Vocabulary(tokenizer["tokenizer_id"], tokenizer["vocab_size"], tokenizer["bos"]),
            certificates=read(tables.CERTIFICATES).collect().to_dicts(),
            choice_of=measured_elsewhere(step.tables, tables.SELECTED_CONFIG, shipped),
            selected=read(tables.SELECTED_CONFIG).collect().row(0, named=True),
            protocol=protocol.collect().row(0, named=True),
            licences=find_licences(uris),
            curation=published_row(step),
        )

    def stamp(self, step: Step) -> str:
        """Return a digest of all that the export is made from: equal digests give equal files."""
        return digest(
            step.provenance().input_digest(),
            self.licences.by_source,
            self.licences.notices,
            self.choice_of,
            self.curation,
        )

    def card(self, step: Step, config: ExportConfig, code: str, ledger: Ledger) -> Card:
        """Return what the card says; counts what was kept and dropped."""
        return Card(
            formats=config.formats,
            sources=source_counts(
                self.corpus.pruned, self.dropped, self.corpus.documents, self.rejected, ledger.documents
            ),
            reasons=reason_counts(self.dropped),
            licences=self.licences.by_source,
            certificates=self.certificates,
            target=self.protocol["target"],
            settings={
                **({} if self.curation is None else {"curation": self.curation["curation"]}),
                **self.protocol,
                **{name: self.selected[name] for name in ("config_id", "sketch_kind", "rho", "lam", "form")},
                "reason": self.selected["reason"],
                "arm": self.certificates[0]["arm"],
                "repeats": self.corpus.pruned.select(pl.col("repeats").max()).collect().item(),
                "shard_tokens": config.shard_tokens,
                "min_span_tokens": config.min_span_tokens,
            },
            choice_of=self.choice_of or "",
            versions=step.upstream(),
            code=f"grasp-pipeline {version('grasp-pipeline')}, export {code}",
            vocabulary=self.vocabulary,
            min_span_tokens=config.min_span_tokens,
            left_out=ledger.left_out,
        )
