"""A tree to publish from, whatever the one of this run is; one thread: two on busy cores wait long for each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from benchmarks import published


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is that of its commit, abc1234."""
    monkeypatch.setattr(published, "changed_files", list)
    monkeypatch.setattr(published, "commit", lambda: "abc1234")
    monkeypatch.delenv(published.ELSEWHERE, raising=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
