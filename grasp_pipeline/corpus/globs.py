"""Glob patterns over the paths of any file system."""

from __future__ import annotations

import re
from collections.abc import Callable

_GLOB = re.compile(r"[*?\[]")


def is_glob(path: str) -> bool:
    """Return whether a path has glob characters."""
    return _GLOB.search(path) is not None


def split_glob(pattern: str, exists: Callable[[str], bool]) -> tuple[str, str]:
    """Split a glob into the folder above its first component with a glob character, and the rest.

    A component that exists as it is written, such as ``data [v1]``, is a name, whatever characters it has.

    Args:
        pattern: has a glob character.
        exists: whether there is a file or folder of this name.

    Returns:
        The folder, ``""`` for the working directory, ending in ``/`` otherwise; the pattern below it.
    """
    parts = pattern.split("/")
    for index, part in enumerate(parts[:-1]):
        if is_glob(part) and not exists("/".join(parts[: index + 1])):
            break
    else:
        index = len(parts) - 1
    return "".join(part + "/" for part in parts[:index]), "/".join(parts[index:])


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a glob: ``*`` and ``?`` stay within a component, ``**/`` spans any number of them.

    Raises:
        ValueError: brackets hold no set of characters, such as ``[2024-01]`` with its range from 4 to 0.
    """
    out, index = [], 0
    while index < len(pattern):
        if pattern.startswith("**/", index):
            out.append("(?:[^/]+/)*")
            index += 3
        elif pattern.startswith("**", index):
            out.append(".*")
            index += 2
        elif pattern[index] in "*?":
            out.append("[^/]*" if pattern[index] == "*" else "[^/]")
            index += 1
        elif pattern[index] == "[" and (closing := pattern.find("]", index + 2)) > 0:
            body = re.sub(r"[\[\\&~|]", r"\\\g<0>", pattern[index + 1 : closing])
            out.append(f"[^/{body[1:]}]" if body[0] in "!^" else f"[{body}]")
            index = closing + 1
        else:
            out.append(re.escape(pattern[index]))
            index += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no glob pattern: {error}") from error


def is_deep(pattern: str) -> bool:
    """Return whether a pattern can match below the folder of its base."""
    parts = pattern.split("/")
    return any(is_glob(part) for part in parts[:-1]) or "**" in parts[-1]
