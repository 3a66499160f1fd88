"""A tree to publish from, whatever the one of this run is."""

from __future__ import annotations

import pytest

from benchmarks import record


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is that of its commit, abc1234."""
    monkeypatch.setattr(record, "changed_files", list)
    monkeypatch.setattr(record, "commit", lambda: "abc1234")
    monkeypatch.delenv(record.ELSEWHERE, raising=False)
