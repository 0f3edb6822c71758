"""Scripts under benchmarks/ import what the library has, and prefer its public face."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.rglob("*.py"))


def wanted(path: Path) -> list[tuple[str, str | None]]:
    """Modules of the library that a script imports, with the names that it takes of them."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "proponent":
            found += [(str(node.module), alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names if alias.name.split(".")[0] == "proponent"]
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_a_script_imports_what_is_there(path: Path):
    missing: list[str] = []
    for module, name in wanted(path):
        try:
            home = import_module(module)
        except ModuleNotFoundError as error:
            missing.append(f"{module} ({error})")
            continue
        if name is None or hasattr(home, name):
            continue
        try:
            import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            missing.append(f"{module}.{name}")
    assert missing == []
