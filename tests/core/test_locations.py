"""Where a store lies: paths and URIs are told apart, and a place that cannot hold tables is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from grasp_pipeline.errors import StoreError
from grasp_pipeline.locations import is_local, local_file, local_folder, tidy_root


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("store", "store"),
        ("store//", "store"),
        ("./a b/100%/größe", "./a b/100%/größe"),
        ("/", "/"),
        ("~/store", "/home/of mine/store"),
        ("file:///srv/a%20b/", "/srv/a b"),
        ("file:/srv/store", "/srv/store"),
        ("a:b/store", "a:b/store"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        (
            "abfss://container@account.dfs.core.windows.net/x",
            "abfss://container@account.dfs.core.windows.net/x",
        ),
    ],
)
def test_roots_are_tidied(given: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of mine")
    assert tidy_root(given) == used
    assert is_local(used) is ("://" not in used)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "no name; set GRASP_STORE"),
        ("  ", "no name; set GRASP_STORE"),
        ("s4://bucket/x", r"scheme s4://, which is not known; give a folder or a URI that starts with s3://"),
        ("https://host/x", "scheme https://, which is not known; give a folder"),
        ("s3:/bucket/x", r"no URI; write s3://BUCKET/PATH"),
        ("s3://bucket/a b", r"'s3://bucket/a b' has characters that a URI would have to escape"),
        ("s3://bucket/größe", "characters that a URI would have to escape"),
        ("s3://bucket/a%20b", "characters that a URI would have to escape"),
        ("s3://bucket/day=1/x", "characters that a URI would have to escape"),
        ("/srv/a%20b", r"has '%20' in its path, .*rename the folder"),
        ("/srv/a[1]", r"has '\[' in its path"),
        ("/srv/no#1", r"has '#' in its path"),
        ("/srv/what?", r"has '\?' in its path"),
        ("/srv/day=1/store", r"has '=' in its path"),
        ("/srv/a\\b", r"has '\\\\' in its path"),
        ("/srv/a\nb", r"has '\\n' in its path"),
        ("/dev/null", r"the store /dev/null cannot be a folder, since /dev/null is none; set GRASP_STORE"),
        ("/dev/null/below/store", r"cannot be a folder, since /dev/null is none"),
    ],
)
def test_what_cannot_hold_tables_is_refused(given: str, told: str) -> None:
    with pytest.raises(StoreError, match=told):
        tidy_root(given)


def test_the_working_directory_is_part_of_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "[1]").mkdir()
    monkeypatch.chdir(tmp_path / "[1]")
    with pytest.raises(StoreError, match=r"/\[1\]/store' has '\[' in its path"):
        tidy_root("store")


def test_a_link_to_nowhere_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError, match=r"since .*/link is none"):
        tidy_root(str(tmp_path / "link" / "store"))


def test_uris_of_open_tables_become_paths() -> None:
    assert local_folder("file:///a%20b/100%25;x/t/") == "/a b/100%;x/t/"
    assert local_folder("/a%20b") == "/a%20b"
    assert local_folder("s3://bucket/t") is None
    assert local_file("file:///a%20b/t/", "/a%20b/t/k=x%20y/f") == "/a b/t/k=x%20y/f"
    assert local_file("s3://bucket/t", "s3://bucket/t/k=x%20y/f") == "s3://bucket/t/k=x%20y/f"
