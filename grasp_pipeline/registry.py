"""A registry: the members of one kind of thing by name, in an order of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from grasp_pipeline.errors import ConfigError, nearest

Member = TypeVar("Member")
"""An object or a class with a `name`."""


def _name(member: Any) -> str:
    return member.name


class Registry(Generic[Member]):
    """Members by their `name`, iterated in the order in which they registered.

    Args:
        what: what a member is called in messages.
        members: the first ones.
        check: raises ConfigError for a member that may not join.
    """

    def __init__(
        self, what: str, members: Iterable[Member], check: Callable[[Member], None] = lambda _: None
    ) -> None:
        self._what, self._check = what, check
        self._members: dict[str, Member] = {}
        for member in members:
            self.add(member)

    def add(self, member: Member) -> None:
        """Register a member.

        Raises:
            ConfigError: its name is taken, or it may not join.
        """
        if _name(member) in self._members:
            raise ConfigError(f"there are two of {self._what} {_name(member)!r}; give one another name")
        self._check(member)
        self._members[_name(member)] = member

    def __getitem__(self, name: str) -> Member:
        """Return a member.

        Raises:
            ConfigError: there is none of this name; the message names the nearest.
        """
        if name not in self._members:
            raise ConfigError(f"there is no {self._what} {name!r}; {nearest(name, self._members)}")
        return self._members[name]

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names in order."""
        return tuple(self._members)

    @contextmanager
    def joined(self, member: Member) -> Iterator[None]:
        """Register a member for a while."""
        self.add(member)
        try:
            yield
        finally:
            del self._members[_name(member)]
