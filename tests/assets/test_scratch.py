"""What steps keep on disk to read it again: apart from other stores, and no more than is wanted."""

from pathlib import Path

from assets.scratch import keep_only, scratch_folder
from resources.store import DeltaStore


def test_it_lies_in_a_local_store_and_apart_for_every_other_one(tmp_path: Path) -> None:
    local = scratch_folder(DeltaStore(root=str(tmp_path / "it's a store")), "documents")
    assert local == tmp_path / "it's a store" / "scratch" / "documents"
    one, other = (scratch_folder(DeltaStore(root=f"s3://bucket/{name}"), "documents") for name in "ab")
    assert one != other


def test_only_what_is_wanted_stays(tmp_path: Path) -> None:
    for name in ("aa/kept", "aa/old", "bb/.new-torn"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "rows.arrow").touch()
    for name in ("kept.parquet", "old.parquet"):
        (tmp_path / name).touch()
    keep_only(tmp_path, {str(tmp_path / "aa" / "kept"), str(tmp_path / "kept.parquet")})
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files == ["aa/kept/rows.arrow", "kept.parquet"]
    keep_only(tmp_path / "nowhere", set())
