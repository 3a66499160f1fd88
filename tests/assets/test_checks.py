"""Every asset check on a sound store, which passes, and on stores with one fault each, which fail for that fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from table_toys import one_row, rows

from assets import checks
from grasp_pipeline import tables
from grasp_pipeline.corpus.normalize import document_id
from grasp_pipeline.definitions import defs
from grasp_pipeline.sketch.storage import encode
from grasp_pipeline.tables import Table
from resources.audit import documents_digest, sealed_now, short_ids
from resources.delta.commits import Provenance, Read
from resources.notes import FilteredNote, TasksNote
from resources.store import DeltaStore

TEXTS = {"a": "first text", "b": "second"}
IDS = {name: document_id(text) for name, text in TEXTS.items()}
MADE = Provenance("run", "toy", "1", "config")
D = 4


@dataclass
class Store:
    """A store in which every check passes until something in it is changed."""

    store: DeltaStore

    def put(
        self,
        table: Table,
        *each: dict[str, Any],
        part: dict[str, str] | None = None,
        reads: tuple[Read, ...] = (),
        **statistics: Any,
    ) -> None:
        made = Provenance("run", table.name, "1", "config", reads)
        self.store.tables.write(table, rows(table, *each), made, part, statistics)

    def sketches(
        self,
        chunks: tuple[str, ...] = ("c1", "c2", "c3"),
        values: float = 1.0,
        scale: float = 1.0,
        norm: float = 1.0,
        part: int = 1,
        d: int = D,
    ) -> None:
        named = {"sketch_kind": "output", "shard": f"s{part}"}
        stored = encode(np.ones((1, d), dtype=np.float32), 1.0, ["c"])[0]
        if not np.isfinite(values):
            stored = np.full(d, values, dtype="<f2").tobytes()
        each = [
            named | {"chunk_id": one, "sketch": stored, "d": d, "scale": scale, "norm": norm}
            for one in chunks
        ]
        self.put(tables.GRADIENT_SKETCHES, *each, part=named)

    def kept(self, *names: str, tokens: int = 4, repeats: int = 1, **values: Any) -> None:
        each = [{"chunk_id": c, "kept_tokens": tokens, "repeats": repeats, **values} for c in names]
        self.put(tables.PRUNED_CORPUS, *each)

    def dropped(self, *names: str, **values: Any) -> None:
        said = {"reason": "low_alignment", "value": 0.1, "threshold": 0.5} | values
        self.put(tables.DROP_REASONS, *[{"chunk_id": c, "nearest_kept": "c1", **said} for c in names])

    def filter(self, **values: Any) -> None:
        said = {"arm": "x", "shipped_arm": "x", "agreement": 0.9} | values
        self.put(tables.RESIDUAL_FILTER, said)

    def filtered(self, tau: float = 0.5, shard: str = "f", **values: Any) -> None:
        each = {"chunk_id": f"{shard}1", "value": 0.7, "kept": True, "text": "kept", "shard": shard}
        low = {"chunk_id": f"{shard}2", "value": 0.3, "kept": False, "text": None, "shard": shard}
        counts = dict.fromkeys(("documents", "rejected", "chunks", "kept_chunks", "tokens", "kept_tokens"), 0)
        note = FilteredNote(**counts, tau=tau, made_from="", rests_on={})
        self.put(tables.FILTERED_SHARDS, each | values, low, part={"shard": shard}, **note.to_json())

    def certify(self, certified: bool, allowed: bool = False, other: bool = True) -> None:
        head = {"arm": "x", "baseline": "random", "task": "mean", "certified": certified, "statement": "said"}
        self.put(
            tables.CERTIFICATES,
            head,
            head | {"task": "news", "certified": other},
            head | {"baseline": "influence", "certified": other},
            target="mean",
            allow_uncertified=allowed,
        )

    def protocol(self, evaluate: bool = True, peek: bool = False) -> None:
        """Go through the sealed protocol; `tests/resources/test_audit.py` has the ways to cheat."""
        delta = self.store.tables
        chunk = one_row(tables.TASKS, split="evaluation")
        noted = TasksNote(evaluation_documents=documents_digest(chunk)).to_json()
        delta.write(tables.TASKS, chunk, MADE, statistics=noted)
        for split in ("calibration", "evaluation"):
            said = {"ids": short_ids([split]), "seeds": 2, "calibration_pool": None, **noted}
            self.put(tables.SUBSETS, {"subset_id": split, "split": split}, part={"split": split}, **said)

        def measure(split: str, *reads: Read) -> None:
            self.put(
                tables.SUBSET_UTILITIES,
                {"subset_id": split, "split": split},
                part={"split": split},
                reads=(delta.pin(tables.SUBSETS, {"split": split}), *reads),
            )

        measure("calibration")
        if peek:
            measure("evaluation")
        read = delta.pin(tables.CANDIDATES), delta.pin(tables.SUBSETS, {"split": "calibration"})
        delta.write(
            tables.SELECTED_CONFIG,
            one_row(tables.SELECTED_CONFIG),
            Provenance("run", "surrogates", "1", "config", read),
            statistics=sealed_now(delta).to_json(),
        )
        if evaluate:
            measure("evaluation", delta.pin(tables.SELECTED_CONFIG))

    def fill(self) -> Store:
        self.manifest()
        self.documents()
        self.put(tables.REJECTED_DOCUMENTS, {"doc_id": "r"})
        self.chunks()
        self.put(tables.SKETCHERS, {"sketch_kind": "output", "d": D})
        self.sketches()
        self.put(tables.CANDIDATES, {"budget_tokens": 8})
        self.kept("c1", "c2")
        self.dropped("c3")
        self.put(tables.FIDELITY, {"corpus": "text"}, part={"corpus": "text"})
        self.put(tables.FIDELITY, {"corpus": "digits", "stratum": "digits/all"}, part={"corpus": "digits"})
        self.filter()
        self.filtered()
        self.certify(True)
        self.protocol()
        return self

    def manifest(self, last: dict[str, Any] | None = None, size: int | None = 30, **values: Any) -> None:
        """One file of 30 bytes in two blocks of two rows and one."""
        both = {"unit": "byte", "n_faulty": 0, "faulty_extent": 0} | values
        blocks = [both | {"block": 0, "n_rows": 2, "extent": 20, "file_extent": None}]
        blocks.append(both | {"block": 1, "n_rows": 1, "extent": 10, "file_extent": size} | (last or {}))
        self.put(tables.MANIFEST, *blocks)

    def documents(self, *more: dict[str, Any], **changed: str) -> None:
        each = [{"doc_id": IDS[name], "text": changed.get(name, text)} for name, text in TEXTS.items()]
        self.put(tables.DOCUMENTS, *each, *more)

    def chunks(self, *more: dict[str, Any], first: int = 4, start: int = 4, last: int = 6) -> None:
        """Chunks c1 and c2 tile document a, c3 is document b."""
        a, b = IDS["a"], IDS["b"]
        self.put(
            tables.TOKENIZED_SHARDS,
            {"chunk_id": "c1", "doc_id": a, "n_tokens": 4, "start": 0, "end": first},
            {"chunk_id": "c2", "doc_id": a, "n_tokens": 4, "start": start, "end": 10},
            {"chunk_id": "c3", "doc_id": b, "n_tokens": 4, "start": 0, "end": last},
            *more,
        )


def twice(store: Store) -> None:
    """The same chunk in two partitions, which are written apart."""
    store.filtered(shard="g")
    store.filtered(chunk_id="g1")


def unmeasured(store: Store) -> None:
    """Calibration utilities alone, in a table of their own."""
    shutil.rmtree(store.store.tables.uri(tables.SUBSET_UTILITIES))
    store.protocol(evaluate=False)


FAULTS: dict[str, dict[str, Callable[[Store], None]]] = {
    "no_document_lost": {
        "a document is missing": lambda s: s.put(tables.DOCUMENTS, {"doc_id": IDS["a"]}),
        "a rejected one is missing": lambda s: s.put(tables.REJECTED_DOCUMENTS),
        "one is there too many": lambda s: s.documents({"doc_id": "more"}),
        "a block is missing": lambda s: s.manifest({"n_rows": 0, "extent": 10}),
        "a part of a file is in no row": lambda s: s.manifest({"extent": 9}),
        "a part of a file is in two rows": lambda s: s.manifest({"extent": 11}),
        "a file was not read to its end": lambda s: s.manifest(size=None),
        "a table was not read to its end": lambda s: s.manifest({"extent": 9}, unit="row"),
        "lost in one shard, there twice in another": lambda s: s.manifest({"shard": "t"}),
        "most rows have no text": lambda s: s.manifest(n_faulty=1),
        "most bytes have no text": lambda s: s.manifest(faulty_extent=9),
    },
    "document_ids_hold": {
        "a text was changed": lambda s: s.documents(a="another"),
        "an id stands for no text": lambda s: s.documents({"doc_id": "f" * 64}),
        "an id is there twice": lambda s: s.put(
            tables.DOCUMENTS, {"doc_id": IDS["a"], "text": TEXTS["a"], "shard": "t"}, part={"shard": "t"}
        ),
    },
    "no_text_lost": {
        "the end of a document": lambda s: s.chunks(last=5),
        "a gap": lambda s: s.chunks(start=5),
        "an overlap": lambda s: s.chunks(start=3),
        "an overlap and a gap that cancel out": lambda s: s.chunks(
            {"chunk_id": "c4", "doc_id": IDS["b"], "start": 0, "end": 1}, last=5
        ),
        "a document without chunks": lambda s: s.documents({"doc_id": "c", "text": "third"}),
        "chunks without a document": lambda s: s.chunks({"chunk_id": "c4", "doc_id": "gone", "end": 3}),
    },
    "sketches_complete": {
        "a chunk has none": lambda s: s.sketches(("c1", "c2")),
        "a chunk has two, another none": lambda s: (s.sketches(("c1", "c2")), s.sketches(("c2",), part=2)),
        "a value is infinite": lambda s: s.sketches(values=np.inf),
        "a norm is not a number": lambda s: s.sketches(norm=np.nan),
        "values are missing": lambda s: s.sketches(d=D - 1),
        "two scales": lambda s: (s.sketches(("c1", "c2")), s.sketches(("c3",), scale=2.0, part=2)),
    },
    "evaluation_sealed": {"the subsets were seen before the choice": lambda s: s.protocol(peek=True)},
    "evaluation_read_after_choice": {
        "the subsets were seen before the choice": lambda s: s.protocol(peek=True),
        "nothing was measured after the choice": unmeasured,
    },
    "certificate_above_zero": {
        "the bound on the target is below 0": lambda s: s.certify(False),
        "so it is, and others are above": lambda s: s.certify(False, allowed=True),
    },
    "corpus_accounted_for": {
        "a chunk is kept and dropped": lambda s: s.dropped("c2", "c3"),
        "a chunk is neither": lambda s: s.dropped(),
        "above the budget": lambda s: s.kept("c1", "c2", tokens=5),
        "above the budget by repeats": lambda s: s.kept("c1", "c2", repeats=2),
    },
    "fidelity_keys_unique": {
        "a data set's row is named like one of text": lambda s: s.put(
            tables.FIDELITY, {"corpus": "digits"}, part={"corpus": "digits"}
        ),
    },
    "reasons_can_be_followed": {
        "low alignment above the threshold": lambda s: s.dropped("c3", value=0.6),
        "low alignment at the threshold": lambda s: s.dropped("c3", value=0.5),
        "low alignment without a value": lambda s: s.dropped("c3", value=None),
        "redundant above the threshold": lambda s: s.dropped("c3", reason="redundant", value=0.6),
        "redundant without a value": lambda s: s.dropped("c3", reason="redundant", value=None),
        "redundant with a chunk that was not kept": lambda s: s.dropped(
            "c3", reason="redundant", nearest_kept="c3"
        ),
        "a quota without a name": lambda s: s.dropped("c3", reason="quota", quota=None),
        "no strongest task": lambda s: s.dropped("c3", strongest_task=None),
        "no weakest task": lambda s: s.dropped("c3", weakest_task=None),
        "kept for no task": lambda s: s.kept("c1", "c2", top_task=None),
        "no reason": lambda s: s.dropped("c3", reason=None),
        "an unknown reason": lambda s: s.dropped("c3", reason="disliked"),
        "no score is named": lambda s: s.dropped("c3", score=None),
        "a quota without a value": lambda s: s.dropped("c3", reason="quota", value=None),
        "low alignment without a neighbour": lambda s: s.dropped("c3", nearest_kept=None),
        "low alignment with a neighbour that was not kept": lambda s: s.dropped("c3", nearest_kept="c3"),
        "a neighbour without a similarity": lambda s: s.dropped("c3", similarity=None),
    },
    "filter_stands_for_the_corpus": {
        "it keeps other tokens": lambda s: s.filter(agreement=0.89),
        "it is another arm's": lambda s: s.filter(shipped_arm="y"),
    },
    "filter_decides_by_value": {
        "kept below the threshold": lambda s: s.filtered(tau=0.8),
        "dropped above it": lambda s: s.filtered(tau=0.2),
        "kept without text": lambda s: s.filtered(text=None),
        "a chunk is there twice": twice,
    },
}
"""Check -> what may be wrong -> how to make it so in a sound store."""

CASES = [(check, fault) for check, faults in FAULTS.items() for fault in faults]
PASSING: dict[str, dict[str, Callable[[Store], None]]] = {
    "certificate_above_zero": {"another task's bound is below 0": lambda s: s.certify(True, other=False)},
    "corpus_accounted_for": {
        "the whole corpus, above any budget": lambda s: (s.kept("c1", "c2", "c3", tokens=9), s.dropped())
    },
    "reasons_can_be_followed": {
        "redundant with a kept chunk": lambda s: s.dropped("c3", reason="redundant"),
        "a duplicate, which has no value": lambda s: s.dropped(
            "c3", reason="duplicate", value=None, score=None
        ),
        "a draw, which judges nobody": lambda s: s.dropped(
            "c3", reason="quota", value=None, score="random_draw"
        ),
    },
    "filter_decides_by_value": {"exactly at the threshold": lambda s: s.filtered(tau=0.7)},
}
"""Check -> what looks odd and is right."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "store"
    Store(DeltaStore(root=str(folder))).fill()
    return folder


