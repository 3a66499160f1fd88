"""The laboratory's figures: what they say, that equal data give equal bytes, and what they refuse."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from benchmarks.laboratory.figures import (
    Bar,
    Line,
    Panel,
    StratumRow,
    bars,
    lambda_profile,
    predicted_measured,
    stratum_grid,
)
from grasp_pipeline.errors import InputError

NAN = float("nan")
STRATA = ("uniform", "fixed_size", "tilted", "task_optimised")

BARS = (
    Bar("GradDot, mean", 0.51, 0.42, 0.6, "additive"),
    Bar("surrogate, mean", 0.83, 0.78, 0.88, "ours"),
    Bar("random", -0.04, -0.2, 0.12, "control"),
    Bar("second order", 0.7, 0.6, 0.8, "interaction"),
    Bar("exact $gradients$", 0.86, NAN, NAN, "ceiling"),
)
LINES = (
    Line("damping 0.3", (0, 0.5, 1), (0.5, 0.7, 0.6)),
    Line("damping 3", (1, 0, 0.5), (0.8, 0.55, 0.75)),
)
GRID = tuple(
    StratumRow(stratum, label, value, value - 0.1, value + 0.1, 0.9, kind)
    for stratum in STRATA
    for label, value, kind in (("surrogate", 0.8, "ours"), ("TRAK", 0.5, "additive"))
)


def panel(title: str, m: int = 40) -> Panel:
    rng = np.random.default_rng(len(title))
    measured = rng.normal(size=m)
    return Panel(title, 1e-5 * (measured + rng.normal(size=m)), measured, [STRATA[i % 4] for i in range(m)])


PANELS = tuple(panel(title) for title in ("surrogate", "GradDot", "TRAK, mean", "datamodel"))

DRAWERS: dict[str, Callable[[Path], Figure]] = {
    "bars": lambda path: bars(BARS, path, "Rank correlations", (0.9, 0.94)),
    "predicted_measured": lambda path: predicted_measured(PANELS, path),
    "lambda_profile": lambda path: lambda_profile(LINES, path),
    "stratum_grid": lambda path: stratum_grid(GRID, path),
}


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]


def names(figure: Figure, axes: int = 0) -> list[str]:
    return [tick.get_text() for tick in figure.axes[axes].get_yticklabels()]


@pytest.mark.parametrize("name", DRAWERS)
def test_equal_data_give_equal_bytes_of_a_small_picture(name: str, tmp_path: Path) -> None:
    first, second = tmp_path / "new folder" / "first.png", tmp_path / "second.png"
    DRAWERS[name](first)
    DRAWERS[name](second)
    assert first.read_bytes() == second.read_bytes()
    assert 5_000 < first.stat().st_size < 150_000
    with Image.open(first) as image:
        assert image.format == "PNG"
        assert 880 <= image.width <= 900
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert [path.name for path in first.parent.iterdir()] == ["first.png"]


def test_bars_are_sorted_named_and_compared_with_the_ceiling(tmp_path: Path) -> None:
    figure = bars(BARS, tmp_path / "bars.png", "Rank correlations", (0.9, 0.94))
    assert names(figure) == [
        "exact $gradients$",
        "surrogate, mean",
        "second order",
        "GradDot, mean",
        "random",
    ]
    heavy = [tick.get_text() for tick in figure.axes[0].get_yticklabels() if tick.get_fontweight() == "bold"]
    assert heavy == ["surrogate, mean"]
    said = texts(figure)
    for text in (
        "Rank correlations",
        "our surrogate",
        "interaction-aware",
        "upper reference",
        "0.830",
        "−0.040",
    ):
        assert text in said
    assert "noise ceiling 0.900 to 0.940" in said


def test_bars_name_only_the_kinds_that_occur(tmp_path: Path) -> None:
    said = texts(bars(BARS[:1], tmp_path / "one.png", "One", (0.9, 0.9)))
    assert "additive" in said
    assert "our surrogate" not in said
    assert "noise ceiling 0.900" in said
    said = texts(bars(BARS, tmp_path / "none.png", "None", None))
    assert not any("noise ceiling" in text for text in said)


def test_many_bars_stay_small(tmp_path: Path) -> None:
    rows = [
        Bar(f"method {i} with a rather long name", i / 25, i / 25 - 0.1, i / 25, "additive")
        for i in range(25)
    ]
    figure = bars(rows, tmp_path / "many.png", "A long title " * 12, None)
    assert len(names(figure)) == 25
    assert (tmp_path / "many.png").stat().st_size < 150_000


@pytest.mark.parametrize(("count", "visible"), [(1, (1, 1)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))])
def test_panels_share_one_legend_and_tell_spearman(
    count: int, visible: tuple[int, int], tmp_path: Path
) -> None:
    panels = [*PANELS, panel("fifth")][:count]
    figure = predicted_measured(panels, tmp_path / "panels.png")
    assert figure.axes[0].get_gridspec().get_geometry() == visible
    assert sum(axes.get_visible() for axes in figure.axes) == count
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(STRATA)
    assert len(figure.legends) == 1


def test_ranks_have_the_same_spearman_and_other_axes(tmp_path: Path) -> None:
    reversed_ = Panel(
        "reversed", np.array([3.0, 2.0, 1.0]), np.array([1.0, 20.0, 300.0]), ["uniform", "new", "new"]
    )
    values = predicted_measured([reversed_], tmp_path / "values.png")
    ranks = predicted_measured([reversed_], tmp_path / "ranks.png", ranks=True)
    for figure in (values, ranks):
        assert any("Spearman −1.00, m = 3" in axes.get_title(loc="left") for axes in figure.axes)
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["uniform", "new"]
    assert "rank of the measured utility" in texts(ranks)
    assert "measured utility" in texts(values)
    assert values.axes[0].dataLim.ymax == 300
    assert ranks.axes[0].dataLim.ymax == 3


def test_the_best_and_the_best_additive_lambda_are_marked(tmp_path: Path) -> None:
    figure = lambda_profile(LINES, tmp_path / "lambda.png")
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == [
        "damping 0.3",
        "damping 3",
        "best additive: 0.550\n(λ = 0)",
        "best: 0.800\n(damping 3, λ = 1)",
    ]
    ring = figure.axes[0].lines[-1]
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([1], [0.8])
    assert list(figure.axes[0].lines[2].get_xdata()) == [0, 0.5, 1]
    without = lambda_profile([Line("only", (0.5,), (0.7,))], tmp_path / "without.png")
    assert not any("additive:" in text for text in texts(without))


def test_strata_have_a_panel_each_with_their_ceiling(tmp_path: Path) -> None:
    rows = [*GRID, StratumRow("all", "judge", 0.6, 0.5, 0.7, NAN, "interaction")]
    figure = stratum_grid(rows, tmp_path / "strata.png")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [*STRATA, "all"]
    assert [axes.get_title(loc="right") for axes in figure.axes] == ["noise ceiling 0.900"] * 4 + [""]
    assert names(figure) == ["surrogate", "TRAK"]
    assert names(figure, 4) == ["judge"]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["our surrogate", "additive", "interaction-aware", "noise ceiling"]


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        (lambda path: bars([], path, "title", None), "bars has nothing to draw; give it at least one Bar"),
        (lambda path: predicted_measured([], path), "at least one Panel"),
        (lambda path: lambda_profile([], path), "at least one Line"),
        (lambda path: stratum_grid([], path), "at least one StratumRow"),
    ],
)
def test_nothing_to_draw_is_refused(draw: Callable[[Path], Figure], what: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=what):
        draw(tmp_path / "none.png")
    assert not list(tmp_path.iterdir())


def unequal(*shapes: int) -> Sequence[Any]:
    return [np.arange(float(n)) for n in shapes[:2]] + [["uniform"] * shapes[2]]


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Bar("x", NAN, 0, 1, "ours"), "value of 'x' is nan; leave the row out"),
        (lambda: Bar("x", 0.5, 1, 0, "ours"), r"interval of 'x' is \[1, 0\]"),
        (lambda: Bar("x", 0.5, NAN, 1, "ours"), "NaN twice"),
        (lambda: Bar("x", 0.5, 0, 1, "theirs"), "'theirs'; give one of ours, additive"),  # type: ignore[arg-type]
        (lambda: StratumRow("uniform", "x", NAN, 0, 1, 0.9, "ours"), "'x, uniform' is nan"),
        (lambda: Panel("x", *unequal(3, 4, 3)), "the same m, at least 2"),
        (lambda: Panel("x", *unequal(3, 3, 2)), "the same m, at least 2"),
        (lambda: Panel("x", *unequal(1, 1, 1)), "the same m, at least 2"),
        (lambda: Panel("x", np.array([1, NAN]), np.arange(2.0), ["uniform"] * 2), "not finite"),
        (lambda: Line("x", (0, 1), (0.5,)), "2 lambdas and 1 values"),
        (lambda: Line("x", (), ()), "at least one"),
        (lambda: Line("x", (0,), (NAN,)), "not finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(make: Callable[[], object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        make()


def test_ceilings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lowest and its highest"):
        bars(BARS, tmp_path / "bars.png", "title", (0.9, 0.8))
    other = StratumRow("uniform", "judge", 0.6, 0.5, 0.7, 0.7, "interaction")
    with pytest.raises(InputError, match="'uniform' have ceilings"):
        stratum_grid([*GRID, other], tmp_path / "strata.png")
