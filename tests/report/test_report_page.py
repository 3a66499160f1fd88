"""The report: complete, escaped, well-formed, self-contained and the same for the same inputs."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise

import polars as pl
import pytest

from grasp_pipeline.report.blocks import MOST_ROWS
from grasp_pipeline.report.inputs import SCHEMAS, ReportInputs
from grasp_pipeline.report.page import render

Make = Callable[..., ReportInputs]
HOSTILE = "<script>alert(1)</script>"
QUOTES = '"onload=\'x\' & $\\frac$ id="figure_1" -->'
ALLOWED = frozenset(
    re.findall(
        r"\w+",
        "html head meta title style body main header nav section h1 h2 h3 p a ul li div strong small dl dt dd "
        "table caption thead tbody tr th td bdi code figure figcaption details summary "
        "svg g defs path text use clippath rect script",
    )
)
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Document(HTMLParser):
    """Collects what a browser would see; raises on tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.shown: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"}.intersection(self.open):
            self.shown.append(data)

    @property
    def text(self) -> str:
        """All text, spaces made single."""
        return " ".join("".join(self.shown).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element with this tag."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(make_report_inputs: Make) -> str:
    """Return the page of the hand-made run."""
    return render(make_report_inputs())


def test_page_is_well_formed_and_self_contained(page: str) -> None:
    document = Document(page)
    assert page.startswith("<!DOCTYPE html>")
    assert not {"link", "img", "iframe", "object", "form"} & {tag for tag, _ in document.tags}
    assert document.all("script") == [{"type": "application/json", "id": "explore-data"}, {}]
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "@import" not in page
    assert "url(http" not in page
    for _, attributes in document.tags:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")


def test_page_has_unique_ids_and_working_references(page: str) -> None:
    document = Document(page)
    ids = [attributes["id"] for _, attributes in document.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r'(?:href="#|url\(#)([\w.-]+)', page)
    assert targets
    assert set(targets) <= set(ids)


def test_page_is_accessible(page: str) -> None:
    document = Document(page)
    assert len(document.all("main")) == len(document.all("h1")) == 1
    assert document.all("html") == [{"lang": "en"}]
    assert len(document.all("table")) == len(document.all("caption"))
    assert all(cell.get("scope") in ("row", "col") for cell in document.all("th"))
    pictures = document.all("svg")
    assert len(pictures) == 7
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    levels = [int(tag[1]) for tag, _ in document.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_page_has_every_section_in_order(page: str) -> None:
    text = Document(page).text
    parts = [
        "Certified",
        "Kept 1,225,000 of 4,900,000 tokens (25.0%). Chosen for: the mean of 3 tasks",
        "at least 0.121 lower with 95% confidence",
        "mean over tasks+0.174+0.121yes",
        "What shippedsurrogate-ngrams-0.7",
        "Cost14 min 37 s in all, most of it subset_utilities (6 min 43 s); 11 candidate corpora",
        "Documents read14,852",
        "Chose full-rho3-lambda1.4-mean",
        "Finalists, the picked one first",
        "surrogate-ngrams-0.7 (picked)candidate4.401+1.91yes1,225,000",
        "Certificates, the one that decides marked",
        "mean over tasksrandom+0.174+0.12195%yes902117.3",
        "beats random by 0.174 nats per token",
        "surrogatemean0.957 [0.927, 0.977]reference0.985110",
        "influencesum0.903 [0.873, 0.923]+0.054 [+0.038, +0.070]",
        "surrogate-ngrams-0.74.3920.012+0.169 [+0.129, +0.209]3200,000",
        "gnome-help1,1801.58 MB601,00062,00010.3%5.1%",
        "too_short2621.8%10.1 kBFewer characters than the limit.",
        "redundant3,510448,9009.2%",
        "pruned_corpus2",
        "reference1,000,0004.6104.720",
        "all14 min 37 s",
        "Noise ceiling",
        "How well the measured losses agree with themselves",
    ]
    place = 0
    for part in parts:
        found = text.find(part, place)
        assert found >= 0, f"{part!r} is not on the page, or not after what should come before it"
        place = found


def test_page_is_the_same_for_the_same_inputs(make_report_inputs: Make, page: str) -> None:
    assert render(make_report_inputs()) == page


@pytest.mark.parametrize("name", [HOSTILE, QUOTES])
def test_names_from_data_are_escaped(make_report_inputs: Make, name: str) -> None:
    plain = make_report_inputs()

    def poison(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
        return frame.with_columns(
            pl.format("{}{}", pl.lit(name), pl.col(column)).alias(column) for column in columns
        )

    document = Document(
        render(
            make_report_inputs(
                sources=poison(plain.sources, "source"),
                rejected=poison(plain.rejected, "reason", "source"),
                drop_reasons=poison(plain.drop_reasons, "reason", "source"),
                surrogates=poison(plain.surrogates, "config_id", "sketch_kind", "form"),
                selected_config=poison(plain.selected_config, "config_id", "best_additive", "reason", "form"),
                finalists=poison(plain.finalists, "arm", "description"),
                arm_losses=poison(plain.arm_losses, "arm", "task"),
                certificates=poison(plain.certificates, "arm", "fold_picks", "statement"),
                fidelity=plain.fidelity.with_columns(
                    method=pl.lit(name) + pl.col("method"), form=pl.lit(name) + pl.col("form")
                ),
                evaluation_losses=poison(plain.evaluation_losses, "arm", "task"),
                checkpoints=poison(plain.checkpoints, "role"),
                timings=poison(plain.timings, "stage"),
                versions={name: 1},
                store=name,
                run_id=name,
                target=name + "mean",
            )
        )
    )
    assert {tag for tag, _ in document.tags} <= ALLOWED
    assert not [key for _, attributes in document.tags for key in attributes if key.startswith("on")]
    assert document.text.count(name) > 100


def test_columns_beyond_the_schema_never_reach_the_page(make_report_inputs: Make) -> None:
    sources = make_report_inputs().sources.with_columns(text=pl.lit("the text of a document"))
    inputs = make_report_inputs(sources=sources)
    assert "text" not in inputs.sources.columns
    assert "the text of a document" not in render(inputs)


def test_uncertified_and_unpublished(make_report_inputs: Make) -> None:
    plain = make_report_inputs()
    statement = "At 200,000 tokens nothing can be certified: the 95% lower bound is -0.031, not above 0."
    certificates = plain.certificates.with_columns(certified=pl.lit(False), statement=pl.lit(statement))
    nothing = plain.sources.with_columns(kept_tokens=pl.lit(0))
    inputs = make_report_inputs(certificates=certificates, sources=nothing)
    assert not inputs.certified
    page = render(inputs)
    assert 'class="verdict"' in page
    text = Document(page).text
    assert "Not certifiedNothing was published of 4,900,000 tokens." in text
    assert statement in text

    text = Document(render(make_report_inputs(certificates=certificates))).text
    assert "(25.0%), published without a certificate because the run allowed it. Chosen" in text


def test_fidelity_not_measured_yet(make_report_inputs: Make) -> None:
    inputs = make_report_inputs(fidelity=pl.DataFrame(), evaluation_losses=pl.DataFrame())
    document = Document(render(inputs))
    assert document.text.count("Not measured yet.") == 2
    assert len(document.all("svg")) == 4


def test_texts_that_decide_alone(make_report_inputs: Make) -> None:
    text = Document(render(make_report_inputs())).text
    assert "1 of the 2 shown decides half of its own verdict or more." in text
    assert "m-170.930the corpusmail" in text
    assert "safe here: for 1 text rescaled influence, for 10 texts refit." in text
    assert "prove_attribution" not in text
    elsewhere = {"outliers": "Measured on version 3 of tokenized_shards"}
    assert elsewhere["outliers"] in Document(render(make_report_inputs(measured_elsewhere=elsewhere))).text
    text = Document(render(make_report_inputs(outliers=pl.DataFrame()))).text
    assert "run the job prove_attribution, then report again" in text


def test_nothing_at_all(make_report_inputs: Make) -> None:
    nothing = dict.fromkeys(SCHEMAS, pl.DataFrame())
    document = Document(render(make_report_inputs(**nothing, versions={})))
    assert "No certificate" in document.text
    assert document.all("svg") == []


def test_many_long_names_are_summed_up(make_report_inputs: Make) -> None:
    n = MOST_ROWS + 40
    sources = pl.DataFrame(
        {
            "source": [f"https://example.org/{'long/' * 30}{i}" for i in range(n)],
            "documents": [1] * n,
            "bytes": [10] * n,
            "tokens": list(range(n, 0, -1)),
            "kept_tokens": [0] * (n - 1) + [1],
            "kept_chunks": [0] * (n - 1) + [1],
        }
    )
    text = Document(render(make_report_inputs(sources=sources))).text
    assert f"{n - 16} smaller sources" in text
    assert "40 smaller sources40400 B820" in text


def test_draws_measured_as_one_arm(make_report_inputs: Make) -> None:
    losses = pl.DataFrame(
        {"arm": ["surrogate-ngrams-0.7", "random"], "task": ["mean"] * 2, "loss": [4.4, 4.6]}
    )
    text = Document(render(make_report_inputs(arm_losses=losses))).text
    assert "randomrandom4.600–yes" in text


def test_a_task_as_target(make_report_inputs: Make) -> None:
    inputs = make_report_inputs(target="french")
    assert inputs.headline is not None
    assert inputs.headline["task"] == "french"
    text = Document(render(inputs)).text
    assert "Target: french." in text
    assert "Calibration loss, french (nats per token)" in text
    assert "Sealed evaluation, french" in text
    assert inputs.on_target(inputs.arm_losses.filter(pl.col("task") == "mean"))[0] == "mean"


def test_wrong_columns_are_refused(make_report_inputs: Make) -> None:
    with pytest.raises(ValueError, match=r"frame sources lacks the columns \['kept_tokens'\]"):
        make_report_inputs(sources=make_report_inputs().sources.drop("kept_tokens"))
    with pytest.raises(ValueError, match="frame timings cannot be cast"):
        make_report_inputs(timings=pl.DataFrame({"stage": ["a"], "seconds": ["fast"]}))
