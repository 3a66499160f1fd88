"""What a user would ask of the tables, as asset checks."""

from typing import TYPE_CHECKING

import dagster as dg

from assets.sentences import telling
from grasp_pipeline import tables
from grasp_pipeline.names import RANDOM
from resources.notes import CertificatesNote, FilteredNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import polars as pl

    from grasp_pipeline.tables import Table


def newest(store: DeltaStore, table: "Table") -> "pl.LazyFrame":
    """Read a table as it is now."""
    return store.tables.rows(store.tables.pin(table))


@dg.asset_check(
    asset="documents",
    description="Every byte of every input file (of Parquet, every row) is some row's of the manifest, and every row "
    "of a shard is a document or a rejected document; warns of files that are mostly without usable text.",
)
@telling
def no_document_lost(store: DeltaStore) -> dg.AssetCheckResult:
    """Compare the files' sizes with what their rows take, and rows read with rows kept and rejected."""
    import polars as pl

    from grasp_pipeline.corpus.manifest import first_few, mostly_unreadable, passed_over

    def rows_by_shard(table: tables.Table, rows: pl.Expr) -> dict[str, int]:
        frame = newest(store, table).group_by("shard").agg(rows).collect()
        return dict(frame.iter_rows())

    manifest = newest(store, tables.MANIFEST).collect()
    read = rows_by_shard(tables.MANIFEST, pl.col("n_rows").sum())
    kept = rows_by_shard(tables.DOCUMENTS, pl.len())
    rejected = rows_by_shard(tables.REJECTED_DOCUMENTS, pl.len())
    faults = passed_over(manifest) + [
        f"the shard {shard!r} has {read.get(shard, 0)} rows, and {kept.get(shard, 0)} documents and "
        f"{rejected.get(shard, 0)} rejected rows"
        for shard in sorted({*read, *kept, *rejected})
        if read.get(shard, 0) != kept.get(shard, 0) + rejected.get(shard, 0)
    ]
    unreadable = mostly_unreadable(manifest)
    said = [*faults, *unreadable]
    extents = dict(manifest.group_by("unit").agg(pl.col("extent").sum()).iter_rows())
    return dg.AssetCheckResult(
        passed=not said,
        severity=dg.AssetCheckSeverity.ERROR if faults else dg.AssetCheckSeverity.WARN,
        description="; ".join(first_few(said)) or None,
        metadata={
            "rows_read": sum(read.values()),
            "documents": sum(kept.values()),
            "rejected": sum(rejected.values()),
            "bytes_read": extents.get("byte", 0),
            "table_rows_read": extents.get("row", 0),
            "not_accounted_for": dg.MetadataValue.json(faults),
            "mostly_unreadable": dg.MetadataValue.json(unreadable),
        },
    )


@dg.asset_check(asset="documents", description="doc_id is unique and is the digest of the text.")
@telling
def document_ids_hold(store: DeltaStore) -> dg.AssetCheckResult:
    """Check the key of all documents, by 64-bit hashes, and the digest of a sample."""
    import polars as pl

    from grasp_pipeline.corpus.normalize import document_id

    documents, key = newest(store, tables.DOCUMENTS), pl.col("doc_id").hash()
    keys = documents.select(key.alias("key")).collect(engine="streaming")["key"].sort()
    lowest = documents.filter(key <= keys.head(500).max()).select("doc_id", "text")
    sample = lowest.collect(engine="streaming")
    wrong = sum(document_id(text) != doc_id.partition(":")[0] for doc_id, text in sample.iter_rows())
    duplicated = len(keys) - keys.n_unique()
    return dg.AssetCheckResult(
        passed=duplicated == 0 and wrong == 0,
        metadata={"documents": len(keys), "duplicated_ids": duplicated, "wrong_digests_of_500": wrong},
    )


