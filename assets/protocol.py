"""The protocol: the candidates written first, subsets designed and retrained, the configuration chosen by its bound."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.sections import ProtocolRun, SubsetsRun
from assets.stages import GPU_POOL, Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.memberships import Memberships
from grasp_pipeline.names import EVENTS
from resources.compute import Compute
from resources.models import Models
from resources.notes import SealNote, SubsetsNote, SurrogatesNote, TasksNote, predicted_rows
from resources.store import DeltaStore

SPLITS = ("calibration", "evaluation")


@stage(
    group="calibration",
    kinds={"python", "deltalake"},
    code_version="1",
    reads=[Reading(tables.TASKS, "query"), tables.SKETCHERS, tables.TOKENIZED_SHARDS],
    writes={
        tables.CANDIDATES: "The finite grid of surrogate configurations, the target, the budget and the error rate: "
        "written before anything is measured."
    },
    kept=True,
)
def candidates(
    context: dg.AssetExecutionContext, config: ProtocolRun, store: DeltaStore
) -> dg.MaterializeResult:
    """Write the grid down; refuse a target or a budget that the data cannot meet."""
    import json

    import polars as pl

    from assets.finalists import task_names
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.calibration.grid import build_grid
    from grasp_pipeline.selection.target import Target

    step = Step(context, store, config)
    names = task_names(step)
    kinds = step.read(tables.SKETCHERS).select("sketch_kind").collect()["sketch_kind"]
    sizes = step.read(tables.TOKENIZED_SHARDS).select(
        tokens=pl.col("n_tokens").sum(), documents=pl.col("doc_id").n_unique()
    )
    Target.of(config.target, names, config.task_weights)
    asked = Budget(config.budget_tokens, config.budget_documents, config.budget_fraction)
    budget = asked.resolve(**sizes.collect().row(0, named=True))
    provenance = step.provenance()
    if (commit := step.current(tables.CANDIDATES, provenance)) is not None:
        return step.unchanged(tables.CANDIDATES, commit)
    budget_counted = config.budget_tokens or config.budget_documents
    grid = build_grid(
        kinds.to_list(),
        config.metrics,
        config.lambdas,
        config.joint_smoothings,
        config.conditional_smoothings,
    )
    frame = pl.DataFrame(
        [
            {
                **c.__dict__,
                "target": config.target,
                "budget_tokens": config.budget_tokens,
                "task_weights": json.dumps(config.task_weights, sort_keys=True),
                "budget_documents": config.budget_documents,
                "budget_fraction": 0.0 if budget_counted else config.budget_fraction,
                "confidence": config.confidence,
                "bootstrap": config.bootstrap,
            }
            for c in grid
        ],
        schema=tables.CANDIDATES.schema,
    )
    commit = step.tables.write(tables.CANDIDATES, frame, provenance)
    extra = {"configurations": len(grid), "target": config.target, "budget_tokens_now": budget}
    return step.result(tables.CANDIDATES, commit, len(grid), extra)


@stage(
    group="calibration",
    kinds={"numpy", "deltalake"},
    code_version="3",
    reads=[
        tables.CANDIDATES,
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        tables.TASK_SKETCHES,
        Reading(tables.GRADIENT_SKETCHES, by="sketch_kind"),
    ],
    writes={
        tables.SUBSETS: "Subsets to retrain, in declared strata: calibration, and evaluation subsets drawn and sealed "
        "apart."
    },
    kept=True,
)
def subsets(context: dg.AssetExecutionContext, config: SubsetsRun, store: DeltaStore) -> dg.MaterializeResult:
    """Design calibration and evaluation subsets, and note which earlier finalists will count beside them.

    The draws are named by everything this step reads, so a new grid or corpus never meets evaluation subsets that
    were measured before; nor do new evaluation documents, of which the digest is noted and no row is read. Nothing that
    it draws depends on `calibration_pool`, so a pool that has grown is no reason to draw again: its version is noted,
    not read.
    """
    import polars as pl

    from assets.data import load_corpus, load_sketches, load_task_vectors, pack_membership
    from assets.pool import newest
    from grasp_pipeline.attribution.blocks import project
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.calibration.designs import design_subsets
    from grasp_pipeline.names import MEAN, WORST
    from resources.audit import short_ids

    step = Step(context, store, config)
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    kind = protocol["sketch_kind"]
    corpus = load_corpus(step)
    names, directions = load_task_vectors(step, kind, "query")
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    provenance = step.provenance()
    chunked = step.tables.latest(tables.TASKS)
    documents = TasksNote.of(chunked).evaluation_documents if chunked is not None else ""
    done = [step.current(tables.SUBSETS, provenance, {"split": split}) for split in SPLITS]
    if (
        done[0] is not None
        and done[1] is not None
        and SubsetsNote.of(done[1]).evaluation_documents == documents
    ):
        return step.unchanged(tables.SUBSETS, done[1])
    columns = names if protocol["target"] in (MEAN, WORST) else [name for name in names if name != MEAN]
    targets = directions[[names.index(name) for name in columns]].T
    scores = project(load_sketches(step, corpus, kind), targets)
    budget = Budget.of(protocol).resolve(corpus.total, corpus.documents)
    draw = f"{config.seed}-{provenance.input_digest()[:16]}"
    pool = newest(step)
    frames = []
    for split, count in zip(SPLITS, (config.calibration_subsets, config.evaluation_subsets), strict=True):
        designs = design_subsets(
            corpus,
            scores,
            budget,
            count,
            f"{split}/{draw}" + (f"-{documents[:16]}" if split == "evaluation" else ""),
        )
        rows = [
            {
                "subset_id": corpus.subset_id(d.membership),
                "split": split,
                "stratum": d.stratum,
                "n_chunks": int(d.membership.sum()),
                "n_tokens": int(corpus.n_tokens[d.membership].sum()),
                "seed": d.seed,
                "pool_version": corpus.version,
                "membership": pack_membership(d.membership),
            }
            for d in designs
        ]
        frames.append(pl.DataFrame(rows, schema=tables.SUBSETS.schema))
    commits = [
        step.tables.write(
            tables.SUBSETS,
            frame,
            provenance,
            {"split": split},
            SubsetsNote(
                ids=short_ids(frame["subset_id"]),
                seeds=config.seeds,
                calibration_pool=pool,
                evaluation_documents=documents,
            ).to_json(),
        )
        for split, frame in zip(SPLITS, frames, strict=True)
    ]
    strata = pl.concat(frames).group_by("split", "stratum").len().sort("split", "stratum")
    extra = {
        "strata": dg.MetadataValue.json(
            {f"{split}/{name}": count for split, name, count in strata.iter_rows()}
        ),
        "budget_tokens": budget,
        "calibration_pool_version": pool,
    }
    return step.result(tables.SUBSETS, commits[-1], sum(frame.height for frame in frames), extra)


@stage(
    group="calibration",
    kinds={"pytorch", "deltalake"},
    code_version="1",
    reads=[
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
        tables.CANDIDATES,
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        Reading(tables.SUBSETS, "calibration"),
        Reading(tables.TASKS, "calibration"),
    ],
    writes={
        tables.SUBSET_UTILITIES: "Held-out utility of every calibration subset, from proxies really retrained on it."
    },
    kept=True,
    pool=GPU_POOL,
)
def subset_utilities(
    context: dg.AssetExecutionContext, store: DeltaStore, models: Models, compute: Compute
) -> dg.MaterializeResult:
    """Retrain the calibration subsets that were not measured yet."""
    from assets.data import load_corpus, load_held_out, load_subsets
    from assets.retraining import Bench

    step = Step(context, store)
    tokenizer = models.tokenizer(step.pin(tables.TOKENIZER).version)
    proxy = models.proxy(step.pin(tables.PROXY_CHECKPOINTS).version, "initial")
    corpus = load_corpus(step)
    chosen = load_subsets(step, "calibration", corpus)
    held_out = load_held_out(step, "calibration", tokenizer.encoder.bos, tokenizer.chunk_tokens)
    provenance = step.provenance()
    bench = Bench(step, provenance, "calibration", corpus, tokenizer, proxy, held_out, compute)
    jobs = chosen.jobs()
    retrained = bench.utilities().make(jobs, "retraining calibration subsets", step.say)
    commit = step.tables.latest(tables.SUBSET_UTILITIES, {"split": "calibration"})
    assert commit is not None, "there is at least one calibration subset"
    extra: dict[str, Any] = {"models_retrained": retrained, "models_reused": len(jobs) - retrained}
    if retrained:
        extra["compute"] = dg.MetadataValue.json(compute.describe())
    tokens = retrained * proxy.recipe.tokens
    rows = step.rows(tables.SUBSET_UTILITIES, commit)
    return step.result(tables.SUBSET_UTILITIES, commit, rows, extra, tokens, up_to_date=retrained == 0)


@stage(
    group="calibration",
    kinds={"numpy", "deltalake"},
    code_version="7",
    reads=[
        tables.CANDIDATES,
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        Reading(tables.SUBSETS, "calibration"),
        Reading(tables.SUBSET_UTILITIES, "calibration"),
        Reading(tables.TASKS, "query"),
        tables.TASK_SKETCHES,
        Reading(tables.GRADIENT_SKETCHES, by="sketch_kind"),
        Reading(tables.CALIBRATION_POOL, carried=True),
    ],
    writes={
        tables.SURROGATES: "Every candidate's rank correlation with the measured utilities and its lower bound.",
        tables.SELECTED_CONFIG: "The configuration with the highest lower bound that beats additive attribution, and "
        "why.",
    },
    kept=True,
)
def surrogates(context: dg.AssetExecutionContext, store: DeltaStore) -> Iterator[dg.MaterializeResult]:
    """Fit all candidates on the calibration subsets and earlier finalists; choose by the lower confidence bound."""
    from dataclasses import asdict

    import numpy as np
    import polars as pl

    from assets.data import (
        events_by_document,
        grid_views,
        load_corpus,
        load_subsets,
        load_utilities,
        query_events,
    )
    from assets.plots import bounds_chart
    from assets.pool import STRATUM, load_pool
    from grasp_pipeline.calibration.grid_predictions import coverage_of, predict_grid
    from grasp_pipeline.calibration.lcb import Configuration, choose_configuration
    from grasp_pipeline.calibration.near_copies import POOLED_SHARE, cluster_means
    from grasp_pipeline.calibration.query_documents import query_shares
    from resources.audit import sealed_now
    from resources.sketches import sketch_seconds

    step = Step(context, store)
    candidates_read = step.pin(tables.CANDIDATES)
    grid = step.read(tables.CANDIDATES).collect()
    corpus = load_corpus(step)
    calibration = load_subsets(step, "calibration", corpus)
    utilities_read = step.pin(tables.SUBSET_UTILITIES, {"split": "calibration"})
    kinds = [kind for kind in grid["sketch_kind"].unique().sort() if kind != EVENTS]
    for kind in kinds:
        step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    provenance = step.provenance(*step.carried(tables.CALIBRATION_POOL, calibration.calibration_pool))
    sealed = sealed_now(step.tables)
    done = [step.current(table, provenance) for table in (tables.SURROGATES, tables.SELECTED_CONFIG)]
    if done[0] is not None and done[1] is not None and SealNote.of(done[1]) == sealed:
        step.tables.confirm(tables.SURROGATES, provenance)
        step.tables.confirm(tables.SELECTED_CONFIG, provenance)
        yield step.unchanged(tables.SURROGATES, done[0])
        yield step.unchanged(tables.SELECTED_CONFIG, done[1])
        return
    configurations = [
        Configuration(row["config_id"], row["sketch_kind"], row["rho"], row["lam"], row["form"])
        for row in grid.iter_rows(named=True)
    ]
    measured = load_utilities(step, calibration, utilities_read)
    most = max(1, int(POOLED_SHARE * len(calibration.ids)))
    pooled = load_pool(
        step, corpus, calibration.calibration_pool, measured.recipe, measured.names, calibration.ids, most
    )
    if calibration.calibration_pool is not None:
        step.say(pooled.account())
    membership = Memberships.join([calibration.membership, pooled.membership])
    events = (
        query_events(step, corpus, measured.names) if len(kinds) < grid["sketch_kind"].n_unique() else None
    )
    views = grid_views(step, corpus, kinds, measured.names)
    predictions = predict_grid(configurations, views, corpus.n_tokens, membership, events)
    designed = len(calibration.membership)
    utilities = np.concatenate(
        [measured.values.mean(axis=2), cluster_means(pooled.utilities, pooled.clusters, axis=0)]
    )
    predictions = np.concatenate(
        [predictions[:, :designed], cluster_means(predictions[:, designed:], pooled.clusters, axis=1)], axis=1
    )
    seconds = {EVENTS: 0.0} | {kind: sketch_seconds(step.tables, kind) for kind in kinds}
    cost = [seconds[c.sketch_kind] for c in configurations]
    choice = choose_configuration(
        configurations,
        predictions,
        utilities,
        cost,
        grid["confidence"][0],
        grid["bootstrap"][0],
        f"surrogates/{candidates_read.version}",
        [*calibration.strata, *[STRATUM] * (len(utilities) - designed)],
    )
    frame = pl.DataFrame(
        [
            {
                **c.__dict__,
                "rank_correlation": choice.rank_correlation[k],
                "lower_bound": choice.lower_bound[k],
                "paired_lower_bound": choice.paired_lower_bound[k],
                "cost_seconds": cost[k],
                "rank": choice.rank[k],
            }
            for k, c in enumerate(configurations)
        ],
        schema=tables.SURROGATES.schema,
    )
    heard, shares = [c for c in configurations if c.sketch_kind == EVENTS], None
    if events is not None and heard:
        chosen = configurations[choice.chosen]
        shares = query_shares(
            coverage_of(chosen if chosen in heard else heard[0], events),
            *events_by_document(step, events, measured.names),
            calibration.membership,
            utilities[:designed],
            f"surrogates/{candidates_read.version}",
        )
    note = SurrogatesNote(
        query_documents={} if shares is None else asdict(shares),
        predicted=predicted_rows(
            predictions[choice.chosen, :designed], utilities[:designed], measured.names, calibration.strata
        ),
    )
    commit = step.tables.write(tables.SURROGATES, frame, provenance, statistics=note.to_json())
    step.tables.confirm(tables.SURROGATES, provenance)
    yield step.result(
        tables.SURROGATES,
        commit,
        frame.height,
        {
            "best_candidates": dg.MetadataValue.md(bounds_chart(frame)),
            "bootstrap_resamples": choice.resamples,
            "query_documents": "" if shares is None else shares.sentence,
            "calibration_pool_version": calibration.calibration_pool,
            "earlier_finalists": len(pooled.utilities),
            "earlier_finalist_clusters": len(utilities) - designed,
            "earlier_finalists_left_out": dg.MetadataValue.json(pooled.left_out),
        },
    )
    row = frame.drop("cost_seconds", "rank").row(choice.chosen, named=True) | {
        # Of log-coverage the sketches of the best additive one: what needs gradients goes on with those.
        "sketch_kind": configurations[
            choice.best_additive if configurations[choice.chosen].sketch_kind == EVENTS else choice.chosen
        ].sketch_kind,
        "best_additive": configurations[choice.best_additive].config_id,
        "candidates_version": candidates_read.version,
        "reason": choice.reason,
    }
    selected = pl.DataFrame([row], schema=tables.SELECTED_CONFIG.schema)
    commit = step.tables.write(tables.SELECTED_CONFIG, selected, provenance, statistics=sealed.to_json())
    step.tables.confirm(tables.SELECTED_CONFIG, provenance)
    yield step.result(
        tables.SELECTED_CONFIG,
        commit,
        1,
        {
            "configuration": str(configurations[choice.chosen]),
            "reason": choice.reason,
            "rank_correlation": float(choice.rank_correlation[choice.chosen]),
            "lower_bound": float(choice.lower_bound[choice.chosen]),
        },
    )
