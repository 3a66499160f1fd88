"""What the report and the terminal summary show, counted from the tables; texts go to the page in the store alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from grasp_pipeline import tables
from grasp_pipeline.errors import StoreError
from grasp_pipeline.locations import tidy_root
from grasp_pipeline.names import MEAN

if TYPE_CHECKING:
    import dagster as dg
    import polars as pl

    from grasp_pipeline.lineage.curation import Curation
    from grasp_pipeline.report.inputs import ProxySize, ReportInputs
    from grasp_pipeline.tables import Table
    from resources.delta.commits import Commit
    from resources.delta.tables import DeltaTables
    from resources.store import DeltaStore


def report_inputs(
    delta: DeltaTables,
    timings: pl.DataFrame | None = None,
    texts: int = 0,
    views: bool = True,
    curation: Curation | None = None,
) -> ReportInputs:
    """Read and count everything that the report shows, of the corpus that ships or of a curation.

    Tables that the pruned corpus was made from are read as it saw them, the others at their newest version; what those
    were measured for is told where it is not the corpus that ships. Of a curation, tables are read at the versions
    that it names, and sealed evidence where it was measured for it.

    Args:
        delta: the tables.
        timings: stage and seconds; None: not known.
        texts: of every source and reason that are drawn to look at; 0: none.
        views: whether to count what the page's interactive views draw.
        curation: to show; None: what ships.

    Raises:
        StoreError: no certificate was written yet.
    """
    import polars as pl

    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.evaluation.fidelity import TEXT
    from grasp_pipeline.report import explore
    from grasp_pipeline.report.accounts import KEPT, account
    from grasp_pipeline.report.inputs import ReportInputs
    from grasp_pipeline.report.samples import SampleTables, draw_samples
    from grasp_pipeline.selection.target import Target

    versions: dict[str, int] = {}
    shipped = delta.standing(tables.PRUNED_CORPUS) if curation is None else None
    number = delta.curation(tables.PRUNED_CORPUS) if curation is None else curation.number
    newest = (tables.PRUNED_CORPUS, tables.DROP_REASONS, tables.FIDELITY, tables.EVALUATION_LOSSES)

    def seen(table: Table, partition: Mapping[str, str] | None = None) -> Commit | None:
        if curation is not None:
            return _of_curation(delta, curation, table, partition)
        if shipped is None or table in newest:
            return delta.latest(table, partition)
        return delta.beside(shipped, table, partition)

    def read(table: Table, partition: Mapping[str, str] | None = None) -> pl.LazyFrame:
        commit = seen(table, partition)
        if commit is None:
            return table.empty().lazy()
        versions[table.name] = commit.version
        return delta.read(table, commit.version, partition)

    certified = seen(tables.CERTIFICATES)
    if certified is None:
        raise StoreError(f"there is no certificate in the store {delta.root}; run the job curate first")
    certificates = read(tables.CERTIFICATES).collect()
    chunks = read(tables.TOKENIZED_SHARDS).select("doc_id", "source", "n_tokens").collect()
    counts = account(
        read(tables.PRUNED_CORPUS).select("source", "kept_tokens").collect(),
        read(tables.DROP_REASONS).select("source", "reason", "n_tokens").collect(),
    )
    kept = counts.filter(reason=KEPT).select("source", kept_tokens="tokens", kept_chunks="chunks")
    sources = (
        read(tables.DOCUMENTS)
        .group_by("source")
        .agg(documents=pl.len().cast(pl.Int64), bytes=pl.col("n_bytes").sum())
        .collect()
        .join(chunks.group_by("source").agg(tokens=pl.col("n_tokens").sum()), on="source", how="left")
        .join(kept, on="source", how="left")
        .fill_null(0)
        .sort("source")
    )
    rejected = (
        read(tables.REJECTED_DOCUMENTS)
        .group_by("reason", "source")
        .agg(documents=pl.len().cast(pl.Int64), bytes=pl.col("n_bytes").sum())
        .sort("reason", "source")
        .collect()
    )
    protocol = read(tables.CANDIDATES).collect().row(0, named=True)
    finalists = pl.concat([read(tables.FINALISTS).collect(), read(tables.REFITTED_FINALISTS).collect()])
    proxies = read(tables.PROXY_CHECKPOINTS).collect()
    checkpoints = proxies.select("role", "tokens_seen", "train_loss", "validation_loss")
    losses = read(tables.DOCUMENT_LOSSES).filter(split="calibration").collect()
    picked = finalists.filter(arm=certificates["arm"][0])["subset_id"]
    tasks = losses["task"].unique().sort().to_list()
    shares = _shares(
        Target.of(protocol["target"], tasks, json.loads(protocol["task_weights"])).shares(), tasks
    )
    seen_views: dict[str, Any] = {}
    if views:
        pruned, dropped = read(tables.PRUNED_CORPUS), read(tables.DROP_REASONS)
        seen_views = {
            "funnel": explore.funnel(read(tables.DOCUMENTS), read(tables.REJECTED_DOCUMENTS), pruned),
            "values": explore.value_bins(pruned, dropped),
            "predictions": _predictions(seen(tables.SURROGATES), seen(tables.FIDELITY, {"corpus": TEXT})),
        }
    drawn = []
    if texts:
        sampled = SampleTables(
            *(
                read(table)
                for table in (
                    tables.PRUNED_CORPUS,
                    tables.DROP_REASONS,
                    tables.REJECTED_DOCUMENTS,
                    tables.TOKENIZED_SHARDS,
                    tables.DOCUMENTS,
                )
            )
        )
        drawn = draw_samples(sampled, texts)
    return ReportInputs(
        sources=sources,
        rejected=rejected,
        surrogates=read(tables.SURROGATES).collect(),
        selected_config=read(tables.SELECTED_CONFIG).collect(),
        finalists=finalists,
        certificates=certificates,
        drop_reasons=counts.filter(pl.col("reason") != KEPT),
        fidelity=read(tables.FIDELITY, {"corpus": TEXT}).collect(),
        evaluation_losses=read(tables.EVALUATION_LOSSES).collect(),
        checkpoints=checkpoints,
        arm_losses=_arm_losses(losses, finalists, shares),
        versions=versions,
        store=delta.root,
        run_id=certified.metadata["run_id"],
        target=protocol["target"],
        budget_tokens=Budget.of(protocol).resolve(int(chunks["n_tokens"].sum()), chunks["doc_id"].n_unique()),
        timings=timings
        if timings is not None
        else pl.DataFrame(schema={"stage": pl.String, "seconds": pl.Float64}),
        margins=_margins(losses, finalists, picked[0] if len(picked) else "", shares),
        measured_elsewhere=_measured_elsewhere(delta, shipped),
        curation=number,
        more_queries=_more_queries(seen(tables.SURROGATES)),
        proxy=_proxy_size(
            delta.root,
            proxies,
            certificates,
            int(counts.filter(reason=KEPT)["tokens"].sum()),
            _cluster_share(seen(tables.FINALISTS)),
        ),
        samples=drawn,
        **seen_views,
        time=_time(delta, number),
    )


def _of_curation(
    delta: DeltaTables, curation: Curation, table: Table, partition: Mapping[str, str] | None
) -> Commit | None:
    """Return the commit of a table as a curation read it, of sealed evidence the one that was measured for it."""
    from assets.provenance import measured_on

    if table in (tables.FIDELITY, tables.EVALUATION_LOSSES):
        return measured_on(delta, table, curation, partition)
    versions = curation.versions
    if table in (tables.PRUNED_CORPUS, tables.DROP_REASONS) and table.name not in versions:
        return None  # a refused one published nothing
    return delta.within(versions, table, partition)


def _predictions(calibration: Commit | None, sealed: Commit | None) -> pl.DataFrame:
    """Return predicted and measured utilities, calibration and sealed subsets apart, as the commits tell them."""
    import polars as pl

    from grasp_pipeline.report.inputs import SCHEMAS
    from resources.notes import FidelityNote, SurrogatesNote

    rows = [
        (split, *row)
        for split, commit, note in (
            ("calibration", calibration, SurrogatesNote),
            ("sealed", sealed, FidelityNote),
        )
        if commit is not None
        for row in note.of(commit).predicted
    ]
    return pl.DataFrame(rows, schema=SCHEMAS["predictions"], orient="row")


def _cluster_share(commit: Commit | None) -> float:
    """Return the share of the clusters that a finalist's retraining saw."""
    from resources.notes import FinalistsNote

    return FinalistsNote.of(commit).cluster_share if commit is not None else 1.0


