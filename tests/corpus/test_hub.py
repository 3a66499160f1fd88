"""Hugging Face datasets from local folders; the hub itself is stood in for by its two entry points."""

from pathlib import Path

import pytest

from grasp_pipeline.config import InputConfig
from grasp_pipeline.corpus.files import resolve_inputs
from grasp_pipeline.corpus.readers import read_corpus
from grasp_pipeline.errors import InputError

datasets = pytest.importorskip("datasets")
TEXTS = ["one", None, "drei", "x" * 2_000]


@pytest.fixture
def dataset() -> object:
    return datasets.Dataset.from_dict({"body": TEXTS, "key": list(range(4)), "other": [[1.5]] * 4})


def read(uri: str, **settings: object) -> list[tuple]:
    config = InputConfig(
        paths=[uri], text_column="body", id_column="key", max_document_bytes=1_000, **settings
    )
    frames = [block.frame for _, block in read_corpus(config)]
    return [row for frame in frames for row in frame.select("row", "text", "user_id", "fault").iter_rows()]


EXPECTED = [(0, "one", "0", None), (1, None, "1", "missing_text"), (2, "drei", "2", None)]
EXPECTED += [(3, None, "3", "oversized")]


def test_a_saved_dataset_is_read(tmp_path: Path, dataset) -> None:
    dataset.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": dataset, "test": dataset.select([0])}).save_to_disk(tmp_path / "two")
    assert read(f"hf://{tmp_path}/one") == EXPECTED
    assert read(f"hf://{tmp_path}/two") == EXPECTED
    assert read(f"hf://{tmp_path}/two", hf_split="test") == EXPECTED[:1]
    with pytest.raises(InputError, match=r"split 'nope'\) cannot be opened"):
        read(f"hf://{tmp_path}/two", hf_split="nope")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_folder_of_files_is_read(tmp_path: Path, dataset, streaming: bool, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    dataset.to_parquet(tmp_path / "data" / "train.parquet")
    assert read(f"hf://{tmp_path}/data", hf_streaming=streaming) == EXPECTED


def test_relative_folders(tmp_path: Path, dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.save_to_disk(tmp_path / "data" / "one")
    monkeypatch.chdir(tmp_path)
    assert read("hf://./data/one") == read("hf:///data/one") == EXPECTED


def test_the_fingerprint_follows_content_and_split(tmp_path: Path, dataset) -> None:
    def fingerprint(**settings: str) -> str:
        (file,) = resolve_inputs(InputConfig(paths=[f"hf://{tmp_path}"], **settings))
        assert file.source == tmp_path.name
        return file.fingerprint

    dataset.save_to_disk(tmp_path)
    first = fingerprint()
    assert fingerprint() == first
    assert fingerprint(hf_split="test") != first
    (tmp_path / "more.txt").write_text("x")
    assert fingerprint() != first


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("hf://", "names no dataset"),
        ("hf:///no/such/folder", "'/no/such/folder' of 'hf:///no/such/folder' does not exist"),
    ],
)
def test_bad_uris_are_named(uri: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(uri)


def test_a_missing_column_is_named(tmp_path: Path, dataset) -> None:
    dataset.rename_column("body", "text").save_to_disk(tmp_path)
    with pytest.raises(InputError, match="no column 'body'; its columns are 'text', 'key', 'other'"):
        read(f"hf://{tmp_path}")


def test_the_hub_is_asked_for_name_configuration_and_split(dataset, monkeypatch) -> None:
    asked = []

    class Builder:
        hash = "revision"

    def load(name: str, configuration: str | None, *, split: str, streaming: bool) -> object:
        asked.append((name, configuration, split, streaming))
        return dataset.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, configuration: Builder)
    monkeypatch.setattr(datasets, "load_dataset", load)
    assert read("hf://org/name", hf_config="en", hf_split="validation") == EXPECTED
    assert asked == [("org/name", "en", "validation", True)]
    (file,) = resolve_inputs(InputConfig(paths=["hf://org/name"]))
    assert file.source == "org/name"


def test_a_dataset_that_cannot_be_found_or_breaks_off_is_named(dataset, monkeypatch) -> None:
    def unreachable(*_: object, **__: object) -> object:
        raise ConnectionError("Couldn't reach 'org/name' on the Hub\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(InputError, match=r"'hf://org/name' .* cannot be opened: ConnectionError: C") as error:
        read("hf://org/name")
    assert "\n" not in str(error.value)

    def rows():
        yield {"body": "one", "key": 0}
        raise OSError("connection lost")

    broken = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_: type("B", (), {"hash": "r"}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken)
    with pytest.raises(InputError, match="cannot be read to its end"):
        read("hf://org/name")
