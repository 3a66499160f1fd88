"""Files that were cut or changed behind the store's back: named before they are used; the remedy that is told works."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from holding import files, tables, undisturbed_tables
from nursery import CHAIN, Nursery, Undisturbed, laid
from points import Fault
from test_faults import record

pytestmark = pytest.mark.faults


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


@dataclass(frozen=True)
class Damage:
    """A file that is harmed before a step, what the step says, and what it says to do.

    remedy: assets to materialize again; delete: folder of the store that is deleted first.
    """

    file: str
    harm: Callable[[Path], None]
    step: str
    told: str
    remedy: tuple[str, ...]
    delete: str = ""


DAMAGES = {
    "a data file of documents is cut": Damage(
        "documents/*/*.parquet",
        cut,
        "tokenized_shards",
        "was cut or changed; restore it, or delete",
        ("documents", "rejected_documents"),
        "documents",
    ),
    "a data file of chunks is lost": Damage(
        "tokenized_shards/*/*.parquet",
        Path.unlink,
        "gradient_sketches",
        "is missing; restore it, or delete",
        ("tokenized_shards",),
        "tokenized_shards",
    ),
    "a byte of a checkpoint is flipped": Damage(
        "files/proxies/*/reference/model.safetensors",
        flip,
        "gradient_sketches",
        "materialize proxy_checkpoints again",
        ("proxy_checkpoints",),
    ),
    "the shape of a checkpoint is changed": Damage(
        "files/proxies/*/reference/config.json",
        flip,
        "gradient_sketches",
        "materialize proxy_checkpoints again",
        ("proxy_checkpoints",),
    ),
    "the tokenizer is cut": Damage(
        "files/tokenizers/*/tokenizer.json",
        cut,
        "tokenized_shards",
        "materialize tokenizer again",
        ("tokenizer",),
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_told_and_its_remedy_works(
    name: str, nursery: Nursery, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    damage = DAMAGES[name]
    fault = Fault(damage.step, None, "refused", first=True)
    record(name, fault, "injected")
    number = CHAIN.index([damage.step])
    place = laid(undisturbed.snapshots / "first" / str(number), tmp_path)
    file = sorted(place.store.glob(damage.file))[0]
    damage.harm(file)
    said = nursery.work(place.folder, [damage.step]).said
    assert said is not None
    assert (said["error"], said["bare"]) == ("StoreError", False), said
    assert damage.told in said["message"]
    if damage.delete:
        shutil.rmtree(place.store / damage.delete)
    for assets in (list(damage.remedy), [damage.step]):
        assert nursery.work(place.folder, assets).said == {"error": None}
    after = undisturbed.snapshots / "first" / str(number + 1)
    found, expected = tables(place.folder), undisturbed_tables(after)
    assert [table for table in expected if not found[table].equals(expected[table])] == []
    assert files(place.folder) == files(after)
    record(name, fault, "survived")