def _proxy_size(
    root: str, proxies: pl.DataFrame, certificates: pl.DataFrame, kept: int, cluster_share: float
) -> ProxySize:
    """Return at what size of model and training the corpora were compared."""
    from grasp_pipeline.report.inputs import ProxySize
    from grasp_pipeline.report.size import stored_parameters

    tokens = certificates["tokens"].max() if certificates.height else None
    assert tokens is None or isinstance(tokens, int)
    passes = tokens / kept / cluster_share if tokens is not None and kept else None
    if proxies.is_empty():
        return ProxySize(tokens=tokens, passes=passes, cluster_share=cluster_share)
    proxy = proxies.row(0, named=True)
    parameters = stored_parameters(f"{tidy_root(root)}/{proxy['path']}")
    return ProxySize(
        json.loads(proxy["model_config"]).get("model_type", ""), parameters, tokens, passes, cluster_share
    )


def _time(delta: DeltaTables, curation: int | None) -> str:
    """Return when a curation was recorded; "" where it was not."""
    commit = delta.latest(tables.CURATIONS)
    if curation is None or commit is None:
        return ""
    rows = delta.read(tables.CURATIONS, commit.version).filter(curation=curation).select("time").collect()
    return rows.item() if rows.height else ""


def with_outliers(inputs: ReportInputs, store: DeltaStore) -> ReportInputs:
    """Return the inputs with the texts of most leverage in the attribution below the store's folder `proof`, if any.

    Folders of before PROOF_VERSION 2 do not say what they were made from: they count as none.
    """
    import polars as pl

    if not store.has_file("proof/about.json"):
        return inputs
    with store.files("proof") as folder:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    if "upstream" not in about:
        return inputs
    name = tables.TOKENIZED_SHARDS.name
    then, now = about["upstream"][name], inputs.versions[name]
    told = {
        "outliers": f"Measured on version {then} of {name}; this page is of version {now}. Run the job "
        "prove_attribution again."
    }
    return replace(
        inputs,
        outliers=pl.DataFrame(about["outliers"]),
        safe_estimators=about["safe"],
        measured_elsewhere=inputs.measured_elsewhere | (told if then != now else {}),
    )


