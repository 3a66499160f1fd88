"""What stages tell while `assets.run` executes a job in this process."""

from __future__ import annotations

from collections.abc import Callable

LISTENER: Callable[[str, int], None] | None = None
"""Who hears it: message and indent."""


def tell(message: str, indent: int) -> None:
    """Tell who listens, if anybody does."""
    if LISTENER is not None:
        LISTENER(message, indent)
