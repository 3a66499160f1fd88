"""Errors that a user can act on: one sentence that names the thing and says what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SPACES = re.compile(r"[\t\n\r]")
_INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff"
    "\U000e0000-\U000e007f]"
)
_REASON = 200
"""Most characters of a foreign message that are told."""


def visible(value: object) -> str:
    """Return text in which control characters, terminal escapes and overrides of the writing direction show.

    They become the replacement character, as do characters of no width but the joiners that scripts need; tabs and
    line breaks become spaces.
    """
    return _INVISIBLE.sub("\N{REPLACEMENT CHARACTER}", _SPACES.sub(" ", str(value)))


class GraspError(Exception):
    """Base of every error whose message is meant for the user as it stands: one line, whatever names it quotes.

    keeps_lines: of a class whose messages have several.
    """

    keeps_lines = False

    def __init__(self, message: object = "") -> None:
        lines = str(message).split("\n") if self.keeps_lines else [message]
        super().__init__("\n".join(map(visible, lines)))


class InputError(GraspError):
    """A file, row, column or value of the input cannot be used."""


class ConfigError(GraspError):
    """A setting, alone or together with the data, asks for something impossible."""


class StoreError(GraspError):
    """A table is missing, has an unexpected schema, or lost a concurrent write."""


class TrainingError(GraspError):
    """A model diverged or does not fit the data it was asked to train on."""


class EngineError(GraspError):
    """A worker died, or needs more memory than it may have."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what a wrong name may have meant: the known name nearest to it, or all of them where none is near."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose among {', '.join(names)}"


def out_of_room(error: BaseException) -> bool:
    """Return whether an error, or one that it follows from, says that the disk has no room for what is written."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(sign in str(seen) for sign in ("No space left on device", "File too large", "quota exceeded")):
            return True  # libraries in Rust tell it in words
        seen = seen.__cause__
    return False


@contextmanager
def boundary(
    kind: type[GraspError], thing: str, remedy: str, but: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Around one call of another library: whatever it raises becomes `kind`, with the library's error as its cause.

    Libraries raise what they like where input is bad (a bare `Exception` from Rust, `KeyError` from a parser), so every
    `Exception` counts; errors that are meant for the user already pass through.

    Args:
        kind: error to raise.
        thing: what cannot be done with what; the first line of the library's message follows in brackets.
        remedy: what the user can do.
        but: errors that the caller treats itself.
    """
    try:
        yield
    except (GraspError, *but):
        raise
    except Exception as error:
        raise kind(f"{thing} ({reason_in(error)}); {remedy}") from error


def reason_in(error: BaseException) -> str:
    """Return the first line of an error's message and its causes (delta-rs marks them), cut to 200 characters.

    An error without a message tells its type.
    """
    lines = [line.strip(" .:") for line in _COLOUR.sub("", str(error)).splitlines()]
    first = next((line for line in lines if line), "") or type(error).__name__
    told = ": ".join([first, *(line.removeprefix("\u21b3 ") for line in lines if line.startswith("\u21b3 "))])
    return told if len(told) <= _REASON else f"{told[:_REASON]}..."
