"""One whole run of `curate` on the toy corpus, shared by the tests that look at what it left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toys import write_toy_corpus
from witness import Witness, mark_splits, watching
from workplace import Curated, Workplace


@pytest.fixture(autouse=True, scope="session")
def _threads() -> Iterator[None]:
    """The runs set one thread: for models this small more are slower, on a busy machine many times."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Curated, Witness]:
    """Run `curate` once, on task documents that say which split they are of, and watch it."""
    folder = tmp_path_factory.mktemp("curated")
    _, tasks = write_toy_corpus(folder, 24)
    mark_splits(tasks)
    place = Workplace(folder)
    with watching() as witness:
        return Curated(place, place.run()), witness


@pytest.fixture(scope="session")
def curated(witnessed: tuple[Curated, Witness]) -> Curated:
    """The run of `curate`. Nobody writes to this store again but the run that must change nothing."""
    return witnessed[0]


@pytest.fixture(scope="session")
def witness(witnessed: tuple[Curated, Witness]) -> Witness:
    """What the steps of that run were given."""
    return witnessed[1]


@pytest.fixture
def copied(curated: Curated, tmp_path: Path) -> Workplace:
    """A copy of the curated folder, inputs and store, to change."""
    return curated.place.copy_to(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    """A small toy corpus and tasks, and no store yet."""
    write_toy_corpus(tmp_path, 16)
    return Workplace(tmp_path)


DAGSTER_YAML = """
telemetry:
  enabled: false
compute_logs:
  module: dagster._core.storage.noop_compute_log_manager
  class: NoOpComputeLogManager
"""


@pytest.fixture(scope="session")
def dagster_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the runs of `assets.run`; one for all, since making its databases takes a second."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "dagster.yaml").write_text(DAGSTER_YAML)
    return folder


@pytest.fixture
def home(dagster_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set DAGSTER_HOME."""
    monkeypatch.setenv("DAGSTER_HOME", str(dagster_home))
    return dagster_home
