"""After recurate: what is shown is of the corpus that ships, or says which corpus it was measured for."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from toys import toy_texts
from workplace import Curated, Workplace

from assets.reporting import report_inputs
from grasp_pipeline import tables


def arrivals(count: int) -> pl.DataFrame:
    rows = [(f"new-{number}", "news", text) for number, text in enumerate(toy_texts("news", count, "late"))]
    return pl.DataFrame(rows, schema=["key", "origin_name", "body"], orient="row")


def test_a_curated_store_says_nothing_of_other_corpora(curated: Curated) -> None:
    assert report_inputs(curated.place.delta).measured_elsewhere == {}


def test_the_margin_is_that_of_the_losses_per_document(curated: Curated) -> None:
    inputs = report_inputs(curated.place.delta)
    losses = dict(inputs.arm_losses.filter(task="news").select("arm", "loss").iter_rows())
    margins = dict(inputs.margins.filter(task="news").select("arm", "margin").iter_rows())
    twice = {arm for arm in margins if arm not in inputs.random_arms}
    assert len(twice) > 3
    for arm in twice:
        assert margins[arm] == pytest.approx(losses[arm] - losses[inputs.picked], abs=1e-9)
    assert (inputs.margins["standard_error"] > 0).all()


def test_old_evidence_is_told_after_recurate(
    copied: Workplace, capsys: pytest.CaptureFixture[str], home: Path
) -> None:
    before = copied.delta.latest(tables.TOKENIZED_SHARDS)
    arrivals(8).write_parquet(copied.corpus / "c.parquet")
    assert copied.run_in_terminal(job="recurate") == 0
    now = copied.delta.latest(tables.TOKENIZED_SHARDS)
    assert before is not None
    assert now is not None
    assert now.version > before.version
    told = (
        r"Measured on curation 1, for an earlier corpus, not for the one that ships: "
        rf"version {before.version} of tokenized_shards \(curation 1, .*; what ships is of "
        rf"version {now.version} of tokenized_shards \(curation 2, .*\. The job curate measures it again\."
    )
    inputs = report_inputs(copied.delta)
    assert set(inputs.measured_elsewhere) == {"fidelity", "evaluation_losses", "selected_config"}
    assert all(re.fullmatch(told, sentence) for sentence in inputs.measured_elsewhere.values())
    assert inputs.tokens == copied.read(tables.TOKENIZED_SHARDS)["n_tokens"].sum()
    summary = " ".join(capsys.readouterr().out.split())
    assert summary.count("Measured on curation 1") == 3
    assert "(picked)" not in summary
    assert "This is curation 2;" in summary
    page = (copied.store / "report" / "report.html").read_text()
    assert page.count("Measured on curation 1") == 3
    card = (copied.store / "export" / "README.md").read_text()
    assert card.count("Measured on curation 1") == 1


def test_a_later_run_that_published_nothing_does_not_lend_its_certificate(copied: Workplace) -> None:
    """Another corpus was certified, or not, and the old one still ships: report and card stay its own."""
    shipped = copied.read(tables.CERTIFICATES)
    sure = {"finalists": {"confidence": 1 - 1e-12, "allow_uncertified": False}}
    only = ["finalists", "document_losses", "refitted_finalists", "certificates"]
    copied.run(changes=sure, only=only, fails=True)
    assert not copied.read(tables.CERTIFICATES)["certified"].any()
    inputs = report_inputs(copied.delta)
    assert inputs.certificates.equals(shipped)
    assert set(inputs.measured_elsewhere) == {"certificates"}
    assert inputs.measured_elsewhere["certificates"].startswith("A later run published nothing: version ")
    copied.run(changes={"export": {"shard_tokens": 2048}}, only=["export"])
    card = (copied.store / "export" / "README.md").read_text()
    assert all(statement.split(" nats")[0] in card for statement in shipped.filter(task="mean")["statement"])
