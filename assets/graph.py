"""All assets as one graph, and its edges as the lineage page shows them: no edge that a path says already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module

import dagster as dg

from assets.stages import APART, STAGES

MODULES = tuple(
    import_module(f"assets.{name}")
    for name in (
        *("corpus", "tokens", "proxy", "sketches", "protocol", "conditional", "selection", "publishing"),
        "curations",
        *("evidence", "filtering", "vision", "attribution"),
    )
)
"""In the order in which their steps follow one another."""


def load_assets() -> list[dg.AssetsDefinition]:
    """Return all assets, each with the dependencies that `shown_edges` leaves it."""
    edges = shown_edges(upstream(), [recurated()])
    found = dg.load_assets_from_modules(MODULES)
    return [
        each.map_asset_specs(lambda spec: spec.replace_attributes(deps=edges[spec.key.to_user_string()]))
        for each in found
        if isinstance(each, dg.AssetsDefinition)
    ]


def upstream() -> dict[str, list[str]]:
    """Return asset -> the assets that it waits for: what its stage reads or, after the first, the one before it."""
    found: dict[str, list[str]] = {}
    for stage in STAGES.values():
        before = stage.upstream()
        for name in stage.writes:
            found[name], before = before, [name]
    return found


def curated() -> set[str]:
    """Return the assets of the job `curate`."""
    return {name for stage in STAGES.values() if stage.group not in APART for name in stage.writes}


def recurated() -> set[str]:
    """Return the assets of the job `recurate`: those that it does not keep as they are."""
    kept = {name for stage in STAGES.values() if stage.kept for name in stage.writes}
    return curated() - kept


def shown_edges(edges: Mapping[str, list[str]], jobs: Iterable[set[str]]) -> dict[str, list[str]]:
    """Return the graph without the edges that a path implies, in the whole graph and in every job that has both ends.

    Dagster orders the steps of a run by the edges among them alone, so an edge stays where a job leaves out the path.
    """
    kept = {name: list(before) for name, before in edges.items()}
    for name, before in edges.items():
        for one in before:
            scopes = [set(edges), *(job for job in jobs if {name, one} <= job)]
            if all(_implied(edges, one, name, scope) for scope in scopes):
                kept[name].remove(one)
    return kept


def _implied(edges: Mapping[str, list[str]], start: str, end: str, scope: set[str]) -> bool:
    """Return whether a path of two edges or more leads from an asset to another within a scope."""
    waiting, seen = [each for each in edges[end] if each != start and each in scope], set()
    while waiting:
        name = waiting.pop()
        if start in edges.get(name, []):
            return True
        seen.add(name)
        waiting += [each for each in edges.get(name, []) if each in scope and each not in seen]
    return False
