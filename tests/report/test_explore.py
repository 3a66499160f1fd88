"""What the interactive views are made from, and how it gets onto the page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grasp_pipeline import tables
from grasp_pipeline.report.explore import chart_data, funnel, value_bins
from grasp_pipeline.report.inputs import ReportInputs
from grasp_pipeline.report.page import render
from grasp_pipeline.report.samples import SHORTEST_SHARED, SampleTables, draw_samples, shared_passages

Make = Callable[..., ReportInputs]
HOSTILE = "</script><img src=x onerror=alert(1)> & \u2028 \u202e <!--"


def made(table: tables.Table, rows: list[dict[str, object]]) -> pl.LazyFrame:
    """Return rows of a table, what they do not name null."""
    empty = dict.fromkeys(table.schema)
    return pl.DataFrame([empty | row for row in rows], schema=table.schema).lazy()


def corpus(n: int = 60, text: str = "alpha beta gamma delta epsilon") -> SampleTables:
    """Return n documents of one chunk, a third of them kept, and some rejected."""
    names = [f"d{i:03}" for i in range(n)]
    chunk = [
        {"chunk_id": f"{name}-0", "doc_id": name, "start": 0, "end": 90, "source": f"s{i % 2}"}
        for i, name in enumerate(names)
    ]
    kept = [
        row | {"marginal_value": 0.5, "kept_tokens": 7, "top_task": "t", "top_task_value": 1.0}
        for row in chunk[: n // 3]
    ]
    dropped = [
        row
        | {"reason": "redundant" if i % 3 else "low_alignment", "nearest_kept": "d000-0", "similarity": 0.9}
        | {"strongest_task": "t", "weakest_task": "u", "n_tokens": 7, "score": "alignment", "value": i / n}
        | {"threshold": 0.4}
        for i, row in enumerate(chunk[n // 3 :])
    ]
    rejected = [
        {"doc_id": f"{names[i]}:{i}", "stage": "exact_duplicate", "reason": "exact_duplicate", "source": "s0"}
        | {"duplicate_of": names[i], "detail": HOSTILE, "origin": f"f#{i}"}
        for i in range(15)
    ]
    pick = tables.PRUNED_CORPUS.schema, tables.DROP_REASONS.schema, tables.TOKENIZED_SHARDS.schema
    return SampleTables(
        made(tables.PRUNED_CORPUS, [{k: v for k, v in row.items() if k in pick[0]} for row in kept]),
        made(tables.DROP_REASONS, [{k: v for k, v in row.items() if k in pick[1]} for row in dropped]),
        made(tables.REJECTED_DOCUMENTS, rejected),
        made(tables.TOKENIZED_SHARDS, [{k: v for k, v in row.items() if k in pick[2]} for row in chunk]),
        made(
            tables.DOCUMENTS,
            [
                {"doc_id": name, "text": f"{text} {name}", "source": f"s{i % 2}"}
                for i, name in enumerate(names)
            ],
        ),
    )


def test_ten_of_every_source_and_reason_whatever_the_order() -> None:
    read = corpus()
    drawn = draw_samples(read)
    groups = Counter((row["outcome"], row["source"], row["reason"]) for row in drawn)
    assert groups == {
        ("kept", "s0", "kept"): 10,
        ("kept", "s1", "kept"): 10,
        ("dropped", "s0", "redundant"): 10,
        ("dropped", "s1", "redundant"): 10,
        ("dropped", "s0", "low_alignment"): 7,
        ("dropped", "s1", "low_alignment"): 7,
        ("rejected", "s0", "exact_duplicate"): 10,
    }
    shuffled = SampleTables(*(frame.reverse() for frame in vars(read).values()))
    assert draw_samples(shuffled) == drawn
    assert len(draw_samples(read, 2, most_groups=3)) == 6
    json.dumps(drawn)


def test_a_text_stands_beside_its_neighbour_or_what_stayed() -> None:
    drawn = draw_samples(corpus())
    dropped = next(row for row in drawn if row["outcome"] == "dropped")
    assert dropped["text"].startswith("alpha beta")
    near = dropped["near"]
    assert near["text"] == "alpha beta gamma delta epsilon d000"
    assert [near["text"][a:b] for a, b in near["theirs"]] == ["alpha beta gamma delta epsilon"]
    rejected = next(row for row in drawn if row["outcome"] == "rejected")
    assert rejected["near"]["text"].startswith("alpha beta")
    assert "text" not in rejected


@given(st.lists(st.sampled_from("abcd"), max_size=25), st.lists(st.sampled_from("abcd"), max_size=25))
def test_shared_passages_are_the_same_words_in_both(first: list[str], second: list[str]) -> None:
    mine, theirs = " ".join(first), " ".join(second).upper()
    found = shared_passages(mine, theirs)
    passages = [
        (mine[a:b], theirs[c:d]) for (a, b), (c, d) in zip(found["mine"], found["theirs"], strict=True)
    ]
    for one, other in passages:
        assert one == other.lower()
        assert len(one.split()) >= SHORTEST_SHARED
    if not passages:  # the longest run in common is too short
        runs = {" ".join(first[i : i + SHORTEST_SHARED]) for i in range(len(first) - SHORTEST_SHARED + 1)}
        assert not any(run in theirs.lower() for run in runs)


def test_the_funnel_counts_what_is_left_after_each_stage() -> None:
    read = corpus()
    counted = funnel(read.documents, read.rejected, read.pruned)
    whole = counted.group_by("stage", maintain_order=True).agg(pl.col("documents").sum())
    assert whole.rows() == [("came in", 75), ("after exact duplicate", 60), ("kept, whole or in part", 20)]
    assert counted.filter(stage="came in", source="s0")["documents"].item() == 45


def test_bins_count_every_judged_chunk_once() -> None:
    read = corpus()
    bins = value_bins(read.pruned, read.dropped)
    judged = read.dropped.collect()
    dropped = bins.filter(pl.col("outcome") != "kept")
    assert dropped["chunks"].sum() == judged.height
    assert bins.filter(outcome="kept")["chunks"].sum() == 20  # 0.5 is above the threshold: the same score
    low, high = dropped["low"].to_numpy(), dropped["high"].to_numpy()
    inside = [
        np.sum((judged["value"].to_numpy() >= a) & (judged["value"].to_numpy() < b))
        for a, b in zip(low, high, strict=True)
    ]
    assert (
        np.abs(np.array(inside) - dropped["chunks"].to_numpy()).max() <= 2
    )  # the ends hold what lies beyond
    below = read.pruned.with_columns(marginal_value=pl.lit(0.1))
    assert value_bins(below, read.dropped).filter(outcome="kept").is_empty()
    assert value_bins(read.pruned, read.dropped.head(0)).is_empty()


def test_the_page_embeds_data_that_cannot_leave_its_element(make_report_inputs: Make) -> None:
    samples = draw_samples(corpus(text=HOSTILE))
    page = render(make_report_inputs(samples=samples))
    assert "onerror=alert(1)>" not in page
    (written,) = re.findall(
        r'<script type="application/json" id="explore-data">(.*?)</script>', page, re.DOTALL
    )
    data = json.loads(written)
    assert len(data["samples"]) == len(samples)
    shown = data["samples"][0]["text"]
    assert shown.startswith("</script><img src=x")
    assert "\u202e" not in shown
    assert len(shown) == len(samples[0]["text"])
    (script,) = re.findall("</script><script>(.*)</script></body>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert page == render(make_report_inputs(samples=samples))
    assert HOSTILE[:12] not in page.replace(written, "")


def test_views_of_the_hand_made_run(make_report_inputs: Make) -> None:
    margins = pl.DataFrame({"arm": ["dsir"], "task": ["mean"], "margin": [0.012], "standard_error": [0.01]})
    data = chart_data(make_report_inputs(margins=margins))
    assert data["forest"] == [
        ("mean over tasks", "surrogate-ngrams-0.7", 0.0, None, None),
        ("mean over tasks", "dsir", 0.012, pytest.approx(-0.0076), pytest.approx(0.0316)),
    ]
    assert sum(kept for _, _, kept in data["mixture"]) == 1_225_000
    assert len(data["grid"]) == make_report_inputs().surrogates.height
    assert data["chosen"] == "full-rho3-lambda1.4-mean"
    assert data["funnel"] == data["predicted"] == data["values"] == []
