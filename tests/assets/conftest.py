"""One whole run of `curate` on the toy corpus, shared by the tests that look at what it left."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
from workplace import Workplace


def toy_corpus(folder: Path, documents: int) -> None:
    """Write the toy corpus of the root conftest; by path, for `conftest` here is this file."""
    path = Path(__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("root_conftest", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_toy_corpus(folder, documents)


@dataclass(frozen=True)
class Curated:
    """A finished run of `curate`."""

    place: Workplace
    result: dg.ExecuteInProcessResult


@pytest.fixture(scope="session")
def curated(tmp_path_factory: pytest.TempPathFactory) -> Curated:
    """Run `curate` once; nobody writes to this store again but the run that must change nothing."""
    folder = tmp_path_factory.mktemp("curated")
    toy_corpus(folder, 24)
    place = Workplace(folder)
    return Curated(place, place.run())


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A toy corpus and tasks of its own, and no store yet."""
    toy_corpus(tmp_path, 16)
    return Workplace(tmp_path)
