"""Errors that a user can act on: one sentence that names the thing and says what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GraspError(Exception):
    """Base of every error whose message is meant for the user as it stands."""


class InputError(GraspError):
    """A file, row, column or value of the input cannot be used."""


class ConfigError(GraspError):
    """A setting, alone or together with the data, asks for something impossible."""


class StoreError(GraspError):
    """A table is missing, has an unexpected schema, or lost a concurrent write."""


class TrainingError(GraspError):
    """A model diverged or does not fit the data it was asked to train on."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what a wrong name may have meant: the known name nearest to it, or all of them where none is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(names)}"
