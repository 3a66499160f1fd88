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

RUN_BY = {
    "README.md": "test_readme.py",
    "method.md": "test_method_commands.py",
    "exports.md": "tests/corpus/test_export.py",
    "notebook.md": "here",
    "operations.md": "tests/assets/test_operations_page.py",
}
"""Who runs a page's Python; of the page on operations, every command too."""


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


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "operations.md"], ids=lambda page: page.name
)
def test_commands_are_ones_that_there_are(page: Path) -> None:
    for line in (line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()):
        program, *words = line.split()
        if program == "make":
            assert words[0] in targets(), line
            assert all(re.fullmatch(r"[A-Z_]+=\S+", word) for word in words[1:]), line
        elif line.startswith(".venv/bin/python -m assets.run "):
            assert words[2] in {*JOBS, "summary"}, line
            assert (ROOT / words[-1]).is_file(), line
        elif line.startswith(".venv/bin/python -m grasp_pipeline "):
            assert words[2] in looking_back(), line
        elif line.startswith(".venv/bin/python examples/"):
            assert (ROOT / words[0]).is_file(), line
        else:
            assert line in {
                ".venv/bin/dg check defs",
                ".venv/bin/dg list defs",
                ".venv/bin/dagster job launch -w workspace.yaml -j apply_filter -c config/apply_filter.yaml",
            }, line


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
