"""What ships: the certified corpus, the reason for everything that was dropped, and the filter for what comes next."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.common import OWNERS, Step, assets_of_one_step
from assets.partitions import ONE_RUN
from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError
from resources.store import DeltaStore

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from assets.data import Corpus
    from assets.finalists import Arms
    from grasp_pipeline.selection.ingredients import Ingredients, LinearView
    from grasp_pipeline.selection.reasons import TaskExtremes

GROUP = "selection"
RANDOM = "random"

MOST_ROWS = 200
"""Rows of a table in the event log."""


def account_table(counts: "pl.DataFrame") -> dg.TableMetadataValue:
    """Return what became of every source's chunks, the sources of most tokens first, as a table for the log."""
    import polars as pl

    largest = counts.sort(pl.col("tokens").sum().over("source"), descending=True, maintain_order=True)
    rows = largest.with_columns(pl.col("share").round(4)).head(MOST_ROWS)
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows.iter_rows(named=True)])


@assets_of_one_step(
    name="pruned_corpus",
    specs=[
        dg.AssetSpec(
            name,
            group_name=GROUP,
            kinds={"numpy", "deltalake"},
            owners=OWNERS,
            code_version="3",
            deps=[
                "certificates",
                "finalists",
                "refitted_finalists",
                "gradient_sketches",
                "task_sketches",
                "conditional_losses",
                "tokenized_shards",
                "candidates",
                "tasks",
                "tokenizer",
                "sketchers",
                "proxy_checkpoints",
            ],
            description=text,
        )
        for name, text in (
            ("pruned_corpus", "The chunks to train on, best first."),
            (
                "drop_reasons",
                "Why every other chunk was dropped, with the nearest kept chunk for redundant ones.",
            ),
            (
                "residual_filter",
                "One direction and one threshold that score tomorrow's shards by a dot product.",
            ),
        )
    ],
    backfill_policy=ONE_RUN,
)
def pruned_corpus(context: dg.AssetExecutionContext, store: DeltaStore) -> Iterator[dg.MaterializeResult]:
    """Publish the certified corpus, the reasons and the filter."""
    import numpy as np
    import polars as pl

    from assets.data import load_corpus
    from assets.finalists import load_finalists, load_ingredients, load_target, make_rooms, task_directions
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.report.accounts import account
    from grasp_pipeline.selection.ingredients import linear_view
    from grasp_pipeline.selection.reasons import task_extremes
    from grasp_pipeline.selection.residual_filter import FeatureView, ResidualFilter, token_agreement

    step = Step(context, store, None, "3")
    certificate_read = step.pin(tables.CERTIFICATES)
    certificates = step.tables.read(tables.CERTIFICATES, certificate_read.version).collect()
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    target, kind = load_target(step, protocol), chosen["sketch_kind"]
    head = certificates.filter(pl.col("task") == target.name, pl.col("baseline") == RANDOM).row(0, named=True)
    settings = step.tables.latest(tables.CERTIFICATES)
    assert settings is not None, "pinned above"
    if not head["certified"] and not settings.statistics["allow_uncertified"]:
        raise ConfigError(
            f"{head['statement']} Nothing is published; set finalists.allow_uncertified to publish all the same."
        )
    corpus = load_corpus(step)
    arms = load_finalists(step, corpus)
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
    step.pin(tables.TASK_SKETCHES)
    step.pin(tables.CONDITIONAL_LOSSES)
    maker = load_maker(step, kind)
    provenance = step.provenance()
    written = (tables.PRUNED_CORPUS, tables.DROP_REASONS, tables.RESIDUAL_FILTER)
    done = [step.current(table, provenance) for table in written]
    if all(commit is not None for commit in done):
        for table, commit in zip(written, done, strict=True):
            assert commit is not None
            step.tables.confirm(table, provenance)
            yield step.unchanged(table, commit)
        return

    budget = Budget.of(protocol).resolve(corpus.total, corpus.frame["doc_id"].n_unique())
    rooms = make_rooms(corpus, budget, arms.constraints, arms.settings["trust_share"])
    given = load_ingredients(step, corpus, kind, target, rooms)
    kept, shipped = arms.membership(head["arm"]), arms.row(head["arm"])
    filter_arm = head["arm"] if shipped["features"] else arms.best_linear()
    rule = arms.rule(filter_arm)
    assert rule is not None, "a linear arm has one"
    allowed = rooms.allowed(arms.row(filter_arm)["near_duplicates"])
    view = linear_view(given, rule, arms.membership(filter_arm), allowed)
    if filter_arm == head["arm"]:
        worth = view.marginal
    elif shipped["family"] in ("dsir", "conditional", "blend"):
        worth = getattr(given, shipped["family"])
    else:
        worth = view.alignment

    making = FeatureView.of(view.blocks, lambda: given.ngrams)
    task_names, directions = task_directions(step, given, rule, making, kind)
    served, names = task_extremes(view.blocks, directions), np.array(task_names)

    order = np.flatnonzero(kept)
    order = order[np.argsort(-worth[order], kind="stable")]
    pruned = (
        corpus.frame[order]
        .select("chunk_id", "doc_id", pl.col("n_tokens").alias("kept_tokens"), "source", "shard")
        .with_columns(
            repeats=pl.lit(shipped["repeats"], pl.Int64),
            marginal_value=pl.Series(worth[order]),
            order=pl.int_range(pl.len()),
            top_task=pl.Series(names[served.strongest[order]]),
            top_task_value=pl.Series(served.strongest_value[order]),
        )
    )
    commit = step.tables.write(tables.PRUNED_CORPUS, pruned, provenance)
    step.tables.confirm(tables.PRUNED_CORPUS, provenance)
    kept_tokens = int(pruned["kept_tokens"].sum())
    by_source = pruned.group_by("source").agg(pl.col("kept_tokens").sum()).sort("source")
    yield step.result(
        tables.PRUNED_CORPUS,
        commit,
        pruned.height,
        {
            "arm": head["arm"],
            "share_of_corpus": round(kept_tokens / corpus.total, 4),
            "repeats": shipped["repeats"],
            "tokens_by_source": dg.MetadataValue.json(dict(by_source.iter_rows())),
        },
        kept_tokens,
    )

    linear = filter_arm == head["arm"]
    dropped = explain_dropped(corpus, given, arms, head["arm"], view, None if linear else worth, served)
    dropped = dropped.with_columns(
        strongest_task=pl.Series(names[dropped["strongest_task"].to_numpy()]),
        weakest_task=pl.Series(names[dropped["weakest_task"].to_numpy()]),
    )
    commit = step.tables.write(tables.DROP_REASONS, dropped, provenance)
    counts = dict(dropped.group_by("reason").len().sort("reason").iter_rows())
    extra = {
        "reasons": dg.MetadataValue.json(counts),
        "by_source_and_reason": account_table(account(pruned, dropped)),
    }
    yield step.result(tables.DROP_REASONS, commit, dropped.height, extra)

    residual = ResidualFilter.of(view.q, view.tau)
    agreement = token_agreement(residual.apply(view.blocks), kept, corpus.n_tokens)
    row = maker | {
        "config_id": chosen["config_id"],
        "arm": filter_arm,
        "target": target.name,
        "rho": rule.rho,
        "lam": rule.lam,
        "sketch_kind": kind,
        "features": rule.features,
        "d": len(residual.q),
        "q": residual.q.astype("<f4").tobytes(),
        "tau": residual.tau,
        "agreement": agreement,
        "view_factors": list(making.factors),
        "ngram_d": making.ngrams.d if making.ngrams else None,
        "ngram_idf": making.ngrams.idf.astype("<f8").tobytes() if making.ngrams else None,
        "improvement": head["improvement"],
        "lower_bound": head["lower_bound"],
    }
    commit = step.tables.write(
        tables.RESIDUAL_FILTER, pl.DataFrame([row], schema=tables.RESIDUAL_FILTER.schema), provenance
    )
    yield step.result(
        tables.RESIDUAL_FILTER, commit, 1, {"agreement_with_pruned_corpus": round(agreement, 4)}
    )