@dg.asset_check(
    asset="tokenized_shards", description="Chunks tile every document's text; no document is missing."
)
@telling
def no_text_lost(store: DeltaStore) -> dg.AssetCheckResult:
    """Compare the spans of all chunks with the documents' lengths, a shard at a time."""
    import polars as pl

    documents = newest(store, tables.DOCUMENTS).select(
        "doc_id", "shard", pl.col("text").str.len_chars().cast(pl.Int64).alias("length")
    )
    spans = newest(store, tables.TOKENIZED_SHARDS).select("doc_id", "shard", "start", "end")
    shards = pl.concat([frame.select("shard") for frame in (documents, spans)]).unique()
    count = 0
    for shard in shards.collect(engine="streaming")["shard"]:
        covered = (
            spans.filter(shard=shard)
            .group_by("doc_id")
            .agg((pl.col("end") - pl.col("start")).sum().alias("covered"), pl.col("end").max().alias("last"))
        )
        both = documents.filter(shard=shard).join(covered, on="doc_id", how="full", coalesce=True)
        bad = both.filter(
            pl.col("length").is_null()
            | pl.col("covered").is_null()
            | (pl.col("covered") != pl.col("length"))
            | (pl.col("last") != pl.col("length"))
        )
        count += bad.select(pl.len()).collect(engine="streaming").item()
    return dg.AssetCheckResult(passed=count == 0, metadata={"documents_not_covered": count})


@dg.asset_check(
    asset="gradient_sketches", description="Every chunk has one finite sketch per kind at one scale."
)
@telling
def sketches_complete(store: DeltaStore) -> dg.AssetCheckResult:
    """Compare sketches with chunks and decode a sample."""
    import numpy as np
    import polars as pl

    from grasp_pipeline.sketch.storage import decode

    delta = store.tables
    chunks = newest(store, tables.TOKENIZED_SHARDS)
    total = chunks.select(pl.len()).collect().item()
    kinds = newest(store, tables.SKETCHERS).collect()
    faults: list[str] = []
    for row in kinds.iter_rows(named=True):
        kind = row["sketch_kind"]
        read = delta.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
        sketches = delta.read(tables.GRADIENT_SKETCHES, read.version, {"sketch_kind": kind})
        shape = sketches.select(
            pl.len().alias("rows"),
            pl.col("chunk_id").n_unique().alias("distinct"),
            pl.col("scale").n_unique().alias("scales"),
            pl.col("norm").is_finite().all().alias("finite"),
            (pl.col("sketch").bin.size() == 2 * row["d"]).all().alias("sized"),
        ).collect()
        seen = shape.row(0, named=True)
        sample = sketches.select("sketch").head(200).collect()["sketch"]
        finite = seen["sized"] and bool(np.isfinite(decode(sample, row["d"])).all())
        if not (seen["rows"] == total and finite and seen["finite"] and seen["rows"] == seen["distinct"]):
            faults.append(kind)
        if seen["scales"] > 1:
            faults.append(f"{kind} (scale)")
    return dg.AssetCheckResult(
        passed=not faults, metadata={"chunks": total, "faulty_kinds": dg.MetadataValue.json(faults)}
    )


@dg.asset_check(
    asset="selected_config",
    description="The candidates were written before any utility was measured, nothing read the evaluation subsets "
    "before the choice, they are the same since, and nothing sealed is upstream of what ships: by commit times and "
    "recorded reads.",
)
@telling
def evaluation_sealed(store: DeltaStore) -> dg.AssetCheckResult:
    """Inspect the logs of all tables."""
    from resources.audit import sealed

    verdict = sealed(store.tables)
    return dg.AssetCheckResult(
        passed=not verdict.faults,
        metadata={
            "faults": dg.MetadataValue.json(verdict.faults),
            "order": dg.MetadataValue.json(verdict.order),
        },
    )


@dg.asset_check(asset="fidelity", description="As evaluation_sealed, after the sealed subsets were opened.")
@telling
def evaluation_read_after_choice(store: DeltaStore) -> dg.AssetCheckResult:
    """Inspect the logs of all tables."""
    from resources.audit import sealed

    verdict = sealed(store.tables)
    return dg.AssetCheckResult(
        passed=not verdict.faults and "evaluation measured" in verdict.order,
        metadata={
            "faults": dg.MetadataValue.json(verdict.faults),
            "order": dg.MetadataValue.json(verdict.order),
        },
    )


