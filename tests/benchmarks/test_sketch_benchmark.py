"""The sketch benchmark: every part runs at a tiny size, and its figures follow from what was measured."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import tiny_model

from benchmarks import published, sketch
from benchmarks.published import END, START, Figure
from benchmarks.sketch_runs import KINDS, PEERS, PeerError, Run, run
from benchmarks.sketch_speed import Shape, Timing, forward, forward_flop, frozen_backward

IN_PROCESS = ("output_over_forward_1t", "full_over_forward", "output_over_forward_v32k", "cosine_error")


def named(figures: list[Figure]) -> dict[str, Figure]:
    assert len({figure.figure for figure in figures}) == len(figures)
    return {figure.figure: figure for figure in figures}


def test_parts_give_the_figures_that_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    found = named(sketch.main(["--quick", "--only", *IN_PROCESS]))
    expected = {
        name
        for _, names in sketch.PARTS
        for name in names
        if {f"sketch.{only}" for only in IN_PROCESS} & set(names)
    }
    assert {name.partition("[")[0] for name in found} == expected
    for figure in found.values():
        assert np.isfinite(figure.value)
        assert figure.low is None or figure.high is None or figure.low <= figure.value <= figure.high
    wide, narrow = (found[f"sketch.cosine_error[full, {size}]"].value for size in (4096, 256))
    assert wide < narrow
    assert 0 < found["sketch.bf16_error[output]"].value < 0.1
    assert "wrote" not in capsys.readouterr().out


def test_reading_gives_its_figures() -> None:
    found = named(sketch.main(["--quick", "--only", "read_over_numpy"]))
    assert set(found) == {"sketch.read_over_numpy", "sketch.read_over_numpy[one array]", "sketch.read_rate"}
    assert all(figure.value > 0 for figure in found.values())


@pytest.mark.slow
def test_the_whole_benchmark_runs() -> None:
    found = named(sketch.main(["--quick"]))
    assert found["sketch.bytes_per_chunk"].value > 2 * 64 * 64
    assert found["sketch.rss_growth"].value > 0.5
    ran = {name.partition("[")[2][:-1] for name in found if name.startswith("sketch.run_ms[")}
    assert ran >= set(KINDS)
    assert found["sketch.peers"].value == len(ran) - len(KINDS)


def test_an_unknown_figure_is_refused() -> None:
    with pytest.raises(
        SystemExit, match=r"no figure is called sketch\.speed; there are: sketch\.output_over"
    ):
        sketch.main(["--only", "speed"])


def test_without_cuda_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert sketch.main(["--device", "cuda"]) == []
    assert "no CUDA device" in capsys.readouterr().out


def made_up_run(milliseconds: float, chunks: int, bytes_: int, mib: float) -> Run:
    return Run(milliseconds * chunks / 1000, 9.0, chunks, bytes_ * chunks, mib)


def test_ratios_of_whole_runs_are_per_chunk_and_over_the_fastest_peer() -> None:
    rounds = {
        "output": [made_up_run(10, 100, 8200, 300), made_up_run(20, 100, 8200, 300)],
        "layers": [made_up_run(30, 100, 5000, 400), made_up_run(30, 100, 5000, 400)],
        "full": [made_up_run(50, 100, 2048, 900), made_up_run(50, 100, 2048, 900)],
        "bergson": [made_up_run(90, 100, 9000, 1600), made_up_run(90, 100, 9000, 1600)],
        "bergson-last": [made_up_run(40, 100, 1000, 1000), made_up_run(60, 100, 1000, 800)],
        "dattri": [made_up_run(3000, 4, 2048, 3000), made_up_run(2000, 4, 2048, 3000)],
    }
    found = named(sketch.run_figures(rounds, {"traker": "traker does not run here: no | such module"}))
    assert (found["sketch.bergson_over_output"].low, found["sketch.bergson_over_output"].high) == (3.0, 4.0)
    assert found["sketch.bergson_over_output"].note.startswith("bergson-last, the fastest of bergson, ")
    assert found["sketch.trak_over_output"].value == pytest.approx(200)
    assert (found["sketch.rss_over_bergson"].low, found["sketch.rss_over_bergson"].high) == (0.4, 0.5)
    assert found["sketch.bytes_per_chunk"].value == 8200
    assert found["sketch.peers"].value == len(PEERS) - 1
    assert found["sketch.peers"].note == "traker does not run here: no / such module"


def test_without_a_peer_its_ratios_are_left_out() -> None:
    rounds = {kind: [made_up_run(10, 10, 100, 300)] for kind in KINDS}
    found = named(sketch.run_figures(rounds, dict.fromkeys(PEERS, "no")))
    assert "sketch.bytes_per_chunk" in found
    assert not {"sketch.bergson_over_output", "sketch.trak_over_output", "sketch.rss_over_bergson"} & set(
        found
    )


def test_a_peer_that_fails_is_told_with_its_last_line(tmp_path: Path) -> None:
    fails = tmp_path / "python"
    fails.write_text("#!/bin/sh\necho first >&2\necho 'No module named bergson' >&2\nexit 3\n")
    fails.chmod(0o755)
    with pytest.raises(PeerError, match=r"^bergson does not run here: No module named bergson$"):
        run("bergson", tmp_path, 1, 4, str(fails))


def test_timings_are_over_the_faster_form() -> None:
    rounds = {"forward": [2.0, 2.0], "forward, in pieces": [1.0, 1.25], "output": [1.5, 1.25]}
    timing = Timing(Shape("tiny", 300, 16, 64), rounds, [100.0, 200.0], 50.0)
    assert timing.over("output", "forward") == [1.5, 1.0]
    assert timing.utilisation("output") == [50 / 1.5 / 200, 50 / 1.25 / 200]
    assert timing.rates("output") == [64 / 1.5, 64 / 1.25]


def test_plain_passes_are_the_model_s_own_loss_and_leave_weights_without_gradients() -> None:
    model = tiny_model("llama").model.requires_grad_(False)
    rows = torch.arange(4 * 9).view(4, 9) % 61
    expected = model(input_ids=rows, labels=rows).loss
    torch.testing.assert_close(forward(model, rows), expected)
    torch.testing.assert_close(forward(model, rows, 4), expected)
    frozen_backward(model, rows, 2)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "neox"])
def test_flop_count_matrices_once_and_no_look_up(kind: str) -> None:
    model = tiny_model(kind).model
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert forward_flop(model, 10, 12) == 10 * (2 * linear + 4 * 12 * 16 * 2)


def test_the_document_shows_goals_and_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, readme = tmp_path / "sketches.md", tmp_path / "README.md"
    for path in (page, readme):
        path.write_text(f"{START.format(name='sketch')}\n{END.format(name='sketch')}\n")
    monkeypatch.setattr(sketch, "DOCUMENT", page)
    where = {"command": "make benchmark-sketch", "machine": "m", "commit": "c"}
    figures = [
        Figure("sketch.bytes_per_chunk", 8200.0, "bytes", "at most 8,200"),
        Figure("sketch.matmul_peak", 9.0, "GFLOP/s"),
        Figure("sketch.cosine_error[output, 64 x 64]", 0.05, "of the norms"),
    ]
    result = tmp_path / "sketch.json"
    result.write_text(json.dumps([asdict(figure) | where for figure in figures]))
    sketch.write_document(result)
    text = page.read_text()
    assert "sketch.bytes_per_chunk" in text
    assert "cosine_error[output, 64 x 64]" in text
    assert "matmul_peak" not in text


def test_the_pages_have_their_markers() -> None:
    for page, names in ((published.README, ("sketch", "sketch-gpu")), (sketch.DOCUMENT, ("sketch",))):
        for name in names:
            assert published.replace_between(page.read_text(), name, "body").count("body") >= 1