@pytest.fixture
def sound(filled: Path, tmp_path: Path) -> Store:
    """A copy of the sound store, to change."""
    return Store(DeltaStore(root=str(shutil.copytree(filled, tmp_path / "store"))))


def run(name: str, store: Store) -> dg.AssetCheckResult:
    return getattr(checks, name)(store.store)


def test_every_check_is_tried() -> None:
    names = {key.name for key in defs.resolve_asset_graph().asset_check_keys}
    assert names == set(FAULTS)


@pytest.mark.parametrize("check", FAULTS)
def test_a_sound_store_passes(sound: Store, check: str) -> None:
    found = run(check, sound)
    assert found.passed, found.metadata


@pytest.mark.parametrize(("check", "fault"), CASES)
def test_a_fault_is_found(sound: Store, check: str, fault: str) -> None:
    FAULTS[check][fault](sound)
    assert not run(check, sound).passed


@pytest.mark.parametrize(("check", "what"), [(c, what) for c, cases in PASSING.items() for what in cases])
def test_what_is_right_passes(sound: Store, check: str, what: str) -> None:
    PASSING[check][what](sound)
    found = run(check, sound)
    assert found.passed, found.metadata


def test_what_a_check_tells(sound: Store) -> None:
    """The figures beside the verdict, which a user sees first."""

    def told(check: str, *names: str) -> list[Any]:
        found = run(check, sound).metadata
        return [found[name].value for name in names]

    assert told("no_document_lost", "rows_read", "documents", "rejected") == [3, 2, 1]
    assert told("document_ids_hold", "documents", "duplicated_ids", "wrong_digests_of_500") == [2, 0, 0]
    accounted = "kept_and_dropped", "unexplained_chunks", "kept_tokens", "budget_tokens", "whole_corpus_kept"
    assert told("corpus_accounted_for", *accounted) == [0, 0, 8, 8, False]
    assert told("fidelity_keys_unique", "repeated", "rows") == [0, {"digits": 1, "text": 1}]
    sound.dropped("c2")
    assert told("corpus_accounted_for", *accounted[:2]) == [1, 1]
    sound.sketches(("c1",))
    assert told("sketches_complete", "chunks", "faulty_kinds") == [3, ["output"]]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_certificate_below_0_warns_or_fails_as_it_was_asked(sound: Store, allowed: bool) -> None:
    sound.certify(False, allowed=allowed)
    found = run("certificate_above_zero", sound)
    assert found.severity is (dg.AssetCheckSeverity.WARN if allowed else dg.AssetCheckSeverity.ERROR)
    assert ("Nothing is published" in (found.description or "")) is not allowed


@pytest.mark.parametrize("bounds", [True, False])
def test_a_filter_that_does_not_stand_for_the_corpus_warns_and_fails_with_its_certificate(
    sound: Store, bounds: bool
) -> None:
    """The corpus itself is not in doubt; a certificate that the filter carries without having it is."""
    claimed = {} if bounds else {"improvement": None, "lower_bound": None}
    sound.filter(agreement=0.5, **claimed)
    found = run("filter_stands_for_the_corpus", sound)
    assert not found.passed
    assert found.severity is (dg.AssetCheckSeverity.ERROR if bounds else dg.AssetCheckSeverity.WARN)
    assert "0.500 of the kept tokens" in (found.description or "")
