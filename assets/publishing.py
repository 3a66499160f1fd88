"""What ships: the certified corpus, the reason for everything that was dropped, and the filter for what comes next."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.stages import Reading, stage
from assets.step import Step
from grasp_pipeline import tables
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.names import RANDOM
from resources.notes import CertificatesNote, ConditionalNote
from resources.store import DeltaStore

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from assets.data import StoredPool
    from assets.finalists import Arms
    from grasp_pipeline.selection.candidates.context import LinearView, SelectionContext
    from grasp_pipeline.selection.candidates.family import Choice, Ranking
    from grasp_pipeline.selection.explanation.reasons import TaskExtremes
    from grasp_pipeline.selection.explanation.residual_filter import FeatureView
    from resources.delta.commits import Commit, Provenance


MOST_ROWS = 200
"""Rows of a table in the event log."""


def account_table(counts: "pl.DataFrame") -> dg.TableMetadataValue:
    """Return what became of every source's chunks, the sources of most tokens first, as a table for the log."""
    import polars as pl

    largest = counts.sort(pl.col("tokens").sum().over("source"), descending=True, maintain_order=True)
    rows = largest.with_columns(pl.col("share").round(4)).head(MOST_ROWS)
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows.iter_rows(named=True)])


@stage(
    group="publication",
    kinds={"numpy", "deltalake"},
    code_version="6",
    reads=[
        tables.CERTIFICATES,
        tables.CANDIDATES,
        tables.SELECTED_CONFIG,
        Reading(tables.TASKS, "query"),
        tables.TOKENIZED_SHARDS,
        tables.DOCUMENTS,
        tables.FINALISTS,
        tables.REFITTED_FINALISTS,
        Reading(tables.SUBSETS, "finalist", maker="finalists"),
        Reading(tables.SUBSETS, "refit", maker="refitted_finalists", optional=True),
        Reading(tables.GRADIENT_SKETCHES, by="sketch_kind"),
        tables.TASK_SKETCHES,
        tables.CONDITIONAL_LOSSES,
        tables.SKETCHERS,
        tables.TOKENIZER,
        tables.PROXY_CHECKPOINTS,
    ],
    writes={
        tables.PRUNED_CORPUS: "The chunks to train on, best first.",
        tables.DROP_REASONS: "Why every other chunk was dropped, by which score, and the kept chunk most like it.",
        tables.RESIDUAL_FILTER: "The shipped arm's own score and its threshold, which score tomorrow's shards one "
        "chunk at a time.",
    },
)
def pruned_corpus(context: dg.AssetExecutionContext, store: DeltaStore) -> Iterator[dg.MaterializeResult]:
    """Publish the certified corpus, the reasons and the filter."""
    import numpy as np
    import polars as pl

    from assets.data import load_corpus
    from assets.finalists import (
        load_finalists,
        load_selection_context,
        load_target,
        make_feasible_sets,
        task_directions,
    )
    from assets.learned import load_learned
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.report.accounts import account
    from grasp_pipeline.selection.candidates.context import linear_view
    from grasp_pipeline.selection.candidates.families import FAMILIES
    from grasp_pipeline.selection.explanation.reasons import extremes_of, task_extremes
    from grasp_pipeline.selection.explanation.residual_filter import FeatureView

    step = Step(context, store)
    certificates = step.read(tables.CERTIFICATES).collect()
    protocol = step.read(tables.CANDIDATES).collect().row(0, named=True)
    chosen = step.read(tables.SELECTED_CONFIG).collect().row(0, named=True)
    target, kind = load_target(step, protocol), chosen["sketch_kind"]
    head = certificates.filter(pl.col("task") == target.name, pl.col("baseline") == RANDOM).row(0, named=True)
    settings = step.tables.latest(tables.CERTIFICATES)
    assert settings is not None, "pinned above"
    if not head["certified"] and not CertificatesNote.of(settings).allow_uncertified:
        from assets.curations import record_refusal
        from assets.turns import turn_of

        with turn_of(context, store, [tables.CURATIONS.name]):
            record_refusal(step)
        raise ConfigError(
            f"{head['statement']} Nothing is published; set finalists.allow_uncertified to publish all the same."
        )
    corpus = load_corpus(step)
    arms = load_finalists(step, corpus)
    step.pin(tables.GRADIENT_SKETCHES, {"sketch_kind": kind})
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

    budget = Budget.of(protocol).resolve(corpus.total, corpus.documents)
    feasible_sets = make_feasible_sets(corpus, budget, arms.constraints, arms.settings.trust_share)
    learned = load_learned(step, arms.settings.learned)
    selection = load_selection_context(step, corpus, kind, target, feasible_sets, learned=learned)
    kept, shipped = arms.membership(head["arm"]), arms.row(head["arm"])
    linear = head["arm"] if shipped["features"] else arms.nearest_linear(kept, corpus.n_tokens)
    rule = arms.linear(linear)
    assert rule is not None, "a linear arm has one"
    allowed = feasible_sets.allowed(arms.row(linear)["near_duplicates"])
    view = linear_view(selection, rule, arms.membership(linear), allowed)
    choice = chosen_by(shipped, kept, selection)
    ranked = FAMILIES[shipped["family"]].ranking(selection, choice)
    if ranked is not None:
        worth = ranked.values if ranked.marginal is None else ranked.marginal
    else:
        worth = view.marginal if linear == head["arm"] else view.alignment

    making = FeatureView.of(view.blocks, lambda: selection.ngrams)
    task_names, directions = task_directions(step, selection, rule, making, kind)
    names = np.array(task_names)
    if ranked is not None and ranked.by_task is not None:
        served = extremes_of(ranked.by_task)
    else:
        served = task_extremes(view.blocks, directions)

    order = np.flatnonzero(kept)
    order = order[np.argsort(-worth[order], kind="stable")]
    pruned = (
        corpus.named(order)
        .rename({"n_tokens": "kept_tokens"})
        .with_columns(
            repeats=pl.lit(shipped["repeats"], pl.Int64),
            marginal_value=pl.Series(worth[order]),
            order=pl.int_range(pl.len()),
            top_task=pl.Series(names[served.strongest[order]]),
            top_task_value=pl.Series(served.strongest_value[order]),
        )
    )
    commit = publish(step, tables.PRUNED_CORPUS, pruned, provenance)
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

    dropped = explain_dropped(corpus, selection, arms, head["arm"], view, ranked, served)
    dropped = dropped.with_columns(
        strongest_task=pl.Series(names[dropped["strongest_task"].to_numpy()]),
        weakest_task=pl.Series(names[dropped["weakest_task"].to_numpy()]),
    )
    commit = publish(step, tables.DROP_REASONS, dropped, provenance)
    counts = dict(dropped.group_by("reason").len().sort("reason").iter_rows())
    extra = {
        "reasons": dg.MetadataValue.json(counts),
        "by_source_and_reason": account_table(account(pruned, dropped)),
    }
    yield step.result(tables.DROP_REASONS, commit, dropped.height, extra)

    row, warning = filter_row(step, selection, arms, head, linear, view, making)
    row |= maker | {"config_id": chosen["config_id"], "target": target.name, "sketch_kind": kind}
    if warning:
        context.log.warning(warning)
    commit = publish(
        step, tables.RESIDUAL_FILTER, pl.DataFrame([row], schema=tables.RESIDUAL_FILTER.schema), provenance
    )
    extra = {
        "filter_kind": row["filter_kind"],
        "arm": row["arm"],
        "agreement_over_kept_tokens": round(row["agreement"], 4),
        "certificate": warning or "That of the shipped corpus.",
    }
    yield step.result(tables.RESIDUAL_FILTER, commit, 1, extra)


