"""Real text in every Python installation: standard-library docstrings by topic, with planted label errors."""

import ast
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from proponent.errors import DataError

_MODULES = {
    "concurrency": """
        asyncio multiprocessing threading concurrent subprocess queue sched selectors signal contextvars _weakrefset
    """,
    "files": """
        pathlib os shutil tempfile zipfile tarfile gzip bz2 lzma glob fnmatch _pyio posixpath ntpath genericpath
        fileinput zipimport filecmp _compression shelve dbm pickle csv configparser plistlib json
    """,
    "language": """
        importlib inspect ast dis typing types enum dataclasses functools abc symtable tokenize traceback pkgutil
        runpy _collections_abc collections contextlib copy weakref pickletools pyclbr operator opcode
    """,
    "markup": """
        xml html textwrap string difflib gettext locale pprint codecs re shlex quopri base64
    """,
    "network": """
        http urllib ssl socket socketserver ftplib smtplib imaplib poplib xmlrpc wsgiref ipaddress webbrowser email
        mailbox mimetypes netrc uuid
    """,
    "numbers": """
        _pydecimal fractions statistics random numbers datetime _pydatetime calendar _strptime zoneinfo heapq bisect
        colorsys hashlib hmac secrets
    """,
    "testing": """
        unittest doctest pdb bdb trace timeit profile cProfile pstats logging warnings argparse optparse pydoc cmd
        code getopt tracemalloc faulthandler
    """,
}
TOPICS: dict[str, tuple[str, ...]] = {topic: tuple(modules.split()) for topic, modules in _MODULES.items()}
"""Topics, and the modules (or packages) whose docstrings belong to them."""

FEWEST_WORDS = 10
"""Minimum words of a docstring: shorter ones say too little about their topic."""


@dataclass(frozen=True, slots=True)
class Docstring:
    """One row of the demo's data."""

    id: str  # module and name, such as "asyncio.queues.Queue.get"
    text: str  # the docstring, white space folded
    topic: str  # the true label
    label: str  # the label in the training set; wrong where an error was planted

    @property
    def planted(self) -> bool:
        """Whether the given label is a planted error."""
        return self.label != self.topic


def docstrings(share: float, seed: int) -> tuple[list[Docstring], list[Docstring]]:
    """Read the docstrings of the running Python and plant label errors."""
    found = list(_read())
    if len(found) < 500:
        raise DataError(
            f"this Python has only {len(found)} docstrings in its standard library (stripped sources?): "
            "the demo needs a full installation"
        )
    order = random.Random(seed)
    order.shuffle(found)
    held = len(found) // 10
    test, train = found[:held], found[held:]
    names = sorted(TOPICS)
    for row in order.sample(range(len(train)), round(share * len(train))):
        one = train[row]
        train[row] = Docstring(one.id, one.text, one.topic, order.choice([name for name in names if name != one.topic]))
    return train, test


def _read() -> Iterator[Docstring]:
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    ids: set[str] = set()
    for topic, modules in sorted(TOPICS.items()):
        for module in sorted(modules):
            for name, text in _module(root, module):
                if text not in seen and name not in ids and len(text.split()) >= FEWEST_WORDS:
                    seen.add(text)
                    ids.add(name)
                    yield Docstring(name, text, topic, topic)


def _module(root: Path, module: str) -> Iterator[tuple[str, str]]:
    folder = root / module
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [root / f"{module}.py"]
    for path in paths:
        if not path.is_file() or {"test", "tests", "__pycache__"} & set(path.relative_to(root).parts):
            continue
        dotted = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        yield from _docs(ast.parse(path.read_bytes()), dotted)


def _docs(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, " ".join(text.split())
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):  # most nodes are expressions, which hold no definitions
            continue
        inner = (
            f"{name}.{child.name}" if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) else name
        )
        yield from _docs(child, inner)
