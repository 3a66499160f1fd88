"""The toy cell's pool."""

from __future__ import annotations

import pytest
from lab_toys import toy_corpus

from grasp_pipeline.corpus.pool import TaskPool


@pytest.fixture(scope="module")
def corpus() -> TaskPool:
    return toy_corpus()
