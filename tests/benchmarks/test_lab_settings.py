"""Settings of the laboratory, and which cells they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.fidelity import VERSION, cell_digest, cell_file, cell_names
from benchmarks.laboratory.settings import LaboratorySettings, load_settings
from benchmarks.published import ROOT
from grasp_pipeline.calibration.strata import OPTIMISED
from grasp_pipeline.errors import ConfigError

CELLS = {
    "corpora": {"b": "b/*.parquet", "a": "a/*.parquet"},
    "presets": ["tiny", "gpt2-tiny"],
    "seeds": [1, 0],
}


def settings(**values: object) -> LaboratorySettings:
    return LaboratorySettings.model_validate(CELLS | values)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text("corpora: {a: data/*.parquet}\npresets: [tiny]\nseeds: [0]\n" + text)
    return path


def test_the_bundled_settings_load() -> None:
    full, quick = (load_settings(ROOT / "config" / f"{name}.yaml") for name in ("fidelity", "fidelity-quick"))
    assert set(cell_names(quick)) < set(cell_names(full))
    assert len(cell_names(quick)) == 1
    assert quick.corpora == {name: full.corpora[name] for name in quick.corpora}


def test_settings_reach_the_parts() -> None:
    given = settings(
        chunks=300,
        chunk_tokens=16,
        exact_copies=0.1,
        near_copies=0.05,
        noise=0.02,
        steps=20,
        batch_sequences=3,
        learning_rate=1e-3,
        evaluation={"uniform": 5, OPTIMISED: 1},
        evaluation_seeds=3,
        full_dim=128,
        output_hidden_dim=9,
    )
    plan, recipe = given.text_plan(), given.recipe(2)
    assert (plan.chunks, plan.chunk_tokens, plan.exact, plan.near, plan.noise) == (300, 16, 0.1, 0.05, 0.02)
    assert (recipe.steps, recipe.batch_sequences, recipe.chunk_tokens, recipe.learning_rate) == (
        40,
        3,
        16,
        1e-3,
    )
    protocol = given.protocol()
    assert (dict(protocol.evaluation), protocol.evaluation_seeds) == ({"uniform": 5, OPTIMISED: 1}, 3)
    assert (given.sketches().full_dim, given.sketches().hidden_dim) == (128, 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chunkz: 300", r"settings\.yaml: chunkz: Extra inputs"),
        ("chunks: 99", r"settings\.yaml: chunks: .*greater than or equal to 100"),
        ("learning_rate: 0", r"learning_rate: .*greater than 0"),
        ("evaluation_seeds: 1", r"evaluation_seeds: .*greater than or equal to 2"),
        ("exact_copies: 0.5", r"exact_copies: .*less than 0\.5"),
        ("chunks: many", r"chunks: .*integer"),
        ("evaluation: {uniform: none}", r"evaluation\.uniform: .*integer"),
        (
            "exact_copies: 0.4\nnear_copies: 0.3\nnoise: 0.2",
            r"exact_copies, near_copies and noise leave less",
        ),
        (
            "calibration: {uniforn: 8}",
            r"calibration is .*'uniforn': 8.*; give .* for some of uniform, fixed_size",
        ),
        (
            "evaluation: {random: 8, uniform: 8}",
            r"evaluation is .*'random': 8.*; give .* for some of uniform",
        ),
        (
            "evaluation: {uniform: -1}",
            r"evaluation is .*'uniform': -1.*; give a number of subsets, 0 or more",
        ),
        ("evaluation: {uniform: 9, tilted: -1}", r"evaluation is .*'tilted': -1.*; give a number of subsets"),
        ("calibration: {uniform: 0}", r"calibration is .*; give a number of subsets"),
        ("calibration: {}", r"calibration is \{\}; give a number of subsets"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_settings(written(tmp_path, text))


@pytest.mark.parametrize("missing", ["corpora", "presets", "seeds"])
def test_which_cells_must_be_said(tmp_path: Path, missing: str) -> None:
    path = written(tmp_path, "")
    path.write_text("\n".join(line for line in path.read_text().splitlines() if missing not in line))
    with pytest.raises(ConfigError, match=f"{missing}: Field required"):
        load_settings(path)


@pytest.mark.parametrize("content", [b"chunks: [1,", b"", b"- 1\n- 2", b"\xff\xfe\x00chunks"])
def test_a_file_that_holds_no_settings_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"settings\.yaml"):
        load_settings(path)
    with pytest.raises(ConfigError, match=r"other\.yaml cannot be read"):
        load_settings(tmp_path / "other.yaml")


def test_cells_are_named_by_corpus_preset_and_seed_seeds_outermost() -> None:
    assert cell_names(settings()) == [
        *("b/tiny/1", "b/gpt2-tiny/1", "a/tiny/1", "a/gpt2-tiny/1"),
        *("b/tiny/0", "b/gpt2-tiny/0", "a/tiny/0", "a/gpt2-tiny/0"),
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"presets": ["tiny"]},
        {"seeds": [0, 7]},
        {"corpora": {"a": "a/*.parquet"}},
        {"transfer_subsets": 24},
    ],
)
def test_a_cell_does_not_depend_on_which_others_there_are(change: dict[str, object]) -> None:
    assert cell_digest(settings(**change)) == cell_digest(settings())
    assert cell_file(settings(**change), "a/tiny/0") == cell_file(settings(), "a/tiny/0")


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": 600},
        {"steps": 100},
        {"learning_rate": 1e-3},
        {"tasks": 4},
        {"noise": 0.0},
        {"full_dim": 1024},
        {"evaluation_seeds": 3},
        {"evaluation": {"uniform": 24}},
    ],
)
def test_a_cell_depends_on_its_sizes(change: dict[str, object]) -> None:
    assert cell_digest(settings(**change)) != cell_digest(settings())
    assert len(cell_digest(settings(**change))) == 12
    assert cell_file(settings(**change), "a/tiny/0") != cell_file(settings(), "a/tiny/0")


def test_a_finished_cell_lies_in_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRASP_STORE", str(tmp_path))
    files = [cell_file(settings(), name) for name in cell_names(settings())]
    assert len(set(files)) == 8
    assert files[0].parent == tmp_path / "laboratory" / "b" / "tiny" / "1"
    assert re.fullmatch(rf"cell-{VERSION}-[0-9a-f]{{12}}\.npz", files[0].name)


def test_a_corpus_that_lies_elsewhere_is_another_cell(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Else a finished cell of other documents would be taken for this one."""
    monkeypatch.setenv("GRASP_STORE", str(tmp_path))
    moved = settings(corpora={"a": "elsewhere/*.parquet", "b": "b/*.parquet"})
    assert cell_file(moved, "a/tiny/0") != cell_file(settings(), "a/tiny/0")
    assert cell_file(moved, "a/tiny/0").parent == cell_file(settings(), "a/tiny/0").parent
    assert cell_file(moved, "b/tiny/0") == cell_file(settings(), "b/tiny/0")
