"""Result files follow the contract, and the tables in the README are those of the result files."""

from __future__ import annotations

import json
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch

from benchmarks import fidelity_tables, published, sketch, sources
from benchmarks.family import MEMBERS, page
from benchmarks.family.systems import SYSTEMS
from benchmarks.published import README, RESULTS, Figure, table, with_table
from grasp_pipeline.errors import ConfigError

FIELDS = {"figure", "value", "low", "high", "unit", "goal", "command", "machine", "commit", "note"}


@pytest.fixture(autouse=True)
def toy_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources.SOURCES, "x", ("benchmarks/published.py",))


@pytest.fixture
def readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the page that results are published on, with the markers of the toy benchmark's table."""
    page = tmp_path / "README.md"
    page.write_text("<!-- generated from results/x.json -->\n<!-- end of x -->\n")
    monkeypatch.setattr(published, "README", page)
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results")
    return page


def test_tables_are_replaced_between_their_markers() -> None:
    where = {"command": "make benchmark-x", "machine": "m", "commit": "c"}
    rows = [
        Figure("x.a", 1.5, "s", low=1.0, high=2.0).__dict__ | where,
        Figure("x.b", 2.0, "s", low=0.5).__dict__ | where,
    ]
    text = "before\n<!-- generated from results/x.json -->\nold\n<!-- end of x -->\nafter\n"
    once = with_table(text, "x", rows)
    assert "old" not in once
    assert "[1, 2]" in once
    assert "from 0.5" in once
    assert with_table(once, "x", rows) == once
    assert once.startswith("before\n")
    assert once.endswith("after\n")


@pytest.mark.usefixtures("clean")
def test_an_update_replaces_its_own_figures_alone(readme: Path) -> None:
    published.save(
        "x", "make x", [Figure("x.a", 1.0, "s"), Figure("x.b[one]", 2.0, "s"), Figure("x.b[two]", 3.0, "s")]
    )
    path = published.update("x", "make x", [Figure("x.b[one]", 4.0, "s"), Figure("x.c", 5.0, "s")])
    rows = json.loads(path.read_text())
    assert {row["figure"]: row["value"] for row in rows} == {"x.a": 1.0, "x.b[one]": 4.0, "x.c": 5.0}
    path = published.update("x", "make x", [Figure("x.a", 6.0, "s")])
    rows = json.loads(path.read_text())
    assert [(row["figure"], row["value"]) for row in rows] == [("x.a", 6.0), ("x.b[one]", 4.0), ("x.c", 5.0)]
    assert table("x", rows) in readme.read_text()


