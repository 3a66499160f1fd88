"""The curation's number: one row per published or refused result, and none for a rerun that changed nothing."""

from __future__ import annotations

import json

import polars as pl
import yaml
from toys import toy_texts
from workplace import Curated, Workplace, materialized

from grasp_pipeline import tables
from grasp_pipeline.tables import ALL


def arrivals(count: int) -> pl.DataFrame:
    rows = [(f"new-{number}", "news", text) for number, text in enumerate(toy_texts("news", count, "late"))]
    return pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")


def test_the_first_row_says_what_the_result_follows_from(curated: Curated) -> None:
    place = curated.place
    row = place.read(tables.CURATIONS).row(0, named=True)
    assert row["curation"] == 1
    assert row["published"]
    assert row["run_id"] == curated.result.run_id
    versions = json.loads(row["versions"])
    shipped = place.delta.standing(tables.PRUNED_CORPUS)
    assert shipped is not None
    assert {name: versions[name] for name in ("pruned_corpus", "certificates", "tokenized_shards")} == {
        "pruned_corpus": shipped.version,
        "certificates": shipped.reads["certificates"],
        "tokenized_shards": shipped.reads["tokenized_shards"],
    }
    assert set(versions) >= {
        "manifest",
        "documents",
        "rejected_documents",
        "drop_reasons",
        "subset_utilities",
    }
    for name, version in versions.items():
        assert place.delta.read(ALL[name], version).select(pl.len()).collect().item() >= 0
    pruned = place.read(tables.PRUNED_CORPUS)
    assert (row["chunks"], row["tokens"]) == (pruned.height, pruned["kept_tokens"].sum())
    assert row["documents"] == pruned["doc_id"].n_unique()
    ops = yaml.safe_load(row["configuration"])["ops"]
    assert set(ops) >= {"manifest", "documents", "candidates", "finalists"}
    asked = place.run_config()["ops"]
    assert ops["manifest"]["config"]["paths"] == asked["manifest"]["config"]["paths"]
    inputs = json.loads(row["inputs"])
    assert set(inputs) == set(place.read(tables.MANIFEST)["uri"])
    assert sum(each["rows"] for each in inputs.values()) == place.read(tables.MANIFEST)["n_rows"].sum()
    assert {"polars", "torch"} <= set(json.loads(row["packages"]))
    assert len(json.loads(row["certificate"])) == place.read(tables.CERTIFICATES).height


def test_all_that_is_published_carries_the_number(curated: Curated) -> None:
    place = curated.place
    for table in (tables.PRUNED_CORPUS, tables.DROP_REASONS, tables.RESIDUAL_FILTER):
        assert place.delta.curation(table) == 1
        assert set(place.read(table)["curation"]) == {1}
    assert set(pl.read_parquet(place.store / "export" / "corpus.parquet")["curation"]) == {1}
    assert "| curation | 1 |" in (place.store / "export" / "README.md").read_text()
    manifest = json.loads((place.store / "export" / "manifest.json").read_text())
    assert manifest["curation"] == 1
    assert yaml.safe_load((place.store / "export" / "curation.yaml").read_text())["curation"] == 1
    assert "Curation 1." in (place.store / "report" / "report.html").read_text()


def test_new_documents_make_the_second_and_a_refusal_the_third(copied: Workplace) -> None:
    arrivals(8).write_parquet(copied.corpus / "c.parquet")
    copied.run("recurate")
    rows = copied.read(tables.CURATIONS)
    assert rows["curation"].to_list() == [1, 2]
    before, after = (json.loads(text) for text in rows["inputs"])
    assert len(set(after) - set(before)) == 1
    assert all(after[uri] == before[uri] for uri in before)
    assert copied.delta.curation(tables.PRUNED_CORPUS) == 2
    assert set(copied.read(tables.PRUNED_CORPUS)["curation"]) == {2}
    copied.run("recurate")
    assert copied.read(tables.CURATIONS).equals(rows)

    sure = {"finalists": {"confidence": 1 - 1e-12, "allow_uncertified": False}}
    only = ["finalists", "document_losses", "refitted_finalists", "certificates"]
    copied.run(changes=sure, only=only, fails=True)
    copied.run(only=["pruned_corpus", "drop_reasons", "residual_filter"], fails=True)
    rows = copied.read(tables.CURATIONS)
    assert rows.select("curation", "published", "certified").rows()[2] == (3, False, False)
    assert copied.delta.curation(tables.PRUNED_CORPUS) == 2
    copied.run(only=["pruned_corpus", "drop_reasons", "residual_filter"], fails=True)
    assert copied.read(tables.CURATIONS).equals(rows)


def test_a_store_from_before_the_table_gets_its_first_row(copied: Workplace) -> None:
    """Tables as the version before wrote them: no table `curations`, and no numbers in the logs."""
    import shutil

    shutil.rmtree(copied.store / "curations")
    versions = copied.versions()
    copied.run(only=["curations"])
    assert copied.read(tables.CURATIONS)["curation"].to_list() == [1]
    after = copied.versions()
    assert {key for key in after if after[key] != versions.get(key)} == {("curations", "")}


def test_dagster_shows_what_became_of_everything(curated: Curated) -> None:
    place = curated.place
    shown = materialized(curated.result, "curations")
    counts = {
        (each.data["outcome"], each.data["reason"]): each.data["count"] for each in shown["fates"].records
    }
    reasons = place.read(tables.REJECTED_DOCUMENTS).group_by("reason").len().iter_rows()
    dropped = place.read(tables.DROP_REASONS).group_by("reason").len().iter_rows()
    assert counts == {
        ("clean", ""): place.read(tables.DOCUMENTS).height,
        ("kept", ""): place.read(tables.PRUNED_CORPUS).height,
        **{("rejected", reason): n for reason, n in reasons},
        **{("dropped", reason): n for reason, n in dropped},
    }
    assert shown["explain"].endswith("--curation 1")
