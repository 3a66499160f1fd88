"""The mutation run: which tests it gives a file, which places it changes, and what it publishes."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutants import GROUPS, Mutant, fast_tests, figures, survivors_page, wilson
from benchmarks.published import ROOT
from benchmarks.sources import files_of

SOURCE = """
from __future__ import annotations

def halve(x: int | None, y: int = 4) -> int | None:
    if x is None or x <= 0:
        return None
    return x // 2 + y
"""


def test_every_mutated_file_has_tests_and_its_own_come_first() -> None:
    for place in GROUPS.values():
        for file in sorted((ROOT / place).rglob("*.py")) or [ROOT / place]:
            if file.name == "__init__.py":
                continue
            found = fast_tests(str(file.relative_to(ROOT)))
            assert found, f"no test works on {file}"
            own = [name for name in found if Path(name).stem == f"test_{file.stem}"]
            assert list(found[: len(own)]) == own


def test_what_is_mutated_is_what_makes_its_figures_old() -> None:
    """A result could not be written, or would seem current, were a group missing among the sources."""
    sources = set(files_of("mutants"))
    for place in GROUPS.values():
        assert set((ROOT / place).rglob("*.py") if (ROOT / place).is_dir() else [ROOT / place]) <= sources


def test_places_are_changed_once_and_annotations_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cosmic_ray")
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    file = tmp_path / "toy.py"
    file.write_text(SOURCE)
    found = list(mutants.mutants(file))
    assert {one.line for one in found} == {4, 5, 7}
    assert not [one for one in found if "Operator_BitOr_" in one.operator]
    # On line 7 two operators and a number; the default on line 4.
    assert sum(one.line == 7 for one in found) == 3
    assert found == list(mutants.mutants(file))
    for one in found:
        assert one.code != SOURCE
        compile(one.code, "toy.py", "exec")
        assert one.change.count("\n") == 1


def test_figures_count_what_was_killed() -> None:
    chosen = [
        Mutant(path, "op", 0, 1) for path in ("assets/checks.py", "assets/checks.py", "resources/audit.py")
    ]
    found = {one.figure: one for one in figures(chosen, [True, False, False], "s")}
    assert found["mutants.killed_share"].value == pytest.approx(2 / 3)
    assert found["mutants.killed_share[checks]"].value == 0.5
    assert found["mutants.killed_share[audit]"].value == 1
    assert "mutants.killed_share[selection]" not in found
    assert wilson(85, 100) == pytest.approx((0.767, 0.907), abs=1e-3)


def test_the_page_lists_survivors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mutant, "change", property(lambda self: f"+changed {self.line}"))
    page = survivors_page(
        [Mutant("a.py", "op", 0, 3), Mutant("b.py", "op", 0, 5)], [True, False], "make mutants"
    )
    assert "`a.py:3`" in page
    assert "+changed 3" in page
    assert "b.py" not in page
