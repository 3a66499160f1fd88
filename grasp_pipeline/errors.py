"""Errors that a user can act on: one sentence that names the thing and says what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_REASON = 200
"""Most characters of a foreign message that are told."""


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


@contextmanager
def boundary(kind: type[GraspError], thing: str, remedy: str) -> Iterator[None]:
    """Around one call of another library: whatever it raises becomes `kind`, with the library's error as its cause.

    Libraries raise what they like where input is bad (a bare `Exception` from Rust, `KeyError` from a parser), so every
    `Exception` counts; errors that are meant for the user already pass through.

    Args:
        kind: error to raise.
        thing: what cannot be done with what; the first line of the library's message follows in brackets.
        remedy: what the user can do.
    """
    try:
        yield
    except GraspError:
        raise
    except Exception as error:
        raise kind(f"{thing} ({reason_in(error)}); {remedy}") from error


def reason_in(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type, cut to 200 characters."""
    lines = [line.strip(" .:") for line in str(error).splitlines()]
    told = next((line for line in lines if line), "") or type(error).__name__
    return told if len(told) <= _REASON else f"{told[:_REASON]}..."
