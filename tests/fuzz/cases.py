"""How many cases are generated of each kind, and a count of those that were tried."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, Phase, settings

from grasp_pipeline.errors import GraspError

RECORD = "GRASP_FUZZ_RECORD"
"""Environment variable: a file that gets the counts, for the benchmark."""

CASES = {
    "lines of JSON": 3_000,
    "bytes of text files": 1_200,
    "Parquet files with changed bytes": 500,
    "archives with changed bytes": 400,
    "input paths": 700,
    "paths in the store": 1_200,
    "roots of stores": 600,
    "literals of predicates": 1_000,
    "partitions": 60,
    "names on the page": 1_500,
    "pages": 3,
    "run configurations": 900,
    "files of run configurations": 300,
    "ids asked for": 60,
}
"""Kind -> cases; 10,000 or more in all."""

COUNTED: Counter[str] = Counter()
ESCAPED: Counter[str] = Counter()


def many(kind: str) -> settings:
    """Return the settings of a test that generates its kind's number of cases."""
    return settings(
        max_examples=CASES[kind],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],  # a case that escapes is told as it was drawn
    )


@contextmanager
def told_or_done(kind: str) -> Iterator[None]:
    """Around one case: it ends well, or with an error that is meant for the user, in one line and not empty."""
    COUNTED[kind] += 1
    try:
        yield
    except GraspError as error:
        said = str(error)
        assert said.strip(), "an error that says nothing"
        assert not any(ord(letter) < 32 for letter in said), f"control characters in {said!r}"
    except BaseException:
        ESCAPED[kind] += 1
        raise


def record() -> None:
    """Leave the counts where the benchmark asked for them."""
    if path := os.environ.get(RECORD):
        told = {"cases": dict(COUNTED), "escapes": sum(ESCAPED.values())}
        Path(path).write_text(json.dumps(told))
