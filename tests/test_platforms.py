"""Where the system has no POSIX modules (Windows), an index is read and explored all the same; writing says why not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tiny

SOURCE = Path(__file__).parents[1] / "src" / "proponent"

WITHOUT = """
import json, mmap, os, sys
for name in ("fcntl", "resource", "termios", "pwd", "grp"):
    sys.modules[name] = None
names = ("O_NOFOLLOW", "O_DIRECTORY", "O_CLOEXEC", "O_NONBLOCK", "posix_fallocate", "sched_getaffinity", "getuid")
for name in names:
    if hasattr(os, name):
        delattr(os, name)
for name in ("PROT_READ", "PROT_WRITE", "MADV_DONTNEED"):
    if hasattr(mmap, name):
        delattr(mmap, name)
"""

HIDDEN = """
import builtins, json, sys
original = builtins.__import__
def hidden(name, globals=None, *given, **named):
    ours = (globals or {}).get("__name__", "").startswith("proponent")
    if ours and name in {"fcntl", "resource", "termios", "pwd", "grp"}:
        raise ImportError(name)
    return original(name, globals, *given, **named)
builtins.__import__ = hidden
"""
"""The modules are missing for our own code alone: torch for Linux cannot do without them."""


def without_posix(code: str, *given: object, way: str = WITHOUT) -> Any:
    """What a process prints as JSON in which the modules and names of POSIX are missing."""
    done = subprocess.run(
        [sys.executable, "-c", way + code, *map(str, given)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


QUERY = "The bank said shares fell"

IMPORT_AND_EXPLAIN = """
import importlib
index, query, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
import proponent
answer = proponent.open(index).explain(query, k=3)
print(json.dumps([len(names), [hit.id for hit in answer.proponents]]))
"""


@pytest.fixture(scope="module")
def hidden(news: tiny.Tiny) -> Any:
    """One process for both: to import every module takes longer than to explain a text."""
    return without_posix(IMPORT_AND_EXPLAIN, news.index, QUERY, *modules(), way=HIDDEN)


def modules() -> list[str]:
    return [
        "proponent." + path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name not in {"__init__.py", "__main__.py"}
    ]


def test_every_module_imports(hidden: Any) -> None:
    assert hidden[0] == len(modules()) > 100


def test_a_text_is_explained(hidden: Any, news: tiny.Tiny) -> None:
    import proponent

    mine = [hit.id for hit in proponent.open(news.index).explain(QUERY, k=3).proponents]
    assert hidden[1] == mine
    assert len(mine) == 3


def test_light_modules_import() -> None:
    names = (
        "cli",
        "store",
        "search",
        "baselines",
        "actions.label_errors",
        "actions.decisions",
        "views",
        "web.app",
        "web.serving",
    )
    assert without_posix("\n".join(f"import proponent.{name}" for name in names) + "\nprint(1)") == 1


READ = """
from pathlib import Path
from proponent.store import Store, verify
folder = Path(sys.argv[1])
store = Store(folder)
verdict = verify(folder)
print(json.dumps([store.n, str(store.examples["text"][0]), len(verdict.damage)]))
"""


def test_an_index_is_read_and_verified(news: tiny.Tiny) -> None:
    assert without_posix(READ, news.index) == [len(news.rows), news.text(0), 0]


EXPLORE = """
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from explorer import Browser
browser = Browser(Path(sys.argv[1]))
seen = [browser.get(url).status for url in ("/ask", "/table", "/example?id=long", "/asked", "/about")]
page = browser.ask("The bank said shares fell")
print(json.dumps([seen, "Helped" in page.seen]))
browser.close()
"""


def test_the_explorer_runs(news: tiny.Tiny, tmp_path: Path) -> None:
    index = Path(shutil.copytree(news.index, tmp_path / "news.index"))
    assert without_posix(EXPLORE, index, Path(__file__).parent) == [[200] * 5, True]


WRITE = """
from pathlib import Path
import numpy as np
from proponent.errors import ProponentError
from proponent.store import delete
try:
    delete(Path(sys.argv[1]), np.asarray([0]))
except ProponentError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def test_writing_is_refused(news: tiny.Tiny) -> None:
    before = sorted(news.index.iterdir())
    kind, message = without_posix(WRITE, news.index)
    assert kind == "InputError"
    assert "can only be read here" in message
    assert sorted(news.index.iterdir()) == before


def test_memory_is_unknown_without_resource() -> None:
    code = "from proponent import processes\nprint(json.dumps(processes.peak_memory()))"
    assert without_posix(code) is None
