"""The asset `attribution_proof` on a small store: a folder that the command accepts, and nothing written twice."""

from __future__ import annotations

import json
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from toys import WORDS, toy_texts

from assets.attribution import attribution_proof
from assets.launches import NOTHING, RESULT_TAG, WRITTEN
from assets.reporting import with_outliers
from grasp_pipeline import tables
from grasp_pipeline.__main__ import main
from grasp_pipeline.corpus.tokenizer import train_bpe
from grasp_pipeline.proof.claim import Claim
from grasp_pipeline.report.inputs import SCHEMAS, ReportInputs
from resources.delta.commits import Provenance
from resources.store import DeltaStore

ENCODER = train_bpe([text for source in WORDS for text in toy_texts(source, 20)], 300)


def write(store: DeltaStore, table: tables.Table, rows: list[dict]) -> None:
    frame = pl.concat([table.empty(), pl.DataFrame(rows)], how="diagonal_relaxed")
    store.tables.write(table, frame, Provenance("run", "test", "1", ""))


def empty_inputs(**versions: int) -> ReportInputs:
    """Return what a report of tables of some versions, all without rows, is made from."""
    nothing = {name: pl.DataFrame() for name in SCHEMAS}
    return ReportInputs(**nothing, versions=versions, store="", run_id="", target="mean", budget_tokens=1)


def test_a_claim_is_published_that_the_command_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = DeltaStore(root=str(tmp_path / "store"))
    encoded = {
        source: [ids[:16] for ids, _ in ENCODER.encode(list(toy_texts(source, 20)))] for source in WORDS
    }
    write(store, tables.CANDIDATES, [{"config_id": "c", "target": "mean", "task_weights": "{}"}])
    write(
        store,
        tables.TOKENIZED_SHARDS,
        [
            {
                "chunk_id": f"{source}-{i}",
                "input_ids": ids,
                "n_tokens": len(ids),
                "shard": "shard-0000",
                "source": "toy",
            }
            for source, texts in encoded.items()
            for i, ids in enumerate(texts)
        ],
    )
    source = next(iter(encoded))
    write(
        store,
        tables.TASKS,
        [
            {"task": "a", "split": "query", "chunk_id": f"q{i}", "input_ids": ids, "n_tokens": len(ids)}
            for i, ids in enumerate(encoded[source][:12])
        ],
    )

    def made() -> dict:
        done = dg.materialize([attribution_proof], resources={"store": store}, instance=instance)
        (event,) = done.asset_materializations_for_node("attribution_proof")
        return {name: value.value for name, value in event.metadata.items()}

    def said() -> str:
        (run,) = instance.get_runs(limit=1)
        return run.tags[RESULT_TAG]

    instance = dg.DagsterInstance.ephemeral()
    first = made()
    assert said() == WRITTEN
    assert first["accepted"]
    assert not first["up_to_date"]
    assert made()["up_to_date"]
    assert said() == NOTHING
    folder = tmp_path / "store" / "proof"
    about = json.loads((folder / "about.json").read_text())
    assert len(about["rows"]) == first["rows"]
    assert set(about["safe"]) == {"1", "10"}
    by_row = dict(zip(about["rows"], Claim.load(folder).labels, strict=True))
    assert len(about["outliers"]) == 10
    for each in about["outliers"]:
        mine = by_row[each["chunk_id"]] == 1
        assert (each["label"], each["source"]) == (("target", "a") if mine else ("corpus", "toy"))
    version = about["upstream"]["tokenized_shards"]
    told = with_outliers(empty_inputs(tokenized_shards=version), store)
    assert told.outliers.height == 10
    assert told.safe_estimators == about["safe"]
    assert told.measured_elsewhere == {}
    later = with_outliers(empty_inputs(tokenized_shards=version + 1), store).measured_elsewhere["outliers"]
    assert later.startswith(f"Measured on version {version} of tokenized_shards; this page is of")
    older = {name: value for name, value in about.items() if name != "upstream"}
    (folder / "about.json").write_text(json.dumps(older))
    assert with_outliers(empty_inputs(tokenized_shards=version), store).outliers.is_empty()
    assert main(["verify", str(folder), "--pairs", "600", "--seed", "7"]) == 0
    assert "accepted" in capsys.readouterr().out
