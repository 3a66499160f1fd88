"""What a run is refused for before anything is trained: asked by its first steps, however it was launched.

What needs no corpus is asked by the first step of a run before it waits for another run, reads or writes; what needs
the chunks by the first step after they are written. Each is asked once in a process and run, and what the store says
again where it was waited for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.launches import about
from assets.launchpad import launched_config
from assets.partitions import names_shards
from assets.settings import refuse_ignored
from assets.stages import asked_before_turns, check_run_config, sections
from grasp_pipeline import tables
from grasp_pipeline.config import Section
from grasp_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from grasp_pipeline.calibration.budget import Budget
    from grasp_pipeline.config import FinalistsConfig
    from resources.delta.tables import DeltaTables
    from resources.store import DeltaStore

BEFORE_CHUNKS = ("manifest", "task_documents", "documents", "tokenizer", "tokenized_shards", "tasks")
"""Steps that the chunks are not there for yet."""

ABOUT_CHUNKS = ("candidates", "subsets", "finalists")
"""Steps that ask something of the chunks."""

_passed: set[tuple[str, str]] = set()


@asked_before_turns
def check_start(context: dg.AssetExecutionContext, store: DeltaStore, again: bool = False) -> None:
    """Refuse the run for what its configuration, the tasks' files, the device and the store say.

    Raises:
        ConfigError: a setting asks for what cannot be.
        InputError: the tasks' documents cannot be used.
        StoreError: a table is of another version.
    """
    steps = {node.name for node in context.job_def.nodes}
    if again:
        _start(context, steps, store)
    else:
        _once(context, "start", lambda: _begin(context, steps, store))


def check(context: dg.AssetExecutionContext, step: str, store: DeltaStore) -> None:
    """Refuse the run where it must fail later.

    Raises:
        ConfigError, InputError, StoreError: as `check_start`.
    """
    check_start(context, store)
    steps = {node.name for node in context.job_def.nodes}
    if step not in BEFORE_CHUNKS and steps.intersection(ABOUT_CHUNKS):
        _once(context, "chunks", lambda: _chunks(context, steps, store.tables))


def check_sources(context: dg.AssetExecutionContext, sources: Collection[str]) -> None:
    """Refuse floors and caps of sources that no document comes from, as soon as the sources are known.

    Raises:
        ConfigError: names the source and the nearest known one.
    """
    from grasp_pipeline.selection.preflight import unknown_sources

    finalists: Any = _section(context, "finalists")
    _refuse([unknown_sources(finalists.constraints, sources)])


def _once(context: dg.AssetExecutionContext, what: str, ask: Callable[[], None]) -> None:
    key = (context.run.run_id, what)
    if key not in _passed:
        ask()
        _passed.add(key)


def _refuse(faults: list[str | None]) -> None:
    if told := [
        fault if fault.endswith((".", "?")) else f"{fault}." for fault in faults if fault is not None
    ]:
        raise ConfigError(" ".join(told))


def _section(context: dg.AssetExecutionContext, step: str) -> Section:
    ops = launched_config(context.run.run_config, context.job_def).get("ops") or {}
    return sections()[step].model_validate((ops.get(step) or {}).get("config") or {})


def _begin(context: dg.AssetExecutionContext, steps: set[str], store: DeltaStore) -> None:
    """Say in the run's tags what it is about, and ask `_start`."""
    run = context.run
    run_config = launched_config(run.run_config, context.job_def)
    check_run_config(run_config.get("ops") or {})
    store.check_writable()
    context.instance.add_run_tags(run.run_id, about(run, run_config, steps))
    _start(context, steps, store)


