"""The house rules: floors, front door, one door per dependency, limits, documents in step with the code."""

import ast
import importlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import proponent

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "proponent"
FILES = sorted(SOURCE.rglob("*.py"))

DOORS = {
    "transformers": {"models/huggingface.py"},
    "huggingface_hub": {"hub.py"},
    "peft": {"models/adapter_modules.py", "demo/chat_model.py"},
    "trl": {"demo/chat_model.py", "models/counting.py", "models/trainer_notes.py"},  # two read its notes
    "tokenizers": {"models/scratch.py"},
    "accelerate": {"models/device_map.py", "training/trainer.py"},
    "safetensors": {"tensors.py"},
    "jinja2": {"views/page.py"},
    "starlette": {"web/app.py"},
    "uvicorn": {"web/serving.py"},
    "scipy": {"search/synonyms.py", "evaluate/intervals.py", "evaluate/lds.py", "actions/unlabelled_weights.py"},
    "bm25s": {"baselines.py"},
    "sklearn": {"baselines.py", "actions/held_out.py"},
    "subprocess": {"processes.py"},
    "multiprocessing": {"engine.py"},
    "obstore": {"buckets.py"},
    "fsspec": {"data/addresses.py"},
}
FOLDER_DOORS = {
    "pyarrow": "data/",
    "datasets": ("data/", "demo/"),
    "pandas": ("data/", "views/"),
    "polars": "data/",
    "typer": "cli/",
}