@dg.asset_check(
    asset="certificates",
    blocking=True,
    description="The lower bound of the improvement over random is above 0 on the target; else nothing is published.",
)
@telling
def certificate_above_zero(store: DeltaStore) -> dg.AssetCheckResult:
    """Read the headline certificate."""
    import polars as pl

    delta = store.tables
    commit = delta.latest(tables.CERTIFICATES)
    assert commit is not None, "checked after the asset was written"
    settings = CertificatesNote.of(commit)
    frame = delta.read(tables.CERTIFICATES, commit.version).collect()
    head = frame.filter(pl.col("task") == settings.target, pl.col("baseline") == RANDOM).row(0, named=True)
    allowed = settings.allow_uncertified
    refused = " Nothing is published; set finalists.allow_uncertified to publish all the same."
    return dg.AssetCheckResult(
        passed=head["certified"],
        description=head["statement"] + ("" if head["certified"] or allowed else refused),
        severity=dg.AssetCheckSeverity.WARN if allowed else dg.AssetCheckSeverity.ERROR,
        metadata={
            "statement": head["statement"],
            "lower_bound": head["lower_bound"],
            "allow_uncertified": allowed,
        },
    )


@dg.asset_check(
    asset="pruned_corpus", description="Within the budget; every chunk is kept or has a drop reason."
)
@telling
def corpus_accounted_for(store: DeltaStore) -> dg.AssetCheckResult:
    """Compare kept and dropped chunks with all chunks."""
    import polars as pl

    from grasp_pipeline.calibration.budget import Budget

    def ids(table: tables.Table) -> pl.DataFrame:
        return newest(store, table).select("chunk_id").collect()

    chunks, kept, dropped = ids(tables.TOKENIZED_SHARDS), ids(tables.PRUNED_CORPUS), ids(tables.DROP_REASONS)
    overlap = kept.join(dropped, on="chunk_id").height
    missing = chunks.join(pl.concat([kept, dropped]), on="chunk_id", how="anti").height
    total = newest(store, tables.TOKENIZED_SHARDS)
    sizes = total.select(tokens=pl.col("n_tokens").sum(), documents=pl.col("doc_id").n_unique())
    pruned = newest(store, tables.PRUNED_CORPUS)
    tokens = pruned.select((pl.col("kept_tokens") * pl.col("repeats")).sum()).collect().item()
    protocol = newest(store, tables.CANDIDATES).collect().row(0, named=True)
    budget = Budget.of(protocol).resolve(**sizes.collect().row(0, named=True))
    unpruned = kept.height == chunks.height
    return dg.AssetCheckResult(
        passed=overlap == 0 and missing == 0 and (tokens <= budget or unpruned),
        metadata={
            "kept_and_dropped": overlap,
            "unexplained_chunks": missing,
            "kept_tokens": tokens,
            "budget_tokens": budget,
            "whole_corpus_kept": unpruned,
        },
    )


@dg.asset_check(
    asset="vision_fidelity",
    description="The key of fidelity is unique over the rows of text and of every data set.",
)
@telling
def fidelity_keys_unique(store: DeltaStore) -> dg.AssetCheckResult:
    """Check the key over all partitions, which are written apart."""
    frame = newest(store, tables.FIDELITY).collect()
    repeated = int(frame.select(tables.FIDELITY.key).is_duplicated().sum())
    rows = dict(frame.group_by("corpus").len().sort("corpus").iter_rows())
    return dg.AssetCheckResult(
        passed=repeated == 0, metadata={"repeated": repeated, "rows": dg.MetadataValue.json(rows)}
    )


