"""Evidence and outputs: the sealed evaluation, the files to train on, the report."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets.launches import tell_written
from assets.sections import ExportRun, FidelityRun, ReportRun
from assets.stages import GPU_POOL, Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.names import MEAN, RANDOM
from resources.compute import Compute
from resources.models import Models
from resources.notes import FidelityNote, predicted_rows
from resources.store import DeltaStore

BROWSE = "http://127.0.0.1:8321"
"""Where `make browse` answers; pages of the web interface may not open files."""
EVALUATION_SEED = 1000
"""First training seed of the arms on the evaluation documents; no earlier run used it or a later one."""
EXPORT_VERSION = "5"
BESIDE = (
    tables.MANIFEST,
    tables.DOCUMENTS,
    tables.REJECTED_DOCUMENTS,
    tables.TOKENIZER,
    tables.TOKENIZED_SHARDS,
    tables.CANDIDATES,
    tables.SELECTED_CONFIG,
    tables.CERTIFICATES,
    tables.CURATIONS,
)
"""What the export reads as `pruned_corpus` saw it, not as it is now."""


@stage(
    group="evidence",
    kinds={"pytorch", "deltalake"},
    code_version="6",
    reads=[
        tables.SELECTED_CONFIG,
        tables.CANDIDATES,
        tables.CERTIFICATES,
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        Reading(tables.SUBSETS, "evaluation"),
        Reading(tables.SUBSETS, "calibration"),
        Reading(tables.SUBSET_UTILITIES, "calibration"),
        tables.FINALISTS,
        tables.REFITTED_FINALISTS,
        Reading(tables.SUBSETS, "finalist", maker="finalists"),
        Reading(tables.SUBSETS, "refit", maker="refitted_finalists", optional=True),
        Reading(tables.TASKS, "evaluation"),
        Reading(tables.GRADIENT_SKETCHES, by="sketch_kind"),
        Reading(tables.TASKS, "query"),
        tables.TASK_SKETCHES,
    ],
    writes={
        tables.FIDELITY: "Rank correlation of the surrogate and of the baselines with the sealed evaluation subsets, "
        "measured after the choice was stored; what is tuned is tuned on the calibration subsets.",
        tables.EVALUATION_LOSSES: "Loss of the picked corpus and the comparison arms on the evaluation documents, "
        "fresh seeds.",
    },
    kept=True,
    pool=GPU_POOL,
)
def sealed_evaluation(
    context: dg.AssetExecutionContext,
    config: FidelityRun,
    store: DeltaStore,
    models: Models,
    compute: Compute,
) -> Iterator[dg.MaterializeResult]:
    """Open the sealed subsets, retrain them, and compare every method with what was measured."""
    import polars as pl

    from assets.data import hidden_states, load_corpus, load_held_out, load_subsets, load_utilities
    from assets.finalists import load_finalists
    from assets.methods import predict_methods
    from assets.plots import fidelity_chart
    from assets.retraining import Bench, evidence
    from grasp_pipeline.evaluation.arms import arm_rows
    from grasp_pipeline.evaluation.fidelity import TEXT, fidelity_rows

    step = Step(context, store, config)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    target = step.read(tables.CANDIDATES).select("target").collect().item(0, 0)
    certificates = step.read(tables.CERTIFICATES).collect()
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    checkpoints = step.pin(tables.PROXY_CHECKPOINTS).version
    proxy = models.proxy(checkpoints, "initial")
    corpus = load_corpus(step)
    sealed = load_subsets(step, "evaluation", corpus)
    calibration = load_subsets(step, "calibration", corpus)
    calibration_read = step.pin(tables.SUBSET_UTILITIES, {"split": "calibration"})
    arms = load_finalists(step, corpus)
    held_out = load_held_out(step, "evaluation", tokenizer.encoder.bos, tokenizer.chunk_tokens)
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": chosen["sketch_kind"]})
    provenance = step.provenance()
    own = {"corpus": TEXT}
    done = [
        step.current(tables.FIDELITY, provenance, own),
        step.current(tables.EVALUATION_LOSSES, provenance),
    ]
    if done[0] is not None and done[1] is not None:
        step.tables.confirm(tables.FIDELITY, provenance, own)
        step.tables.confirm(tables.EVALUATION_LOSSES, provenance)
        yield step.unchanged(tables.FIDELITY, done[0])
        yield step.unchanged(tables.EVALUATION_LOSSES, done[1])
        return

    bench = Bench(step, provenance, "evaluation", corpus, tokenizer, proxy, held_out, compute)
    retrained = bench.utilities().make(sealed.jobs(), "retraining sealed subsets", step.say)
    own_utilities = step.tables.pin(tables.SUBSET_UTILITIES, {"split": "evaluation"})
    measured = load_utilities(step, sealed, own_utilities)
    known = load_utilities(step, calibration, calibration_read)
    states = partial(
        hidden_states,
        step,
        objective=models.proxy(checkpoints, "reference").objective,
        bos=tokenizer.encoder.bos,
        chunk_tokens=tokenizer.chunk_tokens,
        device=compute.prepare(),
    )
    methods, reference, left_out = predict_methods(
        step,
        corpus,
        sealed.membership,
        chosen,
        measured.names,
        calibration.membership,
        known.values.mean(axis=2)[:, [known.names.index(name) for name in measured.names]],
        states if config.hidden_states else None,
    )
    rows = fidelity_rows(
        methods,
        measured.values,
        sealed.strata,
        measured.names,
        reference,
        config.bootstrap,
        0.95,
        f"fidelity/{step.pin(tables.SELECTED_CONFIG).version}",
    )
    frame = pl.DataFrame(rows, schema=tables.FIDELITY.schema)
    note = FidelityNote(
        predicted=predicted_rows(
            methods[reference], measured.values.mean(axis=2), measured.names, sealed.strata
        )
    )
    commit = step.tables.write(tables.FIDELITY, frame, provenance, own, note.to_json())
    step.tables.confirm(tables.FIDELITY, provenance, own)
    yield step.result(
        tables.FIDELITY,
        commit,
        frame.height,
        {
            "models_retrained": retrained,
            "methods_left_out": dg.MetadataValue.json(left_out),
            "methods": dg.MetadataValue.md(fidelity_chart(frame)),
        },
        retrained * proxy.recipe.tokens,
    )

    picked = certificates.filter(pl.col("baseline") == RANDOM, pl.col("task") == target)["arm"][0]
    draws = arms.frame.filter(pl.col("role") == RANDOM)["arm"].to_list()
    others = [name for name in ("random-deduplicated", "full", "influence") if name != picked]
    seeds = range(EVALUATION_SEED, EVALUATION_SEED + config.arm_seeds)
    trained = replace(
        bench,
        proxy=proxy.trained_for(arms.settings.training_tokens),
        cluster_share=arms.settings.cluster_share,
    )
    runs = {name: [trained.job(arms.membership(name), seed) for seed in seeds] for name in (picked, *others)}
    runs[RANDOM] = [
        trained.job(arms.membership(draw), seed)
        for draw, seed in zip([draws[i % len(draws)] for i in range(config.arm_seeds)], seeds, strict=True)
    ]
    losses = trained.document_losses()
    arms_retrained = losses.make(
        [job for jobs in runs.values() for job in jobs], "retraining final arms", step.say
    )
    documents = bench.documents.with_columns(fold=pl.int_range(pl.len()).over("task") % 2)
    table = pl.DataFrame(
        arm_rows(evidence(losses, documents, runs), RANDOM, trained.proxy.recipe.tokens),
        schema=tables.EVALUATION_LOSSES.schema,
    )
    commit = step.tables.write(tables.EVALUATION_LOSSES, table, provenance)
    step.tables.confirm(tables.EVALUATION_LOSSES, provenance)
    means = {
        row["arm"]: round(row["loss"], 4)
        for row in table.filter(pl.col("task") == MEAN).iter_rows(named=True)
    }
    extra = {"models_retrained": arms_retrained, "mean_loss": dg.MetadataValue.json(means), "picked": picked}
    yield step.result(
        tables.EVALUATION_LOSSES, commit, table.height, extra, arms_retrained * trained.proxy.recipe.tokens
    )


@stage(
    group="publication",
    kinds={"parquet", "polars"},
    code_version=EXPORT_VERSION,
    reads=[
        tables.PRUNED_CORPUS,
        tables.DROP_REASONS,
        *(Reading(table, optional=True) for table in BESIDE),
    ],
    writes="The kept text and tokens in the formats asked for, with a dataset card and a manifest, below the store's "
    "folder `export`.",
)
def export(context: dg.AssetExecutionContext, config: ExportRun, store: DeltaStore) -> dg.MaterializeResult:
    """Write the kept spans of every document; neighbouring kept chunks are joined."""
    import json

    from assets.exporting import CURATION, ExportTables, curation_yaml
    from grasp_pipeline.corpus.export.card import render_card
    from grasp_pipeline.corpus.export.spans import span_blocks
    from grasp_pipeline.corpus.export.write import (
        MANIFEST,
        TOKEN_FORMATS,
        check_destination,
        finish_export,
        write_formats,
    )

    check_destination(config.formats, store.place)
    step = Step(context, store, config)
    read = ExportTables.pinned(step)
    stamp = read.stamp(step)
    location = f"{store.place}/export"
    if store.has_file(f"export/{MANIFEST}"):
        with store.files("export") as folder:
            manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["input_digest"] == stamp:
            step.say(f"{location} is up to date; nothing was written")
            return dg.MaterializeResult(metadata={"dagster/uri": location, "up_to_date": True})
    about: dict[str, Any] = {
        "input_digest": stamp,
        "upstream": step.upstream(),
        "code_version": EXPORT_VERSION,
    }
    if read.curation is not None:
        about["curation"] = read.curation["curation"]
    with store.new_files("export") as folder:
        blocks = span_blocks(read.corpus, folder, not TOKEN_FORMATS.isdisjoint(config.formats))
        ledger = write_formats(
            blocks, folder, config.formats, read.vocabulary, config.shard_tokens, config.min_span_tokens
        )
        if read.curation is not None:
            (folder / CURATION).write_text(curation_yaml(read.curation), encoding="utf-8")
        card = render_card(read.card(step, config, EXPORT_VERSION, ledger))
        manifest = finish_export(folder, ledger, card, read.licences.notices, about)
    tell_written(context)
    return dg.MaterializeResult(
        metadata={
            "dagster/uri": location,
            "dagster/row_count": manifest["rows"],
            "tokens": manifest["tokens"],
            "fragments_left_out": dg.MetadataValue.json(manifest["left_out"]),
            "files": dg.MetadataValue.json(manifest["files"]),
            "seconds": round(step.seconds, 2),
            "up_to_date": False,
        }
    )


@stage(
    group="evidence",
    kinds={"html", "matplotlib"},
    code_version="1",
    reads=[
        Reading(table, optional=True)
        for table in (
            tables.CERTIFICATES,
            tables.PRUNED_CORPUS,
            tables.DROP_REASONS,
            tables.FIDELITY,
            tables.EVALUATION_LOSSES,
            tables.REJECTED_DOCUMENTS,
            tables.CURATIONS,
        )
    ],
    writes="One self-contained HTML page: the certificate, the evidence behind it, and what was dropped and why.",
)
def report(context: dg.AssetExecutionContext, config: ReportRun, store: DeltaStore) -> dg.MaterializeResult:
    """Render the report below the store's folder `report`."""
    from assets.reporting import report_inputs, run_seconds, with_outliers
    from grasp_pipeline.report.answer import answer_markdown
    from grasp_pipeline.report.page import render

    step = Step(context, store, config)
    inputs = report_inputs(store.tables, texts=config.texts_per_group if config.texts else 0)
    inputs = with_outliers(replace(inputs, timings=run_seconds(context.instance, inputs.run_id)), store)
    page = render(inputs)
    location = f"{store.place}/report/report.html"
    link = Path(location).absolute().as_uri() if store.is_local else location
    told: dict[str, Any] = {
        "open": dg.MetadataValue.md(
            f"[Open the report]({BROWSE}/report) while `make browse` runs, or the file {link}"
        ),
        "report": dg.MetadataValue.url(link),
        "path": dg.MetadataValue.path(location),
        "answer": dg.MetadataValue.md(answer_markdown(inputs)),
        "megabytes": round(len(page.encode()) / 1e6, 2),
    }
    if store.has_file("report/report.html"):
        with store.files("report") as folder:
            same = (folder / "report.html").read_text(encoding="utf-8") == page
        if same:
            step.say(f"{location} is up to date; nothing was written")
            return dg.MaterializeResult(metadata=told | {"up_to_date": True})
    with store.new_files("report") as folder:
        (folder / "report.html").write_text(page, encoding="utf-8")
    tell_written(context)
    return dg.MaterializeResult(metadata=told | {"up_to_date": False})
