"""What a release is made of: versions with hashes, floors that are argued, a bill of materials."""

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
CONSTRAINTS = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    return {plain(one[1]): one[2] for one in re.finditer(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)}


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "tools" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_lock_has_the_versions_of_the_constraints_and_every_package_a_hash(sbom: ModuleType) -> None:
    locked, named = pinned(LOCK), pinned(CONSTRAINTS)
    assert {name: one for name, one in locked.items() if named.get(name, one) != one} == {}
    parts = sbom.packages(LOCK)
    assert {plain(one[0]): one[1] for one in parts} == locked
    assert [one[0] for one in parts if not one[3]] == []
    needs = {plain(re.split(r"[\[<>=]", one)[0]) for some in PROJECT["optional-dependencies"].values() for one in some}
    needs |= {plain(re.split(r"[\[<>=]", one)[0]) for one in PROJECT["dependencies"]}
    assert needs - {"proponent"} <= locked.keys()


def test_constraints_stay_usable_by_pip_install_c() -> None:
    assert "--hash" not in CONSTRAINTS
    assert "://" not in CONSTRAINTS + LOCK


def test_floors_are_those_that_are_argued() -> None:
    page = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    argued = dict(
        re.findall(r"^\| ([a-z0-9]+) \| ([0-9.]+) \| .*$", page[page.index("## Hashes and floors") :], re.MULTILINE)
    )
    listed = [*PROJECT["dependencies"], *(one for some in PROJECT["optional-dependencies"].values() for one in some)]
    floors = dict(one.split(">=") for one in listed if ">=" in one)
    assert {name: floors.get(name) for name in argued} == argued
    assert {"h11", "jinja2", "starlette", "pyarrow", "torch"} <= argued.keys()


def test_the_bill_of_materials_has_every_package_and_what_is_vendored(sbom: ModuleType) -> None:
    made = sbom.bill(LOCK)
    names = {one["name"] for one in made["components"]}
    assert {plain(one) for one in names} >= pinned(LOCK).keys()
    htmx = next(one for one in made["components"] if one["name"] == "htmx.org")
    script = (ROOT / "src/proponent/web/static/htmx.min.js").read_text(encoding="utf-8")
    assert f'version:"{htmx["version"]}"' in script
    assert json.dumps(made) == json.dumps(sbom.bill(LOCK)), "the same lock gives the same bytes"
    assert (made["bomFormat"], made["specVersion"]) == ("CycloneDX", "1.6")
    assert made["metadata"]["component"]["version"] == PROJECT["version"]
    assert len({one["bom-ref"] for one in made["components"]}) == len(made["components"])
    vendored = sorted((ROOT / "src/proponent/web/static").glob("*.min.*"))
    assert [path for path in vendored if path not in {one[2] for one in sbom.VENDORED.values()}] == []


def test_the_page_of_commands_is_that_of_the_commands() -> None:
    spec = importlib.util.spec_from_file_location("command_reference", ROOT / "tools" / "command_reference.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8") == made.page(), "run `make docs`"


def test_the_citation_has_the_version_and_the_licence() -> None:
    said = dict(re.findall(r"^(version|license): (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE))
    assert said == {"version": PROJECT["version"], "license": PROJECT["license"]}


def test_every_page_of_the_documentation_is_reached_from_its_index() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    named = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    reached = {path for one in named for path in (ROOT / "docs").glob(f"{one}.md")}
    pages = {path for path in (ROOT / "docs").rglob("*.md") if "_site" not in path.parts} - {ROOT / "docs" / "index.md"}
    assert pages == reached