def run_seconds(instance: dg.DagsterInstance, run: str) -> pl.DataFrame:
    """Return seconds per stage of a run, in order, without the report's own; no rows where it is not remembered."""
    import polars as pl

    from assets.stages import STAGES

    schema = {"stage": pl.String, "seconds": pl.Float64}
    if not instance.has_run(run):
        return pl.DataFrame(schema=schema)
    ended = [
        each
        for each in instance.get_run_step_stats(run)
        if each.step_key in STAGES
        and each.step_key != "report"
        and each.start_time is not None
        and each.end_time is not None
    ]
    ended.sort(key=lambda each: each.start_time or 0.0)
    rows = [(each.step_key, (each.end_time or 0.0) - (each.start_time or 0.0)) for each in ended]
    return pl.DataFrame(rows, schema=schema, orient="row")


def _more_queries(commit: Commit | None) -> str:
    """Return what more query documents would bring, as the commit of `surrogates` says it."""
    from grasp_pipeline.calibration.query_documents import QueryShares
    from resources.notes import SurrogatesNote

    found = SurrogatesNote.of(commit).query_documents if commit is not None else {}
    return QueryShares(**found).sentence if found else ""


def vision_inputs(delta: DeltaTables, data_set: str) -> tuple[pl.DataFrame, str]:
    """Return a data set's rows of `fidelity` over all subsets and the mean over tasks, and the choice in words.

    Raises:
        StoreError: the data set was not measured yet.
    """
    import polars as pl

    from grasp_pipeline.evaluation.fidelity import ALL, MEAN_OVER_TASKS, stratum_name
    from resources.notes import VisionNote

    own = {"corpus": data_set}
    commit = delta.latest(tables.FIDELITY, own)
    if commit is None:
        raise StoreError(f"{data_set} is not in the store {delta.root}; run the job curate_vision first")
    rows = delta.read(tables.FIDELITY, commit.version, own).filter(
        pl.col("stratum") == stratum_name(ALL, data_set), pl.col("task") == MEAN_OVER_TASKS
    )
    return rows.collect(), VisionNote.of(commit).reason


