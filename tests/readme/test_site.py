"""Every block of the documentation is one that works: commands are known, configurations accepted, code is run."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from assets import graph as _graph  # noqa: F401  declares every stage
from assets.run import JOBS
from assets.stages import check_run_config
from scripts.reference import configuration_page, tables_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN = {"text", "diff", "{toctree}", "{eval-rst}"}
"""Fences that hold nothing to run."""

README = "tests/readme/test_readme.py::test_command_line"
UI = "tests/readme/test_readme.py::test_web_interface_runs_what_the_command_line_launches"
METHOD = "tests/readme/test_method_commands.py::test_reading_the_reasons_and_filtering_new_files"
EXAMPLE = "tests/core/test_face.py::test_the_example_selects_a_corpus_that_beats_a_random_one"
PUSH = "tests/corpus/test_push.py::test_the_command_says_where_it_pushed_or_why_not"
RUN_BY = {
    "README.md": README,
    "method.md": METHOD,
    "exports.md": "tests/corpus/test_export.py::test_the_files_open_as_the_page_says",
    "notebook.md": "tests/readme/test_site.py::test_the_notebook_runs",
    "operations.md": "tests/assets/test_operations_page.py::test_the_commands_run",
}
"""Page -> the test that runs its Python; of the page on operations, every command too."""

COMMANDS = {
    "make setup": ".ci/run",
    "make demo": README,
    "make demo CONFIG=my-corpus.yaml GRASP_STORE=my-store": README,
    "make recurate": README,
    "make recurate CONFIG=my-corpus.yaml GRASP_STORE=my-store": README,
    "make fidelity": README,
    "make filter": README,
    "make browse": README,
    ".venv/bin/python -m assets.run summary --config config/demo.yaml": README,
    ".venv/bin/python -m grasp_pipeline explain 01-encyclopaedia.parquet#0": README,
    ".venv/bin/dg check defs": README,
    ".venv/bin/dg list defs": README,
    "make ui": UI,
    "make launch": UI,
    "make lint": ".ci/run",
    "make test": ".ci/run",
    ".venv/bin/python examples/select_corpus.py": EXAMPLE,
    ".venv/bin/python -m grasp_pipeline push my-org/my-corpus": PUSH,
    ".venv/bin/python -m assets.run apply_filter --config config/apply_filter.yaml": METHOD,
    ".venv/bin/dagster job launch -w workspace.yaml -j apply_filter -c config/apply_filter.yaml": METHOD,
}
"""Command of a page -> the test that runs it, on a toy corpus, or the script of continuous integration that does."""


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def looking_back() -> set[str]:
    """Return the commands of `python -m grasp_pipeline`."""
    main = (ROOT / "grasp_pipeline" / "__main__.py").read_text(encoding="utf-8")
    return set(re.findall(r'add_parser\(\s*"([a-z]+)"', main))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    languages = {name for name, _ in FENCE.findall(page.read_text(encoding="utf-8"))}
    assert languages <= SHOWN | {"sh", "yaml", "python"}
    if "python" in languages:
        assert page.name in RUN_BY


def commands(page: Path) -> set[str]:
    return {line.strip() for block in blocks(page, "sh") for line in block.splitlines() if line.strip()}


def exists(test: str) -> bool:
    """Whether a test of the form FILE::NAME, or a script, is there."""
    file, _, name = test.partition("::")
    return (ROOT / file).is_file() and (not name or f"def {name}(" in (ROOT / file).read_text())


def test_every_command_is_run_by_a_test_that_there_is() -> None:
    """Those of the page on operations are counted by the test of that page."""
    shown = set().union(*(commands(page) for page in PAGES if page.name != "operations.md"))
    assert shown == set(COMMANDS)
    assert [test for test in {*COMMANDS.values(), *RUN_BY.values()} if not exists(test)] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_what_there_is(command: str) -> None:
    program, *words = command.split()
    if program == "make":
        assert words[0] in targets()
        assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in words[1:])
    elif command.startswith(".venv/bin/python -m assets.run "):
        assert words[2] in {*JOBS, "summary"}
    elif command.startswith(".venv/bin/python -m grasp_pipeline "):
        assert words[2] in looking_back()
    for word in words:
        if word.startswith(("config/", "examples/", "workspace.yaml")):
            assert (ROOT / word).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configurations_are_accepted(page: Path) -> None:
    for block in blocks(page, "yaml"):
        content = yaml.safe_load(block)
        check_run_config(content.get("ops") or {})
        assert set(content) <= {"ops", "resources"}


def test_the_readme_fits_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.slow
def test_dg_loads_the_project_without_a_warning() -> None:
    env = {
        name: value for name, value in os.environ.items() if name not in {"DAGSTER_HOME", "PYTHONWARNINGS"}
    }
    command = [str(Path(sys.executable).parent / "dg"), "check", "defs"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    assert "All definitions loaded successfully" in told
    assert "Warning" not in told


@pytest.mark.slow
def test_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(ROOT):
        exec("\n".join(blocks(ROOT / "docs" / "notebook.md", "python")), {})
    said = capsys.readouterr().out
    found = re.search(r"selected (\S+), a random quarter (\S+); gap to the optimum (\S+)", said)
    assert found is not None
    assert float(found[1]) > float(found[2])
    assert float(found[3]) < 0.05
    assert "low_alignment" in said


def test_references_describe_every_field_and_table() -> None:
    from assets.stages import sections
    from grasp_pipeline.tables import ALL

    page = configuration_page()
    for step, section in sections().items():
        part = page.partition(f"\n## `{step}`\n")[2].partition("\n## ")[0]
        for name in section.model_fields:
            assert f"| `{name}`" in part or f"| `{name}." in part, f"{step}.{name}"
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row for row in rows if row.endswith("|  |")] == [], "a field without a description"
    told = tables_page()
    for table in ALL.values():
        part = told.partition(f"\n## `{table.name}`\n")[2].partition("\n## ")[0]
        assert table.description in part
        assert all(f"| `{name}` |" in part for name in table.schema)


def test_continuous_integration_builds_the_site_and_fails_where_a_link_leads_nowhere() -> None:
    assert "step make docs\n" in (ROOT / ".ci" / "run").read_text()
    recipe = (ROOT / "Makefile").read_text().partition("\ndocs: ")[2].partition("\n\n")[0]
    assert "-m sphinx" in recipe
    assert " -W " in recipe


def test_every_page_is_in_the_site() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = {
        line.strip()
        for block in blocks(ROOT / "docs" / "index.md", "{toctree}")
        for line in block.splitlines()
    }
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index", "family"}
    assert pages <= listed, index
    assert "family*" in listed


def test_the_citation_is_whole() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "title", "message", "authors", "version", "license"} <= set(citation)
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