@pytest.mark.usefixtures("clean")
def test_an_update_of_one_part_leaves_the_others_figures_and_ages(
    readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part, file in (("x-a", "launch"), ("x-b", "record")):
        monkeypatch.setitem(sources.SOURCES, part, (f"benchmarks/{file}.py",))
    published.update("x", "make x", [Figure("x.old", 1.0, "s"), Figure("x.a", 1.0, "s")], "x-a")
    published.update("x", "make x", [Figure("x.b", 2.0, "s")], "x-b")
    path = published.update("x", "make x", [Figure("x.a", 3.0, "s")], "x-a")
    rows = json.loads(path.read_text())
    assert {row["figure"]: row["value"] for row in rows} == {"x.a": 3.0, "x.b": 2.0}
    assert "Measured before" not in table("x", rows)
    monkeypatch.setitem(sources.SOURCES, "x-b", ("benchmarks/mutants.py",))
    assert "**1 of 2 figures: Measured before changes" in table("x", rows)


def test_a_table_names_every_commit_and_machine_once() -> None:
    figure = Figure("x.a", 1.0, "s").__dict__
    rows = [
        figure | {"command": "make x", "machine": machine, "commit": commit}
        for machine, commit in (("m", "c"), ("m", "d"), ("n", "c"))
    ]
    assert table("x", rows).startswith("`make x` on m; n, commit c, d.")


def test_the_machine_names_a_gpu_where_torch_sees_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert published.machine().endswith(" GiB, no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: ["One", "One", "Two"][number])
    assert published.machine().endswith(" GiB, One and Two")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_follow_the_contract_and_stand_in_the_readme(path: Path) -> None:
    rows = json.loads(path.read_text())
    assert rows
    for row in rows:
        assert set(row) - {"sources", "what"} == FIELDS
        assert isinstance(row["value"], int | float)
        assert "/" not in row["machine"]
    assert table(path.stem, rows) in README.read_text(), "run make tables"


def pages_of_fidelity() -> list[tuple[str, Path, str, str]]:
    """Return (result, page, marker, what stands there now) of every table of the laboratory."""
    found = []
    for name in (fidelity_tables.HEADLINE, fidelity_tables.MATRIX):
        rows, stored = fidelity_tables.load_rows(name)
        head = fidelity_tables.heading(name, stored)
        found += [
            (name, page, marker, f"{head}\n\n{body}")
            for page, marker, body in fidelity_tables.tables(name, rows)
        ]
    return found


@pytest.mark.parametrize(("page", "marker", "text"), [entry[1:] for entry in pages_of_fidelity()])
def test_tables_of_the_laboratory_are_those_of_the_result_files(page: Path, marker: str, text: str) -> None:
    """So a table that is older than the method it describes says so: the sentence is part of the text."""
    start, end = published.START.format(name=marker), published.END.format(name=marker)
    assert f"{start}\n{text}\n{end}" in page.read_text(), "run make tables"


def test_the_sketch_page_is_that_of_the_result_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sketch.DOCUMENT.read_text()
    copy = tmp_path / "sketches.md"
    copy.write_text(before)
    monkeypatch.setattr(sketch, "DOCUMENT", copy)
    sketch.write_document(RESULTS / "sketch.json")
    assert copy.read_text() == before, "run make tables"


def test_the_family_page_is_that_of_the_result_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page.DOCUMENT.read_text()
    copy = tmp_path / "family.md"
    copy.write_text(before)
    monkeypatch.setattr(page, "DOCUMENT", copy)
    page.write_page()
    assert copy.read_text() == before, "run make tables"


def test_every_member_of_the_family_can_be_measured_and_every_system_answered() -> None:
    for member in MEMBERS:
        assert callable(import_module(f"benchmarks.family.{member}").figures)
        assert f"family-{member}" in sources.SOURCES
    assert all(each.figures and each.use and each.limits for each in SYSTEMS)


@pytest.mark.usefixtures("clean")
def test_a_table_says_when_the_code_it_describes_has_changed(
    readme: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(
        published.save("x", "make x", [Figure("x.a", 1.0, "s"), Figure("x.b", 2.0, "s")]).read_text()
    )
    assert {row["sources"] for row in rows} == {sources.sources_digest("x")}
    assert "Measured before" not in table("x", rows)
    rows[0]["sources"] = "of other code"
    assert "**1 of 2 figures: Measured before changes" in table("x", rows)
    monkeypatch.setitem(sources.SOURCES, "x", ("benchmarks/launch.py",))
    assert "**Measured before changes to the code that this benchmark runs (commit abc1234).**" in table(
        "x", rows
    )
    assert table("x", rows) not in readme.read_text(), "the page is out of date, as the tests above notice"


@pytest.mark.usefixtures("clean")
def test_a_changed_tree_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("as it was")
    monkeypatch.setattr(published, "README", readme)
    monkeypatch.setattr(published, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(published, "changed_files", lambda: ["grasp_pipeline/seeds.py", "new.py"])
    for write in (published.save, published.update):
        with pytest.raises(
            ConfigError, match=r"2 files are not those of the commit, grasp_pipeline/seeds.py among"
        ):
            write("x", "make x", [Figure("x.a", 1.0, "s")])
    assert not (tmp_path / "results").exists()
    monkeypatch.setenv(published.ELSEWHERE, str(tmp_path / "elsewhere"))
    path = published.save("x", "make x", [Figure("x.a", 1.0, "s")])
    assert path == tmp_path / "elsewhere" / "x.json"
    assert readme.read_text() == "as it was"
    monkeypatch.setenv(published.ELSEWHERE, str(tmp_path / "results" / "methods"))
    with pytest.raises(ConfigError, match="where published results lie"):
        published.save("x", "make x", [Figure("x.a", 1.0, "s")])


def test_files_that_git_does_not_know_are_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "page.md").write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(published, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text("2")
    (tmp_path / "benchmarks" / "results" / "x.json").write_text("[]")
    assert published.changed_files() == []
    (tmp_path / "code.py").write_text("2")
    (tmp_path / "unknown.py").write_text("2")
    assert published.changed_files() == ["code.py", "unknown.py"]


@pytest.mark.usefixtures("clean")
def test_what_was_measured_before_names_its_commit_and_its_code() -> None:
    here = {"what": "x", "commit": "abc1234", "sources": sources.sources_digest("x")}
    assert published.origin("x") == here
    assert published.stamp("x", "make x", [here])["commit"] == "abc1234"
    whole = f"python -m x --config {published.ROOT}/config/x.yaml"
    assert published.stamp("x", whole, [here])["command"] == "python -m x --config config/x.yaml"
    earlier = published.stamp("x", "make x", [here | {"commit": "earlier"}, here])
    assert earlier["commit"] == "earlier, abc1234, published at abc1234"
    assert earlier["sources"] == here["sources"]
    other = published.stamp("x", "make x", [here | {"sources": "of other code"}])
    assert "Measured before" in table("x", [Figure("x.a", 1.0, "s").__dict__ | other])
    for spoiled in ("earlier with changes", ""):
        with pytest.raises(ConfigError, match="delete these files of the laboratory and run it again"):
            published.stamp("x", "make x", [here, here | {"commit": spoiled}])


def test_every_result_names_files_that_exist() -> None:
    names = {path.stem for path in RESULTS.glob("*.json")}
    assert names <= set(sources.SOURCES)
    for name in sources.SOURCES:
        assert len(sources.sources_digest(name)) == 12
    with pytest.raises(ConfigError, match="no benchmark is called unknown"):
        sources.sources_digest("unknown")


def test_a_digest_is_of_what_code_does(tmp_path: Path) -> None:
    texts = [
        "x = 1\n",
        "# why\n\nx  =  1\n",
        '"""What."""\nx = 1\n',
        "x = 2\n",
        "def f():\n    'doc'\n    x = 1\n",
    ]
    paths = [tmp_path / f"{number}.py" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    digests = [sources.content_digest(path) for path in paths]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3
    (tmp_path / "a.yaml").write_text("a: 1 # one\n")
    (tmp_path / "b.yaml").write_text("a: 1\n")
    assert sources.content_digest(tmp_path / "a.yaml") == sources.content_digest(tmp_path / "b.yaml")
