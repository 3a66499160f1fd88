"""Finding input files: folders, globs, endings, duplicates, fingerprints, and errors that say what to do."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import ENDINGS, resolve_inputs
from grasp_pipeline.corpus.globs import glob_base, glob_pattern, is_deep
from grasp_pipeline.errors import ConfigError, InputError


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def found(*paths: object) -> list[str]:
    return [file.uri for file in resolve_inputs(InputConfig(paths=[str(path) for path in paths]))]


def test_folders_globs_and_files_are_sorted_and_listed_once(tmp_path: Path) -> None:
    b, a, deep = (write(tmp_path / name) for name in ("b.txt", "a.jsonl", "sub/c.json.gz"))
    write(tmp_path / "README.md")
    write(tmp_path / "_delta_log/0.json")
    write(tmp_path / ".hidden.txt")
    everything = sorted(map(str, (a, b, deep)))
    assert found(tmp_path) == everything
    assert found(tmp_path / "**/*.json*", b, f"{tmp_path}/./b.txt", f"file://{b}") == everything
    assert found(tmp_path / "?.txt") == [str(b)]
    assert found(tmp_path / "[ab].*") == sorted(map(str, (a, b)))


def test_a_link_to_a_listed_file_adds_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.txt")
    os.symlink(tmp_path / "a.txt", tmp_path / "b.txt")
    assert found(tmp_path) == [str(tmp_path / "a.txt")]


def test_relative_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/a.txt")
    monkeypatch.chdir(tmp_path)
    assert (
        found("data/*.txt") == found("./data//a.txt") == found("data") == found("*/*.txt") == ["data/a.txt"]
    )


def test_a_name_with_glob_characters_quotes_and_spaces_is_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / 'it\'s [1] "q".jsonl')
    (file,) = resolve_inputs(InputConfig(paths=[str(path)]))
    assert (file.uri, file.source) == (str(path), 'it\'s [1] "q"')


@pytest.mark.parametrize(("ending", "kind"), ENDINGS.items())
def test_endings_give_format_compression_and_source(tmp_path: Path, ending: str, kind: tuple) -> None:
    (file,) = resolve_inputs(InputConfig(paths=[str(write(tmp_path / f"news.2024{ending}"))]))
    assert (file.format, file.compression) == kind
    assert file.source == "news.2024"


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        return resolve_inputs(InputConfig(paths=[str(path)]))[0].fingerprint

    a, b = write(tmp_path / "a.txt", "one"), write(tmp_path / "b.txt", "one")
    assert fingerprint(a) == fingerprint(b)
    before = fingerprint(a)
    os.utime(a, (1, 1))
    assert fingerprint(a) == before
    write(a, "two")
    assert fingerprint(a) != before


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere.parquet", r"'.*nowhere.parquet' does not exist; correct it"),
        ("*.parquet", r"pattern '.*\*\.parquet' matches no file"),
        ("no/such/*.parquet", "matches no file"),
        ("table.csv", r"'.*table.csv' has an ending that cannot be read; use one of .parquet"),
        ("*.csv", r"'.*table.csv' has an ending that cannot be read"),
        ("empty", "holds no file to read"),
    ],
)
def test_bad_paths_are_named(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path / "table.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        found(tmp_path / path)


def test_an_unknown_scheme_is_named() -> None:
    with pytest.raises(InputError, match="scheme ftp://"):
        found("ftp://host/a.parquet")


def test_a_path_that_the_system_refuses_is_an_error_of_the_input() -> None:
    with pytest.raises(InputError, match="cannot be listed"):
        found("a\0b/*.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"aws_acess_key_id": "SECRET"}, "'aws_acess_key_id' is not understood for s3://")],
)
def test_a_wrong_storage_option_is_named_without_its_value(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        resolve_inputs(InputConfig(paths=["s3://bucket/a.parquet"]), options)
    assert "SECRET" not in str(error.value)


def test_azure_needs_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(ConfigError, match="account_name"):
        resolve_inputs(InputConfig(paths=["az://container/a.parquet"]))


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a/*.txt", ["a/b.txt"], ["a/b/c.txt", "a/b.txtx", "b.txt"]),
        ("a/**/*.txt", ["a/b.txt", "a/b/c/d.txt"], ["b/a.txt"]),
        ("a/**", ["a/b", "a/b/c"], ["b"]),
        ("a?[!b-d].x", ["aza.x"], ["azb.x", "a/a.x", "ab.x"]),
        ("a+(b).{x}*", ["a+(b).{x}"], ["aab.x"]),
    ],
)
def test_globs(pattern: str, yes: list[str], no: list[str]) -> None:
    compiled = glob_pattern(pattern)
    assert all(compiled.fullmatch(path) for path in yes)
    assert not any(compiled.fullmatch(path) for path in no)


def test_only_patterns_that_reach_below_their_folder_are_deep() -> None:
    deep = {"a/b/*.txt": False, "a/*/b.txt": True, "a/**/b.txt": True, "a/**": True}
    assert {pattern: is_deep(pattern) for pattern in deep} == deep


@given(st.lists(st.text(st.sampled_from("ab.+(\\"), min_size=1), min_size=1, max_size=4))
def test_a_pattern_without_glob_characters_matches_itself(parts: list[str]) -> None:
    path = "/".join(parts)
    assert glob_pattern(path).fullmatch(path)
    assert glob_base(path + "/*") == path
