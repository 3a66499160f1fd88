"""The baselines by name, each in its strongest form: what is tuned is tuned on the same calibration subsets.

Additive methods are given in the sum and the mean form. What reads sketches is tuned over every kind that the
surrogate has, n-gram features included, and over its damping; the kind that was taken goes with the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules

from grasp_pipeline.arrays import Floats
from grasp_pipeline.attribution import methods
from grasp_pipeline.attribution.methods.inputs import BaselineInputs, Candidate
from grasp_pipeline.errors import ConfigError
from grasp_pipeline.memberships import Membership
from grasp_pipeline.names import Form

Method = tuple[str, str]
"""(name, form)."""

Builder = Callable[[BaselineInputs], Mapping[Form, Candidate]]


@dataclass(frozen=True)
class Baseline:
    """A method to compare with.

    Attributes:
        name: in tables. forms: that it is given in. equation: a subset's or a chunk's score. source: where it is from.
        build: makes it, fitted and tuned, by form.
        needs: fields of `BaselineInputs` without which there is nothing to build.
        by_kind: whether it is also of interest with each sketch kind alone.
    """

    name: str
    forms: tuple[Form, ...]
    equation: str
    source: str
    build: Builder
    needs: tuple[str, ...] = ()
    by_kind: bool = False

    def lacks(self, inputs: BaselineInputs) -> list[str]:
        """Return which of the needed inputs are empty or None."""
        return [name for name in self.needs if (given := getattr(inputs, name)) is None or not len(given)]


_BASELINES: dict[str, Baseline] = {}


def baseline(
    name: str,
    forms: tuple[Form, ...],
    equation: str,
    source: str,
    needs: tuple[str, ...] = (),
    by_kind: bool = False,
) -> Callable[[Builder], Builder]:
    """Register the decorated builder under a name; arguments as the attributes of `Baseline`.

    Raises:
        ConfigError: the name is taken.
    """

    def register(build: Builder) -> Builder:
        if name in _BASELINES:
            raise ConfigError(f"two baselines are called {name!r}; rename one of them")
        _BASELINES[name] = Baseline(name, forms, equation, source, build, needs, by_kind)
        return build

    return register


def baselines() -> Mapping[str, Baseline]:
    """Return every registered baseline by name; the files of this folder register theirs when they are imported."""
    for module in iter_modules(methods.__path__):
        import_module(f"{methods.__name__}.{module.name}")
    return _BASELINES


@dataclass(frozen=True)
class Prediction:
    """values: (m, T) of a method for m subsets. kind: of the sketches that it was tuned to; empty: it reads none."""

    values: Floats
    kind: str


def predict(each: Baseline, inputs: BaselineInputs, membership: Membership) -> dict[Method, Prediction]:
    """Return one baseline's predictions for (m, n) subsets, by (name, form)."""
    return {
        (each.name, form): Prediction(attributor.predict(membership), kind)
        for form, (kind, attributor) in each.build(inputs).items()
    }


def baseline_predictions(
    inputs: BaselineInputs, membership: Membership, chosen: Iterable[Baseline] | None = None
) -> dict[Method, Prediction]:
    """Return the predictions of every baseline that has its inputs for (m, n) subsets, by (name, form).

    chosen: some of them; None: all.
    """
    found: dict[Method, Prediction] = {}
    for each in baselines().values() if chosen is None else chosen:
        if not each.lacks(inputs):
            found |= predict(each, inputs, membership)
    return found


def predictions_by_kind(inputs: BaselineInputs, membership: Membership) -> dict[Method, Prediction]:
    """Return what baselines predict that may read one sketch kind alone, as "NAME, KIND sketch", for every kind."""
    readers = [each for each in baselines().values() if each.by_kind]
    found: dict[Method, Prediction] = {}
    for kind, view in inputs.views.items():
        alone = replace(inputs, views={kind: view}, checkpoints={}, layers={})
        for (name, form), prediction in baseline_predictions(alone, membership, readers).items():
            found[f"{name}, {kind} sketch", form] = prediction
    return found
