"""The toy cell's pool."""

from __future__ import annotations

import pytest
from lab_toys import toy_corpus

from grasp_pipeline.corpus.pool import LabCorpus


@pytest.fixture(scope="module")
def corpus() -> LabCorpus:
    return toy_corpus()
