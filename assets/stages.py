"""What every asset declares, once: what it reads and writes, its configuration, and whether `recurate` keeps it.

A stage is one Dagster op that writes one table or a few. Dependencies, pinned reads, the steps of jobs, the sections of
a run configuration and the terminal's table of times all derive from `STAGES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import dagster as dg

from assets.partitions import ONE_RUN
from assets.sentences import telling
from grasp_pipeline.columns import meaning
from grasp_pipeline.config import Section, validate_run_config
from grasp_pipeline.tables import ALL, BY_SPLIT, Table

OWNERS = ["team:data-curation"]
GPU_POOL = "gpu"

GROUPS = (
    "corpus",
    "tokens",
    "proxy",
    "sketches",
    "calibration",
    "selection",
    "publication",
    "evidence",
    "filtering",
    "vision",
    "attribution",
)
"""The lineage page from left to right, and what has a job of its own."""

APART = ("vision", "filtering", "attribution")
"""Groups with a job of their own."""


@dataclass(frozen=True)
class Reading:
    """One table that a stage reads.

    Attributes:
        table: what is read.
        split: the rows of one split alone.
        by: column by whose values, known when the step runs, parts are read: a sketch kind, a shard.
        maker: asset whose rows these are, where it is not the one that the table is named after.
        optional: read in some configurations, or where there is something to read.
        carried: read at the version that an earlier run left; it comes later in the graph.
    """

    table: Table
    split: str = ""
    by: str = ""
    maker: str = ""
    optional: bool = False
    carried: bool = False

    def covers(self, table: str, partition: Mapping[str, str]) -> bool:
        """Return whether a read of (part of) a table is this one."""
        keys = {"split": self.split} if self.split else dict.fromkeys([self.by] if self.by else [])
        same = all(
            value is None or partition[key] == value for key, value in keys.items() if key in partition
        )
        return table == self.table.name and set(keys) == set(partition) and same

    @property
    def partition(self) -> dict[str, str]:
        """The part that is read, where it is known before the step runs."""
        return {"split": self.split} if self.split else {}


@dataclass(frozen=True)
class Stage:
    """What one op declares; see `stage`."""

    name: str
    code_version: str
    reads: tuple[Reading, ...] = ()
    writes: tuple[str, ...] = ()
    group: str = ""
    section: type[Section] | None = None
    kept: bool = False

    def reading(self, table: str, partition: Mapping[str, str]) -> Reading | None:
        """Return the declaration that a read falls under, None for one that was not declared."""
        return next((each for each in self.reads if each.covers(table, partition)), None)

    def upstream(self) -> list[str]:
        """Return the assets that this stage waits for."""
        found = dict.fromkeys(each.maker or each.table.name for each in self.reads if not each.carried)
        return [name for name in found if name not in self.writes]


def column_schema(table: Table) -> dg.TableSchema:
    """Return a table's columns with their types and meanings, its key marked unique where it is one column."""
    columns = []
    for name, dtype in table.schema.items():
        alone = table.key == (name,)
        columns.append(
            dg.TableColumn(
                name,
                str(dtype),
                description=meaning(table, name),
                constraints=dg.TableColumnConstraints(nullable=name not in table.key, unique=alone),
                tags={"key": ""} if name in table.key else {},
            )
        )
    return dg.TableSchema(columns=columns)


STAGES: dict[str, Stage] = {}
"""Every stage by the name of its op, in the order in which the modules of `assets` declare them."""


