"""Glob patterns over the paths of any file system."""

from __future__ import annotations

import re

_GLOB = re.compile(r"[*?\[]")


def is_glob(path: str) -> bool:
    """Return whether a path has glob characters."""
    return _GLOB.search(path) is not None


def glob_base(pattern: str) -> str:
    """Return the folder above the first component with a glob character; ``.`` for none."""
    parts = pattern.split("/")
    fixed = parts[: next(index for index, part in enumerate(parts) if is_glob(part))]
    return "/".join(fixed) or ("/" if pattern.startswith("/") else ".")


def glob_pattern(pattern: str) -> re.Pattern[str]:
    """Translate a glob: ``*`` and ``?`` stay within a component, ``**/`` spans any number of them."""
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
            body = pattern[index + 1 : closing].replace("\\", "\\\\")
            out.append(f"[^/{body[1:]}]" if body[0] in "!^" else f"[{body}]")
            index = closing + 1
        else:
            out.append(re.escape(pattern[index]))
            index += 1
    return re.compile("".join(out), re.DOTALL)


def is_deep(pattern: str) -> bool:
    """Return whether a pattern can match below the folder of its base."""
    parts = pattern.split("/")
    return any(is_glob(part) for part in parts[:-1]) or "**" in parts[-1]
