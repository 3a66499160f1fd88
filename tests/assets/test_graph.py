"""The graph: what is declared is what is recorded, and the edges that are shown say all that there are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from workplace import Curated

from assets.graph import curated, recurated, shown_edges, upstream
from assets.stages import GROUPS, STAGES
from grasp_pipeline.definitions import defs
from grasp_pipeline.tables import ALL

Edges = dict[str, list[str]]


def before(edges: Edges, name: str, scope: set[str]) -> set[str]:
    """Return all ancestors within a scope, by walking."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        new = {each for each in edges.get(waiting.pop(), []) if each in scope} - found
        found |= new
        waiting += new
    return found


@given(st.lists(st.sets(st.integers(0, 6)), min_size=7, max_size=7), st.sets(st.integers(0, 6)))
def test_what_is_left_out_is_implied_in_the_graph_and_in_every_job(
    rows: list[set[int]], job: set[int]
) -> None:
    edges = {str(i): [str(j) for j in sorted(row) if j < i] for i, row in enumerate(rows)}
    scope = {str(i) for i in job}
    shown = shown_edges(edges, [scope])
    for name in edges:
        assert set(shown[name]) <= set(edges[name])
        assert before(shown, name, set(edges)) == before(edges, name, set(edges))
        if name in scope:
            assert before(shown, name, scope) >= set(edges[name]) & scope


def test_an_asset_waits_for_three_at_most_and_for_no_later_group() -> None:
    shown = shown_edges(upstream(), [recurated()])
    place = {
        name: GROUPS.index(each.group)
        for each in STAGES.values()
        if each.group in GROUPS
        for name in each.writes
    }
    for name in curated():
        assert len(shown[name]) <= 3, (name, shown[name])
        assert all(place[each] <= place[name] for each in shown[name]), name
    graph = defs.resolve_asset_graph()
    assert {
        key.to_user_string(): sorted(parent.to_user_string() for parent in graph.get(key).parent_keys)
        for key in graph.get_all_asset_keys()
    } == {name: sorted(each) for name, each in shown.items()}


def test_whatever_is_selected_runs_in_the_order_of_what_is_read() -> None:
    """Dagster starts the ready step of highest priority: with these, always one that waits for no other."""
    op = {name: stage for stage, each in STAGES.items() for name in each.writes}
    graph = defs.resolve_asset_graph()
    priority = {
        each.node_def.name: int(each.node_def.tags["dagster/priority"])
        for each in graph.assets_defs
        if each.keys
    }
    assert set(priority) == set(STAGES)
    assert len(set(priority.values())) == len(priority)
    for name, each in STAGES.items():
        assert all(priority[op[one]] > priority[name] for one in each.upstream()), name
    assert max(priority, key=lambda name: priority[name]) == "task_documents", (
        "small, and its faults are told first"
    )


@pytest.mark.slow
def test_every_commit_of_a_run_names_what_its_stage_declares(curated: Curated) -> None:
    """The upstream that is recorded is what was declared: nothing more, and nothing less but what is optional."""
    seen = set()
    for table in ALL.values():
        for commit in curated.place.delta.commits(table):
            stage = STAGES[commit.metadata["asset_key"]]
            reads = [tuple(label.split("/", 1)) for label in commit.reads]
            parts = [(name, dict([rest[0].split("=")] if rest else [])) for name, *rest in reads]
            declared = [stage.reading(name, part) for name, part in parts if name != "calibration_pool"]
            assert None not in declared, (stage.name, commit.reads)
            needed = {each for each in stage.reads if not each.optional and not each.carried}
            assert needed <= set(declared), (stage.name, table.name)
            seen.add(stage.name)
    apart = {"export", "report", "attribution_proof", "filtered_shards", "vision_fidelity"}
    assert seen >= set(STAGES) - apart