@dg.asset_check(
    asset="drop_reasons",
    description="Every dropped chunk has a reason that can be followed: scores named, values on the right side of "
    "their thresholds, tasks and quotas named, and the kept chunk most like it is really kept.",
)
@telling
def reasons_can_be_followed(store: DeltaStore) -> dg.AssetCheckResult:
    """Look for rows that do not say what their reason promises."""
    import polars as pl

    from grasp_pipeline.selection.explanation.reasons import RANDOM_DRAW, REASONS

    kept = newest(store, tables.PRUNED_CORPUS).collect()
    dropped = newest(store, tables.DROP_REASONS).collect()
    reason, below = pl.col("reason"), pl.col("value") < pl.col("threshold")
    faults = {
        "low_alignment not below its threshold": (reason == "low_alignment") & ~below.fill_null(False),
        "redundant not below tau": (reason == "redundant") & ~below.fill_null(False),
        "no reason": ~reason.is_in(REASONS).fill_null(False),
        "no score": (reason != "duplicate")
        & (pl.col("score").is_null() | (pl.col("value").is_null() & (pl.col("score") != RANDOM_DRAW))),
        "no nearest kept chunk": ~pl.col("nearest_kept").is_in(kept["chunk_id"].implode()).fill_null(False),
        "no similarity": ~pl.col("similarity").is_between(-1, 1).fill_null(False),
        "quota without a name": (reason == "quota") & pl.col("quota").is_null(),
        "no strongest or weakest task": pl.any_horizontal(pl.col("strongest_task", "weakest_task").is_null()),
    }
    counts = {name: dropped.filter(fault).height for name, fault in faults.items()}
    counts["kept without a top task"] = kept["top_task"].null_count()
    return dg.AssetCheckResult(
        passed=not any(counts.values()), metadata={name.replace(" ", "_"): n for name, n in counts.items()}
    )


@dg.asset_check(
    asset="residual_filter",
    description="The filter is the shipped arm's own and keeps the same tokens, but for a tenth at most; else it "
    "carries no certificate, and this check fails. The corpus is published all the same.",
)
@telling
def filter_stands_for_the_corpus(store: DeltaStore) -> dg.AssetCheckResult:
    """Compare the filter's arm and its agreement with what ships; a certificate that it must not carry is an error."""
    from grasp_pipeline.selection.explanation.chunk_filter import AGREEMENT_FLOOR

    frame = newest(store, tables.RESIDUAL_FILTER).collect()
    row = frame.row(0, named=True)
    stands = row["arm"] == row["shipped_arm"] and row["agreement"] >= AGREEMENT_FLOOR
    bounds = row["improvement"] is not None or row["lower_bound"] is not None
    return dg.AssetCheckResult(
        passed=stands,
        severity=dg.AssetCheckSeverity.ERROR if bounds and not stands else dg.AssetCheckSeverity.WARN,
        description=f"The filter of {row['arm']} ({row['filter_kind']}) and the pruned corpus of {row['shipped_arm']} "
        f"have {row['agreement']:.3f} of the kept tokens in common. A filter carries the certificate where it is the "
        f"shipped arm's own and that is {AGREEMENT_FLOOR:g} or more.",
        metadata={
            "arm": row["arm"],
            "shipped_arm": row["shipped_arm"],
            "filter_kind": row["filter_kind"],
            "agreement_over_kept_tokens": row["agreement"],
            "needed": AGREEMENT_FLOOR,
            "carries_a_certificate": bounds,
        },
    )


@dg.asset_check(
    asset="filtered_shards",
    description="No chunk is there twice; kept are exactly the chunks whose value reaches the threshold that their "
    "file was filtered by, and they alone have text.",
)
@telling
def filter_decides_by_value(store: DeltaStore) -> dg.AssetCheckResult:
    """Repeat every decision from the stored values and thresholds."""
    import polars as pl

    delta = store.tables
    frame = newest(store, tables.FILTERED_SHARDS).collect()
    thresholds: dict[str, float] = {}
    for commit in delta.commits(tables.FILTERED_SHARDS):
        thresholds.setdefault((commit.partition or {})["shard"], FilteredNote.of(commit).tau)
    tau = pl.col("shard").replace_strict(thresholds, return_dtype=pl.Float64)
    wrong = frame.filter(pl.col("kept") != (pl.col("value") >= tau)).height
    text = frame.filter(pl.col("kept") != pl.col("text").is_not_null()).height
    repeated = frame.height - frame["chunk_id"].n_unique()
    return dg.AssetCheckResult(
        passed=not (wrong or text or repeated),
        metadata={
            "chunks": frame.height,
            "wrong_decisions": wrong,
            "wrong_texts": text,
            "repeated_chunks": repeated,
        },
    )