def imports_of(path: Path) -> set[str]:
    """First names of everything that a file imports, hidden imports included, type-only ones too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Call):  # import_module("scipy.optimize") and the like
            texts = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            found |= {
                text.split(".")[0] for text in texts if isinstance(text, str) and re.fullmatch(r"[a-z0-9_.]+", text)
            }
    return found


def test_import_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_a_method_is_called_a_method():
    kept = {"store/manifest.py", "training/retraining.py"}  # keys and files of earlier versions
    paths = [path for path in FILES if path.relative_to(SOURCE).as_posix() not in kept]
    assert [path.name for path in paths if "recipe" in path.read_text(encoding="utf-8").lower()] == []


def test_every_import_contract_catches_a_planted_violation(tmp_path: Path):
    shutil.copytree(SOURCE, tmp_path / "proponent", ignore=shutil.ignore_patterns("__pycache__"))
    planted = {
        "errors.py": "import proponent.cli",
        "store/rows.py": "import proponent.models",
        "views/tables.py": "import torch",
        "models/checkpoints.py": "import transformers",
    }
    for name, line in planted.items():
        path = tmp_path / "proponent" / name
        path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--config", ROOT / "pyproject.toml", "--no-cache"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    kept = [one["name"] for one in contracts if f"{one['name']} BROKEN" not in done.stdout]
    assert (done.returncode, kept) == (1, [])


def test_front_door_is_exactly_this():
    assert sorted(proponent.__all__) == [
        "Columns", "EmbeddingRows", "Example", "Explanation", "Gradients", "Head", "Index", "Layers", "Projection",
        "ProponentError", "Recorder", "Run", "WeightedTrainer", "Where", "build", "open",
    ]  # fmt: skip
    assert len(proponent.__all__) <= 20
    for name in proponent.__all__:
        assert getattr(proponent, name).__doc__, f"{name} has no docstring"


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = proponent.nonsense


@pytest.mark.parametrize("package", sorted(DOORS))
def test_one_door_per_dependency(package: str):
    users = {path.relative_to(SOURCE).as_posix() for path in FILES if package in imports_of(path)}
    assert users <= DOORS[package], f"{package} is imported by {users - DOORS[package]}"
    assert users, f"nothing imports {package}: take it off the list"


@pytest.mark.parametrize("package", sorted(FOLDER_DOORS))
def test_one_folder_per_library(package: str):
    users = {path.relative_to(SOURCE).as_posix() for path in FILES if package in imports_of(path)}
    assert all(user.startswith(FOLDER_DOORS[package]) for user in users), users


def loads(statement: str) -> set[str]:
    """Which heavy packages a fresh process has loaded after a statement."""
    heavy = ("torch", "transformers", "datasets", "pandas", "pyarrow", "scipy", "sklearn")
    code = f"import sys; {statement}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import proponent",
        "import proponent.cli",
        "import proponent.views",
        "import proponent.errors, proponent.method",
        "import proponent.method_table",
    ],
)
def test_light_imports_load_nothing_heavy(statement: str):
    assert loads(statement) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import proponent.store",
        "import proponent.search",
        "import proponent.baselines",
        "import proponent.actions.label_errors",
        "import proponent.actions.lexical_bias",
        "import proponent.actions.decisions",
        "import proponent.web.app",
        "import proponent.web.serving",
    ],
)
def test_reading_an_index_needs_no_torch(statement: str):
    assert not loads(statement) & {"torch", "transformers", "datasets", "pandas", "scipy", "sklearn"}


def test_the_light_import_check_can_fail():
    assert "torch" in loads("import proponent.gradients.capture")


def test_files_and_functions_stay_short():
    lengths = {
        path.relative_to(SOURCE).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES
    }
    assert {name: count for name, count in lengths.items() if count > 400} == {}
    functions = [
        (node.end_lineno - node.lineno + 1 - docstring_lines(node), f"{path.name}:{node.name}")
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [entry for entry in functions if entry[0] > 60] == []
    assert statistics.median(count for count, _ in functions) <= 12


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        return first.end_lineno - first.lineno + 1
    return 0


def test_no_rooms_for_odds_and_ends():
    names = {path.stem for path in FILES} | {path.parent.name for path in FILES}
    assert not names & {"utils", "util", "common", "helpers", "config", "misc"}


@pytest.mark.parametrize(
    "banned",
    [r"\bpickle\b", r"joblib", r"weights_only=False", r"trust_remote_code=True", r"\|\s*safe\b", r"torch\.func"],
)
def test_unsafe_words_are_absent(banned: str):
    hits = [
        path.relative_to(SOURCE).as_posix()
        for path in [*FILES, *SOURCE.rglob("*.j2")]
        if re.search(banned, re.sub(r'""".*?"""|#.*|"[^"\n]*"', "", path.read_text(encoding="utf-8"), flags=re.S))
    ]
    assert hits == []


DISK_DOORS = {
    "disk.py": "the door itself",
    "locks.py": "opens logs for appending, under a lock",
    "store/leases.py": "opens the file whose bytes are locked; nothing is written to it",
    "models/saving.py": "fills a folder that `disk.write_folder` publishes",
    "cli/application.py": "closed stdout: redirects it to the null device",
    "web/model_process.py": "keeps stdout for the answers",
}
CHANGING = set(
    re.findall(
        r"\w+",
        """write_text mkdir unlink rmdir touch symlink_to hardlink_to rmtree makedirs removedirs copytree copyfile copy2
        move save_pretrained to_csv to_parquet to_json_file savefig mkdtemp mkstemp NamedTemporaryFile
        TemporaryDirectory TemporaryFile memmap ftruncate pwrite fdopen link symlink tofile savez save_file""",
    )
)
"""Calls that change the disk, whatever they are called on."""

OF_MODULES = {("os", "replace"), ("os", "rename"), ("os", "remove"), ("torch", "save"), ("np", "save")}


def writes_of(source: str) -> list[str]:
    """Calls in a module that change files or folders without the door."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [f"{ast.unparse(one.func)} in line {one.lineno}" for one in calls if changes_disk(one)]


