"""The house: three packages of this repository, floors that import only from below, a light code location."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import assets
import grasp_pipeline
import resources

ROOT = Path(__file__).resolve().parents[2]

FLOORS: dict[str, int] = {
    "grasp_pipeline.arrays": 0,
    "grasp_pipeline.columns": 0,
    "grasp_pipeline.engine": 0,
    "grasp_pipeline.errors": 0,
    "grasp_pipeline.locations": 0,
    "grasp_pipeline.memberships": 0,
    "grasp_pipeline.names": 0,
    "grasp_pipeline.progress": 0,
    "grasp_pipeline.registry": 0,
    "grasp_pipeline.section": 0,
    "grasp_pipeline.seeds": 0,
    "grasp_pipeline.tables": 0,
    "grasp_pipeline.config": 1,
    "grasp_pipeline.corpus": 1,
    "grasp_pipeline.proxy": 1,
    "grasp_pipeline.sketch": 1,
    "grasp_pipeline.selection.constraints.kinds": 1,
    "grasp_pipeline.attribution": 2,
    "grasp_pipeline.calibration": 2,
    "grasp_pipeline.selection": 2,
    "grasp_pipeline.evaluation": 3,
    "grasp_pipeline.lineage": 3,
    "grasp_pipeline.planning": 3,
    "grasp_pipeline.proof": 3,
    "grasp_pipeline.report": 3,
    "resources": 4,
    "assets": 4,
    "grasp_pipeline.definitions": 5,
    "grasp_pipeline.__main__": 5,
}
PACKAGES = ("grasp_pipeline", "assets", "resources", "benchmarks")
HEAVY = {"torch", "transformers", "datasets", "matplotlib", "deltalake", "scipy", "sklearn"}


def floor(module: str) -> int | None:
    names = [name for name in FLOORS if module == name or module.startswith(name + ".")]
    return FLOORS[max(names, key=len)] if names else None


def imports(path: Path, top_level: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def sources() -> list[Path]:
    return [
        p
        for package in ("grasp_pipeline", "assets", "resources")
        for p in sorted((ROOT / package).rglob("*.py"))
    ]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("package", [grasp_pipeline, assets, resources])
def test_packages_come_from_this_repository(package: object) -> None:
    assert Path(package.__file__).resolve().is_relative_to(ROOT)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_a_floor_imports_only_from_below_or_beside(path: Path) -> None:
    module = module_of(path)
    mine = floor(module)
    if module in ("assets.run", "assets.browse"):  # commands stand on the roof
        return
    assert mine is not None or module == "grasp_pipeline", f"{module} is on no floor"
    if mine is None:
        return
    for name in imports(path):
        theirs = floor(name)
        if theirs is not None:
            assert theirs <= mine, f"{module} (floor {mine}) imports {name} (floor {theirs})"


@pytest.mark.parametrize("path", sources(), ids=module_of)
def test_only_the_rim_knows_dagster_and_loads_nothing_heavy(path: Path) -> None:
    module = module_of(path)
    rim = module.startswith(("assets", "resources")) or module == "grasp_pipeline.definitions"
    if not rim:
        assert not any(name.split(".")[0] == "dagster" for name in imports(path)), f"{module} imports dagster"
    else:
        loaded = {name.split(".")[0] for name in imports(path, top_level=True)}
        assert not loaded & HEAVY, f"{module} imports {loaded & HEAVY} at module level"


def test_the_code_location_loads_without_heavy_libraries() -> None:
    code = f"import sys; import grasp_pipeline.definitions; print(sorted(set(sys.modules) & {HEAVY!r}))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_nothing_is_pickled_and_no_remote_code_is_trusted() -> None:
    for path in sources():
        text = path.read_text()
        assert "pickle" not in {name.split(".")[0] for name in imports(path)}, path
        assert "weights_only=False" not in text, path
        assert "trust_remote_code=True" not in text, path


def ties() -> dict[str, set[str]]:
    """Return module -> modules of this repository that it imports, in functions too; not for types alone."""
    paths = [p for package in PACKAGES for p in sorted((ROOT / package).rglob("*.py"))]
    modules = {module_of(path): path for path in paths}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
        names: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name in modules else node.module for name in inner}
        found[module] = names & modules.keys() - {module}
    return found


def circles(ties: dict[str, set[str]]) -> list[frozenset[str]]:
    """Return the sets of more than one module of which each reaches all others."""
    reached: dict[str, set[str]] = {}
    for module in ties:
        todo, seen = list(ties[module]), set[str]()
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                todo += ties[one]
        reached[module] = seen
    loops = {module: {m for m in seen if module in reached[m]} for module, seen in reached.items()}
    return sorted({frozenset(loop) for loop in loops.values() if loop}, key=sorted)


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [frozenset("bc")]


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert [sorted(circle) for circle in circles(ties())] == []
