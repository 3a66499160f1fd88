"""The store's files, the compute resource and the models resource."""

from __future__ import annotations

from pathlib import Path

import pytest

from grasp_pipeline.errors import ConfigError, StoreError
from resources.compute import Compute
from resources.store import DeltaStore


def test_new_files_appear_at_once_or_not_at_all(tmp_path: Path) -> None:
    store = DeltaStore(root=str(tmp_path))
    with store.new_files("files/a") as folder:
        (folder / "one").write_text("1")
        assert not (tmp_path / "files" / "a").exists()
    assert store.has_file("files/a/one")

    def fail() -> None:
        with store.new_files("files/a") as folder:
            (folder / "one").write_text("2")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        fail()
    with store.files("files/a") as folder:
        assert (folder / "one").read_text() == "1"
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["a"]


def test_a_folder_is_replaced_and_can_be_read_by_others(tmp_path: Path) -> None:
    store = DeltaStore(root=str(tmp_path))
    for content in ("1", "2"):
        with store.new_files("files/a") as folder:
            (folder / content).write_text(content)
    assert [path.name for path in (tmp_path / "files" / "a").iterdir()] == ["2"]
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["a"]
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "files" / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", ""])
def test_paths_stay_in_the_store(tmp_path: Path, path: str) -> None:
    store = DeltaStore(root=str(tmp_path))
    with pytest.raises(StoreError, match="leads out of the store"), store.files(path):
        pass
    with pytest.raises(StoreError, match="leads out of the store"):
        store.has_file(path)


def test_missing_files_say_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(StoreError, match="missing from the store"),
        DeltaStore(root=str(tmp_path)).files("files/x"),
    ):
        pass


def test_secrets_are_named_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    store = DeltaStore(root="s3://bucket", storage_options_from_env={"AWS_SECRET_ACCESS_KEY": "MY_KEY"})
    assert store.storage_options == {"AWS_SECRET_ACCESS_KEY": "s3cret"}
    assert "s3cret" not in repr(store)
    absent = DeltaStore(
        root="s3://bucket", storage_options_from_env={"AWS_SECRET_ACCESS_KEY": "NOT_SET_ANYWHERE"}
    )
    with pytest.raises(StoreError, match="NOT_SET_ANYWHERE"):
        _ = absent.storage_options


def test_devices_are_found_or_refused() -> None:
    assert Compute(device="cpu", threads=1).prepare().type == "cpu"
    assert Compute().prepare().type in {"cpu", "cuda", "mps"}
    with pytest.raises(ConfigError, match=r"device 'cuda:99'.*auto or cpu"):
        Compute(device="cuda:99").prepare()


def test_several_devices_are_named_by_commas() -> None:
    several = Compute(device="cpu, cpu", threads=1)
    assert [device.type for device in several.devices()] == ["cpu", "cpu"]
    assert several.prepare() == several.devices()[0]
    assert several.describe()["device"] == "cpu, cpu"
    with pytest.raises(ConfigError, match=r"device 'cuda:99'.*auto or cpu"):
        Compute(device="cpu,cuda:99").devices()
