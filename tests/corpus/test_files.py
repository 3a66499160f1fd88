"""Finding input files: folders, globs, endings, duplicates, fingerprints, and errors that say what to do."""

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import ENDINGS, resolve_inputs
from grasp_pipeline.corpus.globs import glob_pattern, is_deep, split_glob
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
        (
            "table.csv",
            r"'.*table.csv' has an ending that cannot be read; use one of .parquet.*read_csv\(FILE\)",
        ),
        ("*.csv", r"'.*table.csv' has an ending that cannot be read"),
        ("empty", "holds no file to read"),
    ],
)
def test_bad_paths_are_named(tmp_path: Path, path: str, message: str) -> None:
    write(tmp_path / "table.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        found(tmp_path / path)


# Folders that a glob matches


def spark_output(folder: Path, parts: int = 2, ending: str = ".snappy.parquet") -> list[str]:
    """Write a folder as Spark does, with its marks and checksums; returns the parts."""
    for name in ("_SUCCESS", "_metadata", ".part-00000.crc"):
        write(folder / name, "")
    return [str(write(folder / f"part-{number:05}{ending}")) for number in range(parts)]


@pytest.mark.parametrize(
    "pattern", ["out/*.parquet", "out/*", "*/*.parquet", "**/*.parquet", "out/**", "out"]
)
def test_a_folder_that_a_glob_matches_gives_its_parts(tmp_path: Path, pattern: str) -> None:
    parts = [part for day in (0, 1) for part in spark_output(tmp_path / f"out/day{day}.parquet")]
    single = str(write(tmp_path / "out/day2.parquet"))
    assert found(tmp_path / pattern) == [*parts, single]


def test_parts_of_an_unknown_ending_and_an_output_without_parts_are_named(tmp_path: Path) -> None:
    spark_output(tmp_path / "out/day0.parquet")
    spark_output(tmp_path / "out/day1.jsonl", ending="")
    with pytest.raises(InputError, match=r"folder '.*day1\.jsonl' holds no file to read"):
        found(tmp_path / "out/*")
    write(tmp_path / "out/day1.jsonl/part-00002.jsonl")
    with pytest.raises(InputError, match=r"part-00000' has an ending that cannot be read"):
        found(tmp_path / "out/*")
    shutil.rmtree(tmp_path / "out/day1.jsonl")
    spark_output(tmp_path / "out/day2.parquet", parts=0)
    with pytest.raises(InputError, match=r"folder '.*day2\.parquet' holds no file to read"):
        found(tmp_path / "out/*.parquet")


def test_a_matched_folder_is_read_as_a_named_one(tmp_path: Path) -> None:
    a, deep = write(tmp_path / "in/a.txt"), write(tmp_path / "in/sub/deeper/b.txt")
    write(tmp_path / "in/sub/README.md")
    (tmp_path / "in/empty").mkdir()
    assert found(tmp_path / "in/*") == found(tmp_path / "in") == [str(a), str(deep)]
    write(tmp_path / "in/pictures/a.png")
    with pytest.raises(InputError, match=r"folder '.*pictures' holds no file to read"):
        found(tmp_path / "in/*")


# Names with glob characters


@pytest.mark.parametrize("name", ["data [v1]", "[2024-01]", "what?", "a*b", "x[!"])
def test_a_folder_with_glob_characters_is_a_name_where_it_exists(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name / "sub" / "a.jsonl")
    for other in ("data v", "2", "whatx", "axb"):
        write(tmp_path / other / "sub" / "a.jsonl")
    assert found(tmp_path / name / "*/*.jsonl") == found(tmp_path / name / "**/*.jsonl") == [str(path)]
    assert found(tmp_path / name) == [str(path)]


def test_brackets_below_a_wildcard_are_escaped_or_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a" / "[2024-01]" / "a.jsonl")
    assert found(tmp_path / "*/[[]2024-01]/*.jsonl") == [str(path)]
    with pytest.raises(InputError, match=r"has brackets that hold no set of characters; write \[\[\]"):
        found(tmp_path / "*/[2024-01]/*.jsonl")
    with pytest.raises(InputError, match=r"matches no file; .* write \[\[\]"):
        found(tmp_path / "*/[v1]/*.jsonl")


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
    assert split_glob(path + "/*", lambda name: False) == (path + "/", "*")
