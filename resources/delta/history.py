"""The commits of a table, newest first, read from its log only as far back as somebody asks.

Most questions are about the last commits, so what an answer costs does not grow with what was committed before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from resources.delta.commits import Commit

NO_ROWS = ("WRITE", "SET TBLPROPERTIES", "VACUUM START", "VACUUM END")
"""Operations of commits that leave the rows alone where they do not name a partition: notes, and care."""

_LONGEST_READ = 64
"""Entries that are read at once at most: as many as are known already, up to this."""

ReadEntries = Callable[[Sequence[int]], list[Commit | None]]
"""Takes versions, gives the commit of each, None where the log has no entry of it."""


class History:
    """The commits of a table, those that hold no data too.

    Attributes:
        read: gives the commits of versions.
        newest: version of the newest commit.
    """

    def __init__(self, read: ReadEntries, newest: int, known: History | None = None) -> None:
        """Find the newest commit.

        Args:
            read: gives the commits of versions.
            newest: a version that the table has.
            known: what was read before, of a log that may be another's.
        """
        self.read = read
        self._commits: dict[int, Commit] = {}
        if known is not None and known.newest <= newest and read([known.newest]) == [known.at(known.newest)]:
            self._commits, newest = known._commits, max(newest, known.newest)
        while self.at(newest + 1) is not None:
            newest += 1
        self.newest = newest

    def at(self, version: int) -> Commit | None:
        """Return the commit of a version; None where the log has no entry of it."""
        if version not in self._commits:
            self._read_back(version, 1)
        return self._commits.get(version)

    def __iter__(self) -> Iterator[Commit]:
        """Yield the commits, newest first."""
        count = 1
        for version in range(self.newest, -1, -1):
            if version not in self._commits:
                self._read_back(version, count)
                count = min(2 * count, _LONGEST_READ)
            if version not in self._commits:
                return  # somebody has shortened the log
            yield self._commits[version]

    def _read_back(self, version: int, count: int) -> None:
        versions = [
            each for each in range(version, version - count, -1) if each >= 0 and each not in self._commits
        ]
        found = zip(versions, self.read(versions), strict=True)
        self._commits.update({each: commit for each, commit in found if commit is not None})


def compaction_after(version: int, history: Iterable[Commit]) -> int | None:
    """Return the newest version that holds the rows of another one in fewer files; None where there is none.

    Args:
        version: the other one.
        history: the table's commits, newest first.
    """
    later = []
    for commit in history:
        if commit.version <= version:
            break
        later.append(commit)
    found = None
    for commit in reversed(later):
        operation = commit.metadata.get("operation")
        if operation == "OPTIMIZE":
            found = commit.version
        elif commit.holds_data or operation not in NO_ROWS:
            break
    return found
