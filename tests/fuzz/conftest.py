"""The counts of a session's cases."""

from __future__ import annotations

from collections.abc import Iterator

import cases
import pytest


@pytest.fixture(autouse=True, scope="session")
def _recorded() -> Iterator[None]:
    yield
    cases.record()