def changes_disk(call: ast.Call) -> bool:
    owned = isinstance(call.func, ast.Attribute)
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if owner == "disk":
        return False
    if name in CHANGING or (owner, name) in OF_MODULES or (owned and name == "write_bytes"):
        return True  # our own write_bytes is imported by its name
    if name != "open":
        return False
    if owner == "os":
        return bool(re.search("O_(WRONLY|RDWR|CREAT|APPEND|TRUNC)", ast.unparse(call)))
    modes = call.args[0 if owned else 1 :][:1] + [one.value for one in call.keywords if one.arg == "mode"]
    words = [str(one.value) for one in modes if isinstance(one, ast.Constant)]
    return any(re.fullmatch("[rwaxbt+]{1,3}", word) and set(word) & set("wax+") for word in words)


def test_everything_is_written_through_one_door():
    found = {path.relative_to(SOURCE).as_posix(): writes_of(path.read_text(encoding="utf-8")) for path in FILES}
    assert {name: calls for name, calls in found.items() if calls and name not in DISK_DOORS} == {}
    assert [name for name in DISK_DOORS if not found[name]] == [], "take them off the list"


@pytest.mark.parametrize(
    "line",
    ["path.write_text('x')", "path.write_bytes(b'x')", "open('x', 'w')", "path.open('ab')", "open('x', mode='r+')",
     "os.open('x', os.O_CREAT)", "os.replace('a', 'b')", "folder.mkdir()", "shutil.rmtree(folder)", "path.unlink()",
     "model.save_pretrained(folder)", "np.save('x', a)", "torch.save(a, 'x')", "frame.to_csv('x')",
     "tempfile.TemporaryDirectory()"],
)  # fmt: skip
def test_a_write_around_the_door_is_seen(line: str):
    assert writes_of(line)


@pytest.mark.parametrize(
    "line",
    ["path.open('rb')", "open('x')", "write_bytes(path, b'x')", "disk.write_bytes(path, b'x')", "open_index('a', 'w')",
     "'a'.replace('b', 'c')", "os.open('x', os.O_RDONLY)", "dataclasses.replace(a, b=1)", "opened.open()"],
)  # fmt: skip
def test_reading_and_the_door_are_let_be(line: str):
    assert writes_of(line) == []


OPENERS = {"open", "read_bytes", "read_text", "memory_map", "OSFile", "mmap", "fromfile", "load_from_disk"}
AROUND_THE_DOOR = {
    "data/arrow.py": {"memory_map", "OSFile"},  # once the file is checked; a compressed one is already in memory
    "data/addresses.py": {"open"},  # of fsspec: a url that the user named
    "data/decoding.py": {"gzip.open"},  # over a file that the door opened
    "data/saved.py": {"memory_map"},  # once the file is checked
    "data/sources.py": {"load_from_disk"},  # once its files are checked
    "data/stored.py": {"OSFile"},  # once the file is checked
    "store/leases.py": {"os.open"},  # the locks: made here, and refused if they are no regular file
    "store/mapped.py": {"mmap.mmap"},  # of a file that the door opened
    "web/downloads.py": {"open"},  # a temporary file of its own
    "web/seals.py": {"open", "os.open"},  # the user's own key; refused if it is no regular file, or others can read it
    "web/app.py": {"read_bytes"},  # styles and scripts of the package
}
"""Where a file is opened in another way, and why that is no stranger's file, or no longer an unchecked one."""


