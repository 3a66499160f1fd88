"""A constraint: what people may ask of a selection beside its tasks. One file each, light for the configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from grasp_pipeline.arrays import Bools, Ints
from grasp_pipeline.section import Section


@dataclass(frozen=True)
class Chunks:
    """What constraints may look at of a corpus of n chunks; arrays are (n,).

    n_tokens: tokens; documents, sources: codes; clusters: near-duplicate clusters of their documents; positions: places
    in these; source_names: of the codes, sorted; listed: of some ids gives which chunks (n,), or their documents, have
    one, and the ids that nothing has.
    """

    n_tokens: NDArray[np.integer[Any]]
    listed: Callable[[tuple[str, ...]], tuple[Bools, set[str]]]
    documents: NDArray[np.integer[Any]]
    sources: NDArray[np.integer[Any]]
    source_names: Sequence[str]
    clusters: NDArray[Any]
    positions: NDArray[np.integer[Any]]


@dataclass
class Demands:
    """What the constraints ask for together, in the solver's terms (see `ConstraintSet`); they add to it in turn.

    keep: (n,) chunks that must be kept. drop: by the name that `drop_reasons` is to give, (n,) chunks never kept.
    """

    keep: Bools
    drop: dict[str, Bools] = field(default_factory=dict)
    documents: Ints | None = None
    floors: Mapping[str, float] = field(default_factory=dict)
    caps: Mapping[str, float] = field(default_factory=dict)
    clusters: Ints | None = None
    cluster_units: int | None = None
    cluster_tokens: int | None = None


class Constraint(ABC):
    """One constraint.

    Attributes:
        name: in messages and documents.
        equation: what the weights w (n,) in [0, 1] of chunks of n_i tokens must meet.
        source: of the method that keeps it, or "" where it is set arithmetic.
        Settings: the fields of the run configuration that ask for it; their defaults ask for nothing.
    """

    name: ClassVar[str]
    equation: ClassVar[str]
    source: ClassVar[str] = ""
    Settings: ClassVar[type[Section]]

    @abstractmethod
    def ask(self, settings: Any, chunks: Chunks, demands: Demands) -> None:
        """Add to the demands what settings, of the class `Settings`, ask for of a corpus.

        Raises:
            ConfigError: they name what is not in the corpus.
        """
