"""Whether constraints can be met together, decided before anything is computed, and if not, in words, the ways out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor

import numpy as np

from grasp_pipeline.arrays import Bools, Floats
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.selection.constraints.quotas import spend
from grasp_pipeline.selection.constraints.relaxation import (
    BUDGET,
    CAPS,
    DROP,
    FLOORS,
    KEEP,
    KINDS,
    Program,
    Relaxed,
)
from grasp_pipeline.selection.constraints.spec import ConstraintSpec

_TOLERANCE = 1e-9
"""Slack, as a share of the budget, that counts as none."""
_PRICE = 1e-6
"""Dual price, in tokens of slack per token, that counts as none."""
_SMALL = 1e-6
"""Tokens that count as none in a message."""
_TRIES = 20
"""Most steps to a budget that stands."""
_LENGTHS = 20
"""Most lengths of units longer than the budget that are tried as a larger budget."""


def feasible_start(spec: ConstraintSpec) -> Floats:
    """Return (m open units,) tokens of a feasible point of the quotas.

    Raises:
        ConfigError: there is none; names the demands in conflict and the smallest relaxation of each kind.
    """
    program = Program(spec, split=True)
    found = program.least()
    if found.total > _TOLERANCE * spec.budget and program.quotas.crossing.any():
        program = Program(spec)
        found = program.least()
    if found.total > _TOLERANCE * spec.budget:
        raise ConfigError(_explain(spec, program, found))
    quotas = program.quotas
    amount = np.zeros(len(quotas.tokens))
    exactly = replace(quotas, budget=float(found.listed.sum()), floor=found.listed, cap=found.listed)
    amount += spend(exactly, program.order, program.offer)
    amount[program.units] = quotas.tokens[program.units] * np.clip(found.crossing, 0.0, 1.0)
    return amount


def _explain(spec: ConstraintSpec, program: Program, found: Relaxed) -> str:
    """Return the message: what is in conflict, by how much, what the sources hold, and the ways out."""
    wanting = found.need > _PRICE
    parties, kinds = _parties(spec, program, found)
    text = (
        f"these constraints cannot be met together: {_listed(parties)}; they miss by {_tokens(found.total)}"
    )
    if wanting.any() and not len(program.units):
        most = program.reach + program.kept
        held = [f"{spec.names[i]} {most[i]:,.0f}" for i in _where(wanting)]
        text += f" (at most can be kept: {', '.join(held)})"
    stuck = spec.too_long & ~spec.keep & ~spec.drop & wanting[spec.source]
    if stuck.any():
        text += (
            f". Longer than the budget, their source's cap or the cluster maximum, and so never kept whole: "
            f"{_count(int(stuck.sum()), spec.unit)} of {_tokens(spec.tokens[stuck].sum())} in all"
        )
    ways = [_way_alone(spec, program, kind) for kind in kinds]
    if (spec.by_source(spec.open) - program.reach)[wanting].any():
        ways.append(_raise_clusters(spec))
    if stuck.any() and not any(way.startswith("raise the budget") for way in ways):
        ways.append(_budget_for_longer(spec, stuck))
    ways = [way for way in ways if way]
    if not ways:
        ways = [_several_ways(spec, found)]
    return f"{text}. The smallest change that works: {'; or '.join(ways)}"


def _parties(spec: ConstraintSpec, program: Program, found: Relaxed) -> tuple[list[str], list[str]]:
    """Return the demands in conflict in words, and the kinds of relaxation that could help."""
    names, budget = spec.names, spec.budget
    wanting, crowded = found.need > _PRICE, found.need < -_PRICE
    parties: list[str] = []
    kinds: list[str] = []
    if abs(found.budget_price) > _PRICE:
        kinds.append(BUDGET)
        parties.append(f"the budget of {_tokens(budget)}")
    for kind, prices, bound, word in (
        (FLOORS, found.floor_price, spec.floor, "floor"),
        (CAPS, found.cap_price, spec.cap, "cap"),
    ):
        if tight := _where(np.abs(prices) > _PRICE):
            kinds.append(kind)
            amounts = bound.tokens(budget)
            items = [f"{names[i]} ({_tokens(amounts[i])})" for i in tight]
            parties.append(f"the {word}{'s' if len(tight) > 1 else ''} of {_listed(items)}")
    for kind, held in ((KEEP, program.kept[crowded]), (DROP, program.dropped[wanting])):
        if held.any():
            kinds.append(kind)
            parties.append(f"{_called(spec, kind)} ({_tokens(held.sum())})")
    if (spec.by_source(spec.open) - program.reach)[wanting].any():
        parties.append(f"the cluster maximum of {_cluster_limit(spec)}")
    return parties, kinds


def _way_alone(spec: ConstraintSpec, program: Program, kind: str) -> str:
    """Return the least relaxation of one kind as an instruction; empty where it alone does not suffice."""
    if kind != BUDGET:
        found = program.solve([kind])
        return "" if found is None else _way(spec, kind, found)
    budget = _budget_that_works(spec)
    return _budget_way(spec, budget) if budget else ""


def _budget_that_works(spec: ConstraintSpec) -> int:
    """Return the nearest budget found that meets all other demands, or 0.

    Another budget moves the shares of it and what is longer than it, so the step is repeated until it stands.
    """
    for _ in range(_TRIES):
        found = Program(spec).solve([BUDGET])
        budget = 0 if found is None else _moved_budget(spec, found)
        if budget <= 0 or budget == spec.budget:
            return budget
        spec = replace(spec, budget=budget)
    return 0


def _moved_budget(spec: ConstraintSpec, found: Relaxed) -> int:
    up, down = found.slack[BUDGET]
    if up > down:
        return _ceil(spec.budget + up)
    return max(0, floor(spec.budget - down + _SMALL))


def _several_ways(spec: ConstraintSpec, found: Relaxed) -> str:
    """Return the least relaxation of several kinds at once as an instruction."""
    moved, budget = spec, _moved_budget(spec, found)
    for _ in range(_TRIES):
        if budget in (0, moved.budget):
            break
        moved = replace(moved, budget=budget)
        found = Program(moved).least()
        budget = _moved_budget(moved, found)
    if moved.budget != budget:
        return f"give up some of them: with all, no {spec.unit} can be kept"
    moves = [_way(moved, kind, found) for kind in KINDS[1:] if found.slack[kind].sum() > _SMALL]
    if budget != spec.budget:
        moves.insert(0, _budget_way(spec, budget))
    return " and ".join(moves)


def _budget_way(spec: ConstraintSpec, budget: int) -> str:
    return f"{'raise' if budget > spec.budget else 'lower'} the budget to {_tokens(budget)}"


def _budget_for_longer(spec: ConstraintSpec, stuck: Bools) -> str:
    """Return how to raise the budget so that some of the units that are too long for it can be kept; or empty."""
    lengths = np.unique(spec.tokens[stuck & (spec.tokens > spec.budget)])[:_LENGTHS]
    tried = (_budget_that_works(replace(spec, budget=int(length))) for length in lengths)
    budgets = [budget for budget in tried if budget > spec.budget]
    return f"raise the budget to {_tokens(min(budgets))}" if budgets else ""


def _way(spec: ConstraintSpec, kind: str, found: Relaxed) -> str:
    """Return one kind's part of a relaxation, other than the budget's, as an instruction."""
    slack, names, budget = found.slack[kind], spec.names, spec.budget
    moved = [i for i in range(len(names)) if slack[i] > _SMALL]
    total = f"{_ceil(slack.sum()):,}"
    if kind in (KEEP, DROP):
        where = ", ".join(f"{names[i]} {_ceil(slack[i]):,}" for i in moved)
        return f"take at least {total} tokens out of {_called(spec, kind)} ({where})"
    if kind == FLOORS:
        least = spec.floor.tokens(budget) - slack
        # An amount of 1 would be read as a share.
        moves = [f"{names[i]} to {floor(least[i] + _SMALL) if least[i] >= 2 else 0:,}" for i in moved]
        word = "lower the floor"
    else:
        most = spec.cap.tokens(budget) + slack
        moves = [f"{names[i]} to {max(2, _ceil(most[i])):,}" for i in moved]
        word = "raise the cap"
    return f"{word}{'s' if len(moved) > 1 else ''} of {_listed(moves)} tokens ({total} in all)"


def _called(spec: ConstraintSpec, kind: str) -> str:
    return spec.dropping if kind == DROP else kind


def _raise_clusters(spec: ConstraintSpec) -> str:
    """Return the least cluster maximum that works with everything else as it is; empty where none does."""
    by_count = spec.cluster_units is not None
    name = "cluster_units" if by_count else "cluster_tokens"
    assert spec.cluster is not None, "a limit was found to bind"
    sizes = np.bincount(spec.cluster, None if by_count else spec.tokens)

    def works(limit: int) -> bool:
        return Program(replace(spec, **{name: limit})).solve([]) is not None

    low, high = int(getattr(spec, name)), int(sizes.max())
    if not works(high):
        return ""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return f"raise the cluster maximum to {_cluster_limit(replace(spec, **{name: high}))}"


def _cluster_limit(spec: ConstraintSpec) -> str:
    if spec.cluster_units is not None:
        return _count(spec.cluster_units, spec.unit)
    return _tokens(spec.cluster_tokens or 0)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _tokens(amount: float) -> str:
    digits = 0 if abs(amount - round(amount)) < _SMALL else 1
    return f"{amount:,.{digits}f} tokens"


def _listed(items: Sequence[str]) -> str:
    """Return items as `a, b and c`; of many, the first eight."""
    if len(items) > 8:
        items = [*items[:8], f"{len(items) - 8} more"]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _where(which: Bools) -> list[int]:
    return np.nonzero(which)[0].tolist()


def _ceil(tokens: float) -> int:
    return ceil(tokens - _SMALL)