def _measured_elsewhere(delta: DeltaTables, shipped: Commit | None) -> dict[str, str]:
    """Return by table what its evidence was measured for, where that is not the corpus that ships."""
    from assets.provenance import described, measured_elsewhere
    from grasp_pipeline.evaluation.fidelity import TEXT

    if shipped is None:
        return {}
    told = {
        tables.FIDELITY.name: measured_elsewhere(delta, tables.FIDELITY, shipped, {"corpus": TEXT}),
        tables.EVALUATION_LOSSES.name: measured_elsewhere(delta, tables.EVALUATION_LOSSES, shipped),
        tables.SELECTED_CONFIG.name: measured_elsewhere(delta, tables.SELECTED_CONFIG, shipped),
    }
    newest, version = delta.latest(tables.CERTIFICATES), shipped.reads.get(tables.CERTIFICATES.name)
    if newest is not None and version is not None and newest.version != version:
        told[tables.CERTIFICATES.name] = (
            f"A later run published nothing: {described(delta, tables.CERTIFICATES, newest.version)}. What is shown "
            "here is of the corpus that ships."
        )
    return {name: sentence for name, sentence in told.items() if sentence is not None}


def _shares(weights: Mapping[str, float], tasks: Sequence[str]) -> pl.DataFrame:
    """Return task and share: what every task counts in the mean over tasks, as in the certificate; they add up to 1."""
    import polars as pl

    counted = [weights.get(task, 0.0) if weights else 1.0 for task in tasks]
    total = sum(counted)
    columns = {"task": tasks, "share": [weight / total for weight in counted]}
    return pl.DataFrame(columns, {"task": pl.String, "share": pl.Float64})


def _arm_losses(losses: pl.DataFrame, finalists: pl.DataFrame, shares: pl.DataFrame) -> pl.DataFrame:
    """Return the mean calibration loss of every retrained arm per task, and over tasks, in nats per token."""
    import polars as pl

    per_task = losses.group_by("subset_id", "task").agg(
        loss=pl.col("loss_sum").sum() / pl.col("n_tokens").sum()
    )
    mean = (
        per_task.join(shares, on="task")
        .group_by("subset_id")
        .agg(task=pl.lit(MEAN), loss=(pl.col("loss") * pl.col("share")).sum())
    )
    both = pl.concat([per_task, mean.select(per_task.columns)])
    return (
        both.join(finalists.select("arm", "subset_id"), on="subset_id")
        .select("arm", "task", "loss")
        .sort("arm", "task")
    )


def _margins(
    losses: pl.DataFrame, finalists: pl.DataFrame, picked: str, shares: pl.DataFrame
) -> pl.DataFrame:
    """Return by how much every other arm's calibration loss is above the picked one's, per task and over tasks.

    Means over an arm's runs, document by document; the standard error is that of the ratio of sums over documents,
    so it counts the documents and not the runs.

    Returns:
        arm, task, margin and standard_error in nats per token.
    """
    import polars as pl

    document = ("task", "document")
    mean_of_runs = losses.group_by("subset_id", *document).agg(pl.col("loss_sum", "n_tokens").mean())
    mine = mean_of_runs.filter(subset_id=picked).drop("subset_id", "n_tokens")
    paired = mean_of_runs.filter(pl.col("subset_id") != picked).join(mine, on=document, suffix="_picked")
    above = pl.col("loss_sum") - pl.col("loss_sum_picked")
    per_task = (
        paired.with_columns(above=above)
        .with_columns(
            margin=(pl.col("above").sum() / pl.col("n_tokens").sum()).over("subset_id", "task"),
        )
        .group_by("subset_id", "task")
        .agg(
            pl.col("margin").first(),
            variance=(pl.col("above") - pl.col("margin") * pl.col("n_tokens")).pow(2).sum()
            / pl.col("n_tokens").sum().pow(2)
            * (pl.len() / (pl.len() - 1)),
        )
    )
    mean = (
        per_task.join(shares, on="task")
        .group_by("subset_id")
        .agg(
            task=pl.lit(MEAN),
            margin=(pl.col("margin") * pl.col("share")).sum(),
            variance=(pl.col("variance") * pl.col("share").pow(2)).sum(),
        )
    )
    both = pl.concat([per_task, mean.select(per_task.columns)])
    return (
        both.join(finalists.select("arm", "subset_id"), on="subset_id")
        .select("arm", "task", "margin", standard_error=pl.col("variance").sqrt())
        .sort("arm", "task")
    )
