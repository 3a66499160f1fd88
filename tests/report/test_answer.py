"""The answer that the terminal, the page and --json begin with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from grasp_pipeline.report import answer
from grasp_pipeline.report.glossary import TERMS
from grasp_pipeline.report.inputs import SCHEMAS, ProxySize, ReportInputs
from grasp_pipeline.report.size import stored_parameters

Make = Callable[..., ReportInputs]


def test_the_answer_says_what_was_kept_for_what_and_at_what_size(make_report_inputs: Make) -> None:
    size = ProxySize("llama", 230_464, 200_000, 0.163)
    inputs = make_report_inputs(curation=3, time="2026-03-01T09:30:00+00:00", proxy=size)
    told = json.loads(json.dumps(answer.answer(inputs)))
    assert told["verdict"] == "certified"
    assert told["kept"] == {
        "tokens": 1_225_000,
        "of": 4_900_000,
        "share": 0.25,
        "chunks": int(inputs.sources["kept_chunks"].sum()),
        "budget": 1_225_000,
    }
    assert "Chosen for: the mean of 3 tasks, encyclopaedia_en, french, programming_docs." in told["headline"]
    assert "0.174 nats per token lower" in told["headline"]
    assert "perplexity 16% lower" in told["headline"]
    assert told["tasks"][0]["task"] == "mean"
    assert told["measured_with"]["parameters"] == 230_464
    assert answer.scale(inputs) == (
        "llama with 230k parameters; each corpus trained on for 200,000 tokens, 0.16 passes over what is kept"
    )
    assert "less than one pass" in answer.scale_warning(inputs)
    assert answer.when(inputs) == f"curation 3, 2026-03-01 09:30:00 UTC, run {inputs.run_id}"
    assert told["cost"]["corpora_trained"] == 11
    assert told["cost"]["seconds"] == pytest.approx(877.2)
    assert 2 <= len(told["why"]) <= 3


def test_a_scale_model_is_named(make_report_inputs: Make) -> None:
    told = make_report_inputs(proxy=ProxySize("llama", 230_464, 128_000, 1.0, 0.088))
    assert answer.scale(told).endswith("1 pass over a scale model, 8.8% of what is kept")
    assert "max_training_tokens" in answer.scale_warning(told)


def test_statisticians_words_stay_out_of_the_answer(make_report_inputs: Make) -> None:
    inputs = make_report_inputs()
    parts = [answer.headline(inputs), answer.scale(inputs), answer.cost(inputs), *answer.why_plainly(inputs)]
    for word in ("surrogate ", "rank correlation", "lower bound", "cross-fitted", "sketch", "lambda", "arm "):
        assert word not in " ".join(parts).replace(inputs.picked, "")
    assert {"Nats per token", "Perplexity", "Pass", "Proxy"} <= set(TERMS)


@pytest.mark.parametrize(
    ("margin", "error", "said"),
    [
        (0.1, 0.01, "Its lead over dsir is 0.100, more than the choice"),
        (0.01, 0.01, "Its lead over dsir is 0.010, so small"),
        (-0.1, 0.01, "It measured 0.100 behind dsir, more than"),
        (-0.01, 0.01, "It measured 0.010 behind dsir, so small"),
    ],
)
def test_how_sure_the_lead_is(make_report_inputs: Make, margin: float, error: float, said: str) -> None:
    margins = pl.DataFrame({"arm": ["dsir"], "task": ["mean"], "margin": [margin], "standard_error": [error]})
    assert answer.why_plainly(make_report_inputs(margins=margins))[1].startswith(said)


def test_an_answer_that_is_no_good_news(make_report_inputs: Make) -> None:
    worse = make_report_inputs().certificates.with_columns(
        improvement=pl.lit(-0.2), lower_bound=pl.lit(-0.3), certified=pl.lit(False)
    )
    told = answer.headline(make_report_inputs(certificates=worse))
    assert "0.200 nats per token higher" in told
    assert "perplexity 22% higher" in told
    assert "only known to be at least -0.300 better" in told
    assert "because the run allowed it" in told
    nothing = make_report_inputs(**dict.fromkeys(SCHEMAS, pl.DataFrame()))
    assert answer.answer(nothing)["verdict"] == "no certificate"
    assert answer.cost(nothing) == "not recorded"


def test_parameters_are_counted_from_headers(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, tmp_path / "one.safetensors")
    save_file({"c": np.zeros((), np.float32)}, tmp_path / "two.safetensors", metadata={"format": "pt"})
    assert stored_parameters(str(tmp_path)) == 18
    assert stored_parameters(str(tmp_path / "none")) is None