def stage(
    *,
    group: str,
    kinds: set[str],
    code_version: str,
    writes: Mapping[Table, str] | str,
    reads: Sequence[Table | Reading] = (),
    kept: bool = False,
    **dagster: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Declare an asset, or a few that one step makes together; `dagster` goes to `dagster.multi_asset` as it is.

    Any asset of a step can be selected alone. The step makes all of them even then, so those that were not selected
    are logged as materialized too: their tables have changed.

    Args:
        group, kinds, code_version: as Dagster has them.
        writes: table -> description, in the order in which they are written; a description alone for an asset that
            writes files, or rows of a table that is named otherwise.
        reads: tables, and parts of tables, that the step pins before it writes anything.
        kept: whether `recurate` leaves the stage as it is.
        dagster: pool and partitions.

    Raises:
        ValueError: a table with a sealed split is read whole.
    """

    def declare(make: Callable[..., Any]) -> dg.AssetsDefinition:
        name = make.__name__
        texts = {name: writes} if isinstance(writes, str) else {t.name: text for t, text in writes.items()}
        readings = tuple(each if isinstance(each, Reading) else Reading(each) for each in reads)
        for each in readings:
            if each.table.name in BY_SPLIT and not each.split:
                raise ValueError(f"{name} reads {each.table.name} whole; name the split that it needs")
        config = inspect.get_annotations(make, eval_str=True).get("config")
        # In a run that leaves out what lies between two steps, their order is that of the groups and the modules.
        place = 100 * GROUPS.index(group) + sum(each.group == group for each in STAGES.values())
        mine = STAGES[name] = Stage(name, code_version, readings, tuple(texts), group, config, kept)
        specs, before = [], mine.upstream()
        for key, text in texts.items():
            specs.append(
                dg.AssetSpec(
                    key,
                    group_name=group,
                    kinds=kinds,
                    owners=OWNERS,
                    code_version=code_version,
                    metadata={"dagster/column_schema": column_schema(ALL[key])} if key in ALL else {},
                    deps=before,
                    description=text,
                )
            )
            before = [key]
        make = telling(_in_turn(make, dagster.get("partitions_def") is not None))
        return dg.multi_asset(
            name=name,
            specs=specs,
            can_subset=len(specs) > 1,
            backfill_policy=ONE_RUN,
            op_tags={"dagster/priority": str(-place)},
            **dagster,
        )(_selected_alone(make) if len(specs) > 1 else make)

    return declare


Question = Callable[[Any, Any, bool], None]
"""Takes a step's context, the store, and whether it is asked again; raises where the run must be refused."""

Asked = TypeVar("Asked", bound=Question)

_questions: list[Question] = []


def asked_before_turns(question: Asked) -> Asked:
    """Have every step ask something before it waits for its turn, and again where it had to wait."""
    _questions.append(question)
    return question


def _in_turn(make: Callable[..., Any], by_shard: bool) -> Callable[..., Any]:
    """Return a step that waits until other runs have left it; by_shard: until they have left the same shards."""
    from assets.turns import turn

    @contextmanager
    def held(context: Any, store: Any) -> Iterator[None]:
        for ask in _questions:
            ask(context, store, False)
        with turn(context, store, by_shard) as waited:
            for ask in _questions if waited else ():
                ask(context, store, True)
            yield

    @wraps(make)
    def whole(context: Any, **given: Any) -> Any:
        with held(context, given["store"]):
            return make(context, **given)

    @wraps(make)
    def piece_by_piece(context: Any, **given: Any) -> Iterator[Any]:
        with held(context, given["store"]):
            yield from make(context, **given)

    return piece_by_piece if inspect.isgeneratorfunction(make) else whole


def _selected_alone(make: Callable[..., Iterator[dg.MaterializeResult]]) -> Callable[..., Any]:
    @wraps(make)
    def chosen(context: dg.AssetExecutionContext, **given: Any) -> Iterator[dg.MaterializeResult]:
        for result in make(context, **given):
            key = result.asset_key
            if key in context.selected_asset_keys:
                yield result
            elif key is not None:
                context.log_event(dg.AssetMaterialization(key, metadata=result.metadata))

    return chosen


def sections() -> dict[str, type[Section]]:
    """Return the section of every step that takes a configuration (`ops: NAME: config:`)."""
    return {name: each.section for name, each in STAGES.items() if each.section is not None}


def asked_sections(ops: Mapping[str, Any]) -> dict[str, type[Section]]:
    """Return the sections that a run's `ops` give, and those that have a default for everything."""
    return {
        name: section
        for name, section in sections().items()
        if name in ops or not any(field.is_required() for field in section.model_fields.values())
    }


def check_run_config(ops: Mapping[str, Any], steps: Collection[str] | None = None) -> None:
    """Check every section of a run's `ops` and, where the steps that there are are given, the names of its steps.

    Raises:
        ConfigError: see `validate_run_config`.
    """
    validate_run_config(ops, asked_sections(ops), steps)
