"""The summary in the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import polars as pl
import pytest
from rich.console import Console

from grasp_pipeline.report.inputs import SCHEMAS, ReportInputs
from grasp_pipeline.report.page import render
from grasp_pipeline.report.summary import print_summary
from grasp_pipeline.report.why import why_it_won

Make = Callable[..., ReportInputs]


def printed(inputs: ReportInputs, width: int = 90, report: str = "") -> str:
    """Return the summary as plain text."""
    console = Console(file=io.StringIO(), width=width, force_terminal=False, legacy_windows=False)
    print_summary(inputs, console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 90, 100])
def test_summary_says_what_matters(make_report_inputs: Make, width: int) -> None:
    text = printed(make_report_inputs(), width, "/srv/grasp/store/export/report.html")
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    flat = " ".join(text.split())
    for part in (
        "Read 14,852 documents, rejected 420 (2.8%); 14,432 documents, 4,900,000 tokens are clean.",
        "Kept 1,225,000 tokens (25.0%; budget 1,225,000).",
        "too_short 262 1.8%",
        "redundant 3,510 448,900 9.2%",
        "Chose full-rho3-lambda1.4-mean",
        "surrogate mean 0.957 [0.927, 0.977] reference",
        "influence sum 0.903 [0.873, 0.923] +0.054 [+0.038, +0.070]",
        "Noise ceiling 0.985; 110 subsets.",
        "surrogate-ngrams-0.7 (picked) 4.392 0.012 +0.169 [+0.129, +0.209]",
        "subset_utilities 6 min 43 s",
        "CERTIFIED Kept 1,225,000 of 4,900,000 tokens (25.0%). Chosen for: the mean of 3 tasks",
        "The certificate At 200,000 tokens the pruned corpus",
        "95% lower bound 0.121.",
        "tables /srv/grasp/store",
        "report /srv/grasp/store/export/report.html",
    ):
        assert part in flat


def test_summary_of_an_uncertified_run(make_report_inputs: Make) -> None:
    plain = make_report_inputs()
    inputs = make_report_inputs(
        certificates=plain.certificates.with_columns(certified=pl.lit(False)),
        sources=plain.sources.with_columns(kept_tokens=pl.lit(0)),
        fidelity=pl.DataFrame(),
        evaluation_losses=pl.DataFrame(),
        timings=pl.DataFrame(),
    )
    text = printed(inputs)
    assert text.startswith("\nNOT CERTIFIED\n  Nothing was published")
    assert "Nothing was published." in text
    assert text.count("Not measured yet") == 2
    assert "Time" not in text


def test_summary_of_nothing(make_report_inputs: Make) -> None:
    text = printed(make_report_inputs(**dict.fromkeys(SCHEMAS, pl.DataFrame())))
    assert text.startswith("\nNO CERTIFICATE\n")


def test_data_cannot_steer_the_terminal(make_report_inputs: Make) -> None:
    rejected = pl.DataFrame(
        {"reason": ["[red]\x1b[2Jreason[/red]"], "source": ["a"], "documents": [3], "bytes": [3]}
    )
    text = printed(make_report_inputs(rejected=rejected))
    assert "[red]�[2Jreason[/red]" in text
    assert "\x1b" not in text


def test_long_paths_stay_whole(make_report_inputs: Make) -> None:
    path = "/srv/" + "deep/" * 40 + "report.html"
    assert path in printed(make_report_inputs(), 80, path)


def test_the_certificate_comes_first_with_a_row_per_task(make_report_inputs: Make) -> None:
    plain = make_report_inputs()
    fails = (pl.col("task") == "programming_docs") & (pl.col("baseline") == "random")
    certificates = plain.certificates.with_columns(
        certified=pl.when(fails).then(False).otherwise("certified"),
        lower_bound=pl.when(fails).then(-0.02).otherwise("lower_bound"),
    )
    text = printed(make_report_inputs(certificates=certificates))
    assert text.split()[0] == "CERTIFIED"
    lines = [" ".join(line.split()) for line in text[: text.index("What shipped")].splitlines()]
    assert [line for line in lines if line.endswith((" yes", " CERTIFIED"))] == [
        "mean over tasks +0.174 +0.121 yes",
        "programming_docs +0.142 -0.020 NOT CERTIFIED",
        "encyclopaedia_en +0.081 +0.028 yes",
        "french +0.299 +0.246 yes",
    ]
    page = " ".join(re.sub("<[^>]*>", "", render(make_report_inputs(certificates=certificates))).split())
    assert "Not certified against random on programming_docs." in page


def test_why_what_won_won_in_three_sentences(make_report_inputs: Make) -> None:
    margins = pl.DataFrame(
        {
            "arm": ["dsir", "full"],
            "task": ["mean"] * 2,
            "margin": [0.012, 0.1],
            "standard_error": [0.01, 0.01],
        }
    )
    first, second, third = why_it_won(make_report_inputs(margins=margins))
    assert first == (
        "11 corpora were retrained at 200,000 tokens each, and on the calibration documents (mean over tasks) "
        "surrogate-ngrams-0.7 has the lowest loss, 4.401 nats per token, beside 4.413 of the runner-up dsir and 4.579 "
        "of random draws."
    )
    assert (
        "over dsir is 0.012 nats per token, 95% interval over documents [-0.008, 0.032], so other documents could"
        in second
    )
    assert third.startswith(
        "surrogate-ngrams-0.7 was built by optimising the surrogate; the surrogate itself adopted"
    )
    assert "lambda 1.4 (full-rho3-lambda1.4-mean)" in third
    plain = make_report_inputs()
    additive = make_report_inputs(
        margins=margins.with_columns(standard_error=pl.lit(0.001)),
        selected_config=plain.selected_config.with_columns(lam=pl.lit(0.0)),
        finalists=plain.finalists.with_columns(role=pl.lit("simple")),
    )
    covered = plain.selected_config.with_columns(
        config_id=pl.lit("events-rho30-joint"), form=pl.lit("joint"), rho=pl.lit(30.0), lam=pl.lit(1.0)
    )
    inputs = make_report_inputs(margins=margins, selected_config=covered)
    told = why_it_won(inputs)
    assert "log-coverage, joint form, smoothing rho 30" in re.sub("<[^>]*>", "", render(inputs))
    assert "adopted log-coverage of the queries' bigrams with smoothing 30 (events-rho30-joint)" in told[2]
    behind = make_report_inputs(margins=margins.with_columns(-pl.col("margin"), standard_error=pl.lit(0.001)))
    assert (
        "[-0.014, -0.010], so it measured behind dsir, and other documents would hardly have reversed that order;"
        in why_it_won(behind)[1]
    )
    told = why_it_won(additive)
    assert "could hardly" not in told[1]
    assert "would hardly have reversed" in told[1]
    assert "is a comparison arm that no surrogate built; the surrogate itself fell back" in told[2]
    assert why_it_won(make_report_inputs(**dict.fromkeys(SCHEMAS, pl.DataFrame()))) == []


def test_evidence_of_another_corpus_is_told_and_marks_no_pick(make_report_inputs: Make) -> None:
    told = {name: f"Measured for another corpus ({name})." for name in ("fidelity", "evaluation_losses")}
    inputs = make_report_inputs(measured_elsewhere=told)
    for shown in (printed(inputs, 100), re.sub("<[^>]*>", "", render(inputs))):
        assert all(sentence in shown for sentence in told.values())
    assert "surrogate-ngrams-0.7 (picked)  4.392" not in printed(inputs)
    assert "surrogate-ngrams-0.7 (picked)  4.392" in printed(make_report_inputs())
