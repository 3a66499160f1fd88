"""What a corpus is selected for: one task, the weighted mean of several, or the worst of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Floats, Ints, TokenLists
from grasp_pipeline.errors import ConfigError, nearest
from grasp_pipeline.names import MEAN, WORST
from grasp_pipeline.selection.solver.worst_task import normalised_weights


@dataclass(frozen=True)
class Target:
    """name: a task, `mean` or `worst`; tasks: all T of them, sorted; weights: (T,), their sum is 1.

    Tasks of weight 0 do not count. For `worst` the weights are the gains wanted, relative to each other.
    """

    name: str
    tasks: tuple[str, ...]
    weights: Floats

    @classmethod
    def of(cls, name: str, tasks: Sequence[str], task_weights: Mapping[str, float] | None = None) -> Target:
        """Return the target of a name and weights by task, none of which means: all equal.

        Raises:
            ConfigError: the name or a weight is of no task.
        """
        known = tuple(sorted(set(tasks) - {MEAN, WORST}))
        if name in (MEAN, WORST):
            return cls(name, known, normalised_weights(known, dict(task_weights or {})))
        if name not in known:
            raise ConfigError(
                f"candidates.target is {name!r}, which is no task; {nearest(name, (MEAN, WORST, *known))}"
            )
        return cls(name, known, np.array([float(task == name) for task in known]))

    @property
    def worst(self) -> bool:
        """Whether the least gain of a task is what counts."""
        return self.name == WORST

    def shares(self) -> dict[str, float]:
        """Return the weight of every task in a mean over tasks; empty where all count alike."""
        if self.name not in (MEAN, WORST) or np.ptp(self.weights) == 0:
            return {}
        return dict(zip(self.tasks, self.weights.tolist(), strict=True))

    @property
    def counted(self) -> list[str]:
        """Tasks that count."""
        return [task for task, weight in zip(self.tasks, self.weights, strict=True) if weight > 0]

    def texts(self, per_task: Sequence[TokenLists]) -> tuple[TokenLists, Ints]:
        """Return the texts of the tasks that count, and the place in `tasks` of each one's."""
        counted = np.flatnonzero(self.weights > 0).tolist()
        parts = [per_task[task] for task in counted]
        return TokenLists.join(parts), np.repeat(counted, [part.n for part in parts])

    def rows(self, names: Sequence[str], vectors: NDArray[Any]) -> Floats:
        """Return the tasks' rows (T, d) of named vectors."""
        return np.stack(
            [np.asarray(vectors[list(names).index(task)], dtype=np.float64) for task in self.tasks]
        )

    def direction(self, names: Sequence[str], vectors: NDArray[Any]) -> Floats:
        """Return the weighted mean (d,) of the tasks' vectors, given by name as (len(names), d)."""
        return self.weights @ self.rows(names, vectors)
