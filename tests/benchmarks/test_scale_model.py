"""The cost model: every line is a figure times an amount of work, and the page shows today's figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scale.model import FILES, PAGE, Size, costs, figures_of, page, per_row, time

SIZE = Size(
    documents=10, tokens=1e9, chunk_tokens=1000, cores=2, gpus=1, peak=1e12, parameters=1e6, network=1e6
)


def amount(size: Size, what: str, **changed: float) -> str:
    figures = figures_of(FILES)
    assert set(changed) <= set(figures)
    found = [each.amount for each in costs(size, figures | changed) if each.what == what]
    assert len(found) == 1
    return found[0]


def test_lines_follow_from_figures_by_hand() -> None:
    assert amount(SIZE, "cleaning", **{"scale.clean_mb_per_core_second": 10.0}) == time(4e9 / 1e7 / 2)
    assert amount(SIZE, "output sketches", **{"sketch.flops_utilisation[output]": 0.5}) == time(2e15 / 5e11)
    assert amount(SIZE, "sketches that come back", **{"sketch.bytes_per_chunk": 50.0}) == time(50.0)
    assert per_row(100.0, 10.0) == pytest.approx(1e-5)


def test_twice_the_corpus_costs_twice_and_twice_the_cluster_half() -> None:
    figures = figures_of(FILES)
    for size, factor in ((replace(SIZE, tokens=2e9), 2.0), (replace(SIZE, cores=4), 0.5)):
        clean = next(each for each in costs(size, figures) if each.what == "cleaning")
        rate = figures["scale.clean_mb_per_core_second"] * 1e6
        assert clean.amount == time(factor * 4e9 / rate / 2)


def test_every_line_names_published_figures_and_the_page_has_them() -> None:
    figures = figures_of(FILES)
    assert {name for each in costs(Size(), figures) for name in each.figures} <= set(figures)
    assert page(PAGE.read_text()) == PAGE.read_text()


@pytest.mark.parametrize(
    ("seconds", "told"), [(5, "5 s"), (130, "2.2 min"), (7200, "2.0 h"), (200_000, "2.3 d")]
)
def test_times_are_told_in_the_unit_of_their_size(seconds: float, told: str) -> None:
    assert time(seconds) == told