def opened_in(path: Path) -> set[str]:
    """The calls in a file that open files, other than through a `Door`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        named = node.func if isinstance(node, ast.Call) else node
        if isinstance(node, ast.Call) and isinstance(named, ast.Name) and named.id == "open":
            found.add("open")
        if not isinstance(named, ast.Attribute) or named.attr not in OPENERS:
            continue
        owner = ast.unparse(named.value)
        if owner.upper().endswith("DOOR") or owner == "json_log":
            continue
        if named.attr == "open" and not isinstance(node, ast.Call):
            continue
        found.add(f"{owner}.{named.attr}" if owner in {"os", "gzip", "io", "mmap"} else named.attr)
    return found - {"self.open"}


def test_a_strangers_files_are_opened_through_one_door():
    packages = ("store/", "models/", "data/", "web/", "json_log.py", "tensors.py", "actions/decisions.py")
    found = {
        name: opened
        for path in FILES
        if (name := path.relative_to(SOURCE).as_posix()).startswith(packages) and (opened := opened_in(path))
    }
    assert found == AROUND_THE_DOOR


def test_the_check_of_the_door_can_fail(tmp_path: Path):
    lines = (
        "open('a')",
        "Path('a').open('rb')",
        "path.read_text()",
        "os.open('a', 0)",
        "gzip.open('a')",
        "pa.memory_map('a')",
        "json.loads(path.read_bytes())",
    )
    for line in lines:
        (tmp_path / "a.py").write_text(line)
        assert opened_in(tmp_path / "a.py"), line
    (tmp_path / "a.py").write_text("DOOR.open(path, most=1)\n_DOOR.read_json(path, most=1)\nself._open(path)")
    assert opened_in(tmp_path / "a.py") == set()


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == proponent.__version__


def test_notation_is_the_table_of_types():
    letters = re.findall(r"^([a-z])  (.+)$", importlib.import_module("proponent.types").__doc__ or "", flags=re.M)
    assert len(letters) == 13
    page = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| ([a-z]) \| (.+?) \|$", page, flags=re.M) == letters


def test_readme_has_a_line_of_words_per_folder():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 130
    tree = readme[readme.index("\nsrc/proponent/\n") : readme.index("\ntests/  ")]
    said = dict(re.findall(r"^  (\S+/) +(.*)$", tree, re.MULTILINE))
    there = {f"{path.name}/" for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    assert said.keys() == there
    assert [name for name, words in said.items() if not 3 <= len(words) <= 90] == []


def test_every_method_has_a_page():
    from proponent.method_table import METHODS

    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "methods").glob("*.md"))
    assert [name for name in METHODS if f"`{name}`" not in pages] == []


IMPORTS = {"scikit-learn": "sklearn"}
"""Packages that are imported by another name."""

EXTRAS = {
    "accelerate": "train",
    "peft": "peft",
    "starlette": "serve",
    "uvicorn": "serve",
    "anyio": "serve",
    "datasets": "data",
    "pandas": "data",
    "polars": "data",
    "numba": "speed",
    "trl": "train",
}


def declared() -> dict[str, set[str]]:
    """Modules of the core (named "") and of each extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {extra: [re.split(r"[\[<>=]", entry)[0] for entry in entries] for extra, entries in lists.items()}
    return {extra: {IMPORTS.get(name, name) for name in some} for extra, some in names.items()}


def test_what_is_imported_is_declared():
    imported: set[str] = set()
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    others = imported - set(sys.stdlib_module_names) - {"proponent"}
    modules = declared()
    optional = {name: extra for name, extra in EXTRAS.items() if name in modules[extra]}
    assert optional == EXTRAS
    assert others - modules[""] - set(optional) == set()
    assert not modules[""] & set(optional)


def test_missing_packages_are_named_with_their_extra():
    extras = {name for name in declared() if name}
    named = {extra for path in FILES for extra in re.findall(r"proponent\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert named <= extras
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for package, extra in re.findall(r"(\w+)[^\n]*: pip install 'proponent\[(\w+)\]'", text):
            assert EXTRAS.get(package.lower(), extra) == extra, f"{path.name}: {package}"


def test_the_demos_environment_can_serve():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = re.search(r"^\$\(VENV\)/\.demo:.*\n.*'\.\[([\w,]+)\]'", makefile, re.MULTILINE)
    assert extras is not None
    assert {"train", "baselines", "serve"} <= set(extras[1].split(","))


def test_every_dependency_is_argued():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[\[<>=]", entry)[0] for entry in project["dependencies"]]
    names += [re.split(r"[\[<>=]", entry)[0] for extra in project["optional-dependencies"].values() for entry in extra]
    argued = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    assert [name for name in names if name != "proponent" and name.removeprefix("pytest-") not in argued] == []
