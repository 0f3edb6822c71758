"""Whence does this output come? Training data attribution for language models, down to the words.

The names below are the whole public face. They are imported when they are first used, so that `import whence` is light
and loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from whence.version import __version__ as __version__

if TYPE_CHECKING:
    from whence.attribution import build as build
    from whence.attribution import open as open  # noqa: A004
    from whence.errors import WhenceError as WhenceError
    from whence.examples import Columns as Columns
    from whence.index import Index as Index
    from whence.model.recorder import Recorder as Recorder
    from whence.model.run import Run as Run
    from whence.recipe import Recipe as Recipe
    from whence.search import Where as Where
    from whence.types import Example as Example
    from whence.views import Answer as Answer

_HOMES = {
    "Answer": "whence.views",
    "Columns": "whence.examples",
    "Example": "whence.types",
    "Index": "whence.index",
    "Recipe": "whence.recipe",
    "Recorder": "whence.model.recorder",
    "Run": "whence.model.run",
    "Where": "whence.search",
    "WhenceError": "whence.errors",
    "build": "whence.attribution",
    "open": "whence.attribution",
}

__all__ = [
    "Answer",
    "Columns",
    "Example",
    "Index",
    "Recipe",
    "Recorder",
    "Run",
    "WhenceError",
    "Where",
    "build",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'whence' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
