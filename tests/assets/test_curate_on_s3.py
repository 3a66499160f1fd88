"""A whole curation in an S3-compatible object store."""

from __future__ import annotations

from pathlib import Path

import pytest
from toys import write_toy_corpus
from workplace import Workplace, event_log

from benchmarks.scale.s3_server import SECRET, s3_server
from grasp_pipeline.tables import ALL


class InBucket(Workplace):
    """Inputs in a folder, the store in a bucket."""

    bucket = ""

    @property
    def store(self) -> Path:
        return self.bucket  # type: ignore[return-value]


@pytest.mark.slow
def test_curate_runs_in_an_object_store_and_tells_no_secret(tmp_path: Path) -> None:
    write_toy_corpus(tmp_path, 16)
    place = InBucket(tmp_path)
    with s3_server("lake") as bucket:
        place.bucket = f"{bucket}/store"
        ran = place.run()
        assert SECRET not in event_log(place, ran.run_id)
        delta = place.delta
        assert delta.root == place.bucket
        found = [table for table in ALL.values() if delta.exists(table)]
        assert place.read(ALL["pruned_corpus"]).height > 0
        assert place.read(ALL["certificates"]).height > 0
        said = [str(commit.metadata) for table in found for commit in delta.commits(table)]
        assert said
        assert not any(SECRET in each for each in said)
    assert not [path for path in tmp_path.rglob("*") if "_delta_log" in path.parts]