def publish(step: Step, table: "tables.Table", frame: "pl.DataFrame", provenance: "Provenance") -> "Commit":
    """Write a published table with the number of its curation in every row.

    Rows that are published already keep their number; others get the next one. `curations`, which decides it, writes
    another one over it where it must.
    """
    import polars as pl

    from assets.curations import next_number

    def numbered(number: int | None) -> "pl.DataFrame":
        return frame.with_columns(curation=pl.lit(number, pl.Int64))

    last = step.tables.latest(table)
    before = None
    if last is not None:
        before = step.tables.read(table, last.version).select(pl.col("curation").max()).collect().item()
    if before is None or not step.tables.holds(table, numbered(before)):
        before = next_number(step.tables)
    return step.tables.write(table, numbered(before), provenance)


def chosen_by(shipped: dict[str, Any], kept: "NDArray[np.bool_]", selection: "SelectionContext") -> "Choice":
    """Return what its family needs to explain the arm of a row of `finalists`, whose corpus is kept (n,)."""
    from grasp_pipeline.selection.candidates.family import Choice

    return Choice(kept, selection.feasible_sets.allowed(shipped["near_duplicates"]), shipped["rho"])


def filter_row(
    step: Step,
    selection: "SelectionContext",
    arms: "Arms",
    head: dict[str, Any],
    linear: str,
    view: "LinearView",
    making: "FeatureView",
) -> tuple[dict[str, Any], str]:
    """Return what `residual_filter` says of the shipped arm's filter, and why it has no certificate, or "".

    head: the certificate that ships; linear, view, making: the shipped arm where it ranks by one direction, else the
    linear arm that kept most of the same tokens, which filters where the shipped arm cannot.
    """
    from grasp_pipeline.selection.candidates.families import FAMILIES
    from grasp_pipeline.selection.explanation.chunk_filter import (
        AGREEMENT_FLOOR,
        ChunkInputs,
        agreement,
        direction_filter,
    )
    from grasp_pipeline.sketch.storage import encode_vector

    arm, shipped = head["arm"], arms.row(head["arm"])
    kept = arms.membership(arm)
    family, rule = FAMILIES[shipped["family"]], arms.linear(linear)
    assert rule is not None, "a linear arm has one"
    found = None if linear == arm else family.filter(selection, chosen_by(shipped, kept, selection))
    directed = found is None
    filtering = linear if found is None else arm
    found = found or direction_filter(view.q, view.tau, rule.rho)
    features = view.blocks if directed else selection.blocks
    inputs = ChunkInputs(selection.chunks, features, selection.losses, selection.conditional)
    agreed = agreement(found, inputs, kept)
    warning = ""
    if filtering != arm:
        warning = f"The corpus that ships is {arm}, which gives a single new chunk no score"
    elif agreed < AGREEMENT_FLOOR:
        warning = f"The filter decides chunk by chunk and cannot repeat all that {arm} kept"
    if warning:
        warning += (
            f": the filter of {filtering} and the pruned corpus have {agreed:.2f} of the kept tokens in common. The "
            f"certificate is not the filter's; only the shipped arm's own, from {AGREEMENT_FLOOR:g} on, carries it."
        )
    row = {
        "filter_kind": found.kind,
        "arm": filtering,
        "shipped_arm": arm,
        "offset": found.offset,
        "tau": found.tau,
        "loss_centre": found.loss_centre,
        "reduction_weight": found.reduction_weight,
        "agreement": agreed,
        "improvement": None if warning else head["improvement"],
        "lower_bound": None if warning else head["lower_bound"],
    }
    if found.q is not None:
        row |= {
            "rho": found.rho,
            "lam": rule.lam if directed else 0.0,
            "features": rule.features if directed else "gradient",
            "d": len(found.q),
            "q": encode_vector(found.q),
            "view_factors": list(making.factors) if directed else [1.0],
        }
        if directed and making.ngrams is not None:
            ngrams = making.ngrams
            row |= {"ngram_d": ngrams.d, "ngram_idf": ngrams.idf.astype("<f8").tobytes()}
    if found.ngrams is not None:
        row |= {"ngram_table": encode_vector(found.ngrams), "per_token": found.per_token}
    if found.events is not None:
        row |= {
            "event_keys": found.events.keys.astype("<i8").tobytes(),
            "event_values": encode_vector(found.events.values),
        }
    if found.reduction_weight is not None:
        tuned = step.tables.latest(tables.CONDITIONAL_LOSSES)
        assert tuned is not None, "pinned before"
        row |= ConditionalNote.of(tuned).model_dump(include={"tuned_path", "tuned_sha256"})
    return row, warning


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
    corpus: "StoredPool",
    selection: "SelectionContext",
    arms: "Arms",
    arm: str,
    view: "LinearView",
    ranked: "Ranking | None",
    served: "TaskExtremes",
) -> "pl.DataFrame":
    """Return the rows of `drop_reasons` for what an arm left out, tasks as numbers.

    view: of the arm, or of a linear one like it where the arm does not rank by one direction; ranked: what it ranks by
    then, None where it is a linear arm or a draw.
    """
    import numpy as np
    import polars as pl

    from grasp_pipeline.selection.candidates.families import FAMILIES
    from grasp_pipeline.selection.candidates.family import NOTHING
    from grasp_pipeline.selection.constraints.constraint_set import ConstraintSet
    from grasp_pipeline.selection.explanation.reasons import ALIGNMENT, drop_reasons

    shipped, kept, feasible_sets = arms.row(arm), arms.membership(arm), selection.feasible_sets
    feasible = feasible_sets.feasible_set()
    quotas = feasible.binding(kept) if isinstance(feasible, ConstraintSet) else None
    allowed = feasible_sets.allowed(shipped["near_duplicates"]) | kept
    if quotas is not None:
        allowed &= quotas != "must_drop"
        if feasible.unit is not None:
            quotas = np.where((quotas == "") & allowed, "document kept or dropped as one", quotas)
    marginal, tau = (None, None) if ranked is None else (ranked.marginal, ranked.tau)
    if shipped["features"] is not None:
        marginal, tau = view.marginal, view.tau
    budget = min(feasible_sets.budget // shipped["repeats"], int(corpus.n_tokens[kept].sum()))
    reasons = drop_reasons(
        kept,
        view.alignment if ranked is None else ranked.values,
        corpus.n_tokens,
        budget,
        selection.blocks,
        marginal=marginal,
        tau=tau,
        clusters=corpus.cluster,
        allowed=allowed,
        quotas=quotas,
        random_draw=FAMILIES[shipped["family"]].ranks_by == NOTHING,
        score_name=ALIGNMENT if ranked is None else ranked.name,
    )
    some = reasons.nearest_kept >= 0
    nearest = np.full(len(some), None, dtype=object)
    nearest[some] = corpus.keys.ids(reasons.nearest_kept[some])
    return corpus.named(reasons.chunk).with_columns(
        reason=pl.Series(reasons.reason),
        margin=pl.Series(reasons.margin).fill_nan(None),
        value=pl.Series(reasons.value).fill_nan(None),
        threshold=pl.Series(reasons.threshold).fill_nan(None),
        score=pl.Series([name or None for name in reasons.score.tolist()], dtype=pl.String),
        alignment=pl.Series(view.alignment[reasons.chunk]),
        strongest_task=pl.Series(served.strongest[reasons.chunk]),
        strongest_value=pl.Series(served.strongest_value[reasons.chunk]),
        weakest_task=pl.Series(served.weakest[reasons.chunk]),
        weakest_value=pl.Series(served.weakest_value[reasons.chunk]),
        quota=pl.Series([name or None for name in reasons.quota.tolist()], dtype=pl.String),
        nearest_kept=pl.Series(nearest.tolist(), dtype=pl.String),
        similarity=pl.Series(reasons.similarity).fill_nan(None),
    )