def _start(context: dg.AssetExecutionContext, steps: set[str], store: DeltaStore) -> None:
    """Ask what needs the configuration, the tasks' files, the device and the tables' logs alone."""
    from assets.learned import check_learned
    from grasp_pipeline.corpus.export.write import check_destination
    from grasp_pipeline.corpus.tasks import read_tasks
    from grasp_pipeline.selection import preflight
    from grasp_pipeline.selection.certification.cross_fit import PICKS, REFITS

    run, delta = context.run, store.tables
    run_config = launched_config(run.run_config, context.job_def)
    refuse_ignored(run.tags, run.job_name, delta)
    faults: list[str | None] = [_no_shards(context)]
    if any(
        "compute" in node.required_resource_keys
        for node in context.job_def.all_node_defs
        if isinstance(node, dg.OpDefinition)
    ):
        faults.append(preflight.refusal(lambda: _use_device(run_config)))
    if "export" in steps:
        export: Any = _section(context, "export")
        faults.append(preflight.refusal(lambda: check_destination(export.formats, store.root)))
    if "finalists" in steps:
        finalists: Any = _section(context, "finalists")
        faults.append(preflight.no_retraining_left(finalists, PICKS * finalists.fresh_runs, REFITS))
        faults.append(preflight.refusal(lambda: check_learned(finalists)))
    if "sealed_evaluation" in steps and "subsets" not in steps:
        faults.append(_old_seal(delta))
    _refuse(faults)
    if "task_documents" in steps:
        wanted: Any = _section(context, "task_documents")
        tasks = read_tasks(wanted, store.storage_options).documents["task"].unique().to_list()
    elif delta.exists(tables.TASK_DOCUMENTS):
        read = delta.pin(tables.TASK_DOCUMENTS)
        tasks = (
            delta.read(tables.TASK_DOCUMENTS, read.version)
            .select("task")
            .unique()
            .collect()["task"]
            .to_list()
        )
    else:
        return
    if "candidates" in steps:
        protocol: Any = _section(context, "candidates")
        _refuse([preflight.wrong_target(protocol, tasks)])


def _no_shards(context: dg.AssetExecutionContext) -> str | None:
    """Return what to do where a launch makes shards and says of none which."""
    assets = context.job_def.asset_layer
    by_shard = [
        key for key in sorted(assets.selected_asset_keys) if assets.get(key).partitions_def is not None
    ]
    if not by_shard or names_shards(context.run.tags):
        return None
    return (
        f"{by_shard[0].to_user_string()} is made shard by shard, and this launch names no partition; launch the job "
        "curate or recurate from its Launchpad, which takes every shard, or choose partitions"
    )


def _use_device(run_config: Mapping[str, Any]) -> None:
    from resources.compute import Compute

    settings = ((run_config.get("resources") or {}).get("compute") or {}).get("config") or {}
    device = settings.get("device", "auto")
    Compute(device=os.environ[device["env"]] if isinstance(device, dict) else device).describe()


def _old_seal(delta: DeltaTables) -> str | None:
    from grasp_pipeline.selection.preflight import old_sealed_subsets

    sealed, chunks = (
        delta.latest(tables.SUBSETS, {"split": "evaluation"}),
        delta.latest(tables.TOKENIZED_SHARDS),
    )
    if sealed is None or chunks is None:
        return "There are no sealed subsets in the store yet; run the job curate first"
    drawn = delta.read(tables.SUBSETS, sealed.version, {"split": "evaluation"}).select("pool_version").head(1)
    return old_sealed_subsets(drawn.collect().item(), chunks.version)


def _chunks(context: dg.AssetExecutionContext, steps: set[str], delta: DeltaTables) -> None:
    """Ask what needs the chunks."""

    from assets.chunk_index import index_chunks
    from assets.finalists import make_feasible_sets
    from grasp_pipeline.selection import preflight

    read = delta.pin(tables.TOKENIZED_SHARDS)
    corpus = index_chunks(delta, read.version, delta.pin(tables.DOCUMENTS).version)
    budget = _budget(context, steps, delta)
    _refuse([preflight.impossible_budget(budget, corpus.total, corpus.documents)])
    tokens = budget.resolve(corpus.total, corpus.documents)
    faults: list[str | None] = []
    if "subsets" in steps:
        subsets: Any = _section(context, "subsets")
        faults.append(preflight.too_few_subsets(subsets, corpus, tokens))
    if "finalists" in steps:
        finalists: Any = _section(context, "finalists")
        faults.append(preflight.refusal(lambda: _constrain(finalists, make_feasible_sets, corpus, tokens)))
    _refuse(faults)


def _constrain(
    config: FinalistsConfig, make_feasible_sets: Callable[..., Any], corpus: object, tokens: int
) -> None:
    """Make the feasible sets that every finalist fills."""
    feasible_sets = make_feasible_sets(corpus, tokens, config.constraints, config.trust_share)
    feasible_sets.feasible_set()
    feasible_sets.feasible_set(trusted=True)


def _budget(context: dg.AssetExecutionContext, steps: set[str], delta: DeltaTables) -> Budget:
    from grasp_pipeline.calibration.budget import Budget

    if "candidates" in steps:
        asked: Any = _section(context, "candidates")
        return Budget(asked.budget_tokens, asked.budget_documents, asked.budget_fraction)
    row = delta.read(tables.CANDIDATES, delta.pin(tables.CANDIDATES).version).head(1).collect()
    return Budget.of(row.row(0, named=True))
