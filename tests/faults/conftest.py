"""The children's nursery and the undisturbed curations, made once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import child
import pytest
from nursery import AGAIN, CHAIN, Nursery, Undisturbed
from toys import write_toy_corpus


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    """The process whose forks the children are."""
    with pytest.MonkeyPatch.context() as patch:
        # Before Python 3.11.9 what is loaded beforehand is looked for there alone.
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield Nursery(tmp_path_factory.mktemp("told") / "outcome.json")


@pytest.fixture(scope="session")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Both curations, with their copies."""
    base = tmp_path_factory.mktemp("undisturbed")
    folder, snapshots = base / "workplace", base / "snapshots"
    write_toy_corpus(folder, 10)
    assert nursery.run(child.prepare, folder, CHAIN, snapshots / "first") == 0
    child.change_inputs(folder)
    assert nursery.run(child.prepare, folder, AGAIN, snapshots / "again") == 0
    return Undisturbed(snapshots)