def load_maker(step: Step, kind: str) -> dict[str, Any]:
    """Pin what makes a sketch of a new text: the columns of `residual_filter` on sketcher, checkpoint and tokenizer."""
    import polars as pl

    sketcher = step.read(tables.SKETCHERS).filter(pl.col("sketch_kind") == kind).collect().row(0, named=True)
    tokenizer = step.read(tables.TOKENIZER).collect().row(0, named=True)
    checkpoints = step.read(tables.PROXY_CHECKPOINTS).filter(
        pl.col("checkpoint_id") == sketcher["checkpoint_id"]
    )
    checkpoint = checkpoints.collect().row(0, named=True)
    return {
        "sketch_d": sketcher["d"],
        "sketch_scale": sketcher["scale"],
        "sketch_config": sketcher["settings"],
        "checkpoint_id": sketcher["checkpoint_id"],
        "checkpoint_role": checkpoint["role"],
        "checkpoint_path": checkpoint["path"],
        "checkpoint_sha256": checkpoint["sha256"],
        "tokenizer_id": tokenizer["tokenizer_id"],
        "tokenizer_path": tokenizer["path"],
        "bos": tokenizer["bos"],
        "chunk_tokens": tokenizer["chunk_tokens"],
    }


def explain_dropped(
    corpus: "Corpus",
    given: "Ingredients",
    arms: "Arms",
    arm: str,
    view: "LinearView",
    worth: "NDArray[np.float64] | None",
    served: "TaskExtremes",
) -> "pl.DataFrame":
    """Return the rows of `drop_reasons` for what an arm left out, tasks as numbers.

    view: of the arm, or of the one behind the filter where the arm does not rank by one direction; worth: (n,) what it
    ranks by then, else None.
    """
    import numpy as np
    import polars as pl

    from grasp_pipeline.selection.constraints import ConstraintSet
    from grasp_pipeline.selection.reasons import drop_reasons

    shipped, kept, rooms = arms.row(arm), arms.membership(arm), given.rooms
    room = rooms.room()
    quotas = room.binding(kept) if isinstance(room, ConstraintSet) else None
    allowed = rooms.allowed(shipped["near_duplicates"]) | kept
    if quotas is not None:
        allowed &= quotas != "must_drop"
        if arms.constraints.unit == "document":
            quotas = np.where((quotas == "") & allowed, "document kept or dropped as one", quotas)
    budget = min(rooms.budget // shipped["repeats"], int(corpus.n_tokens[kept].sum()))
    reasons = drop_reasons(
        kept,
        view.alignment if worth is None else worth,
        corpus.n_tokens,
        budget,
        view.blocks,
        marginal=view.marginal if worth is None else None,
        tau=view.tau if worth is None else None,
        clusters=corpus.codes("cluster"),
        allowed=allowed,
        quotas=quotas,
        random_draw=shipped["family"] == "random-deduplicated",
    )
    ids = corpus.frame["chunk_id"].to_numpy()
    nearest = [ids[row] if row >= 0 else None for row in reasons.nearest_kept]
    return (
        corpus.frame[reasons.chunk]
        .select("chunk_id", "doc_id", "n_tokens", "source", "shard")
        .with_columns(
            reason=pl.Series(reasons.reason),
            margin=pl.Series(reasons.margin).fill_nan(None),
            value=pl.Series(reasons.value).fill_nan(None),
            threshold=pl.Series(reasons.threshold).fill_nan(None),
            alignment=pl.Series(view.alignment[reasons.chunk]),
            strongest_task=pl.Series(served.strongest[reasons.chunk]),
            strongest_value=pl.Series(served.strongest_value[reasons.chunk]),
            weakest_task=pl.Series(served.weakest[reasons.chunk]),
            weakest_value=pl.Series(served.weakest_value[reasons.chunk]),
            quota=pl.Series([name or None for name in reasons.quota.tolist()], dtype=pl.String),
            nearest_kept=pl.Series(nearest, dtype=pl.String),
            similarity=pl.Series(reasons.similarity).fill_nan(None),
        )
    )
