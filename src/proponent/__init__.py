"""Where does this output come from? Training data attribution for language models, down to the words.

The names below are the whole public face. They are imported when they are first used, so that `import proponent` is
light and loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from proponent.version import __version__ as __version__

if TYPE_CHECKING:
    from proponent.attribution import build as build
    from proponent.attribution import open as open  # noqa: A004
    from proponent.errors import ProponentError as ProponentError
    from proponent.examples import Columns as Columns
    from proponent.index import Index as Index
    from proponent.model.recorder import Recorder as Recorder
    from proponent.model.run import Run as Run
    from proponent.recipe import Recipe as Recipe
    from proponent.search import Where as Where
    from proponent.types import Example as Example
    from proponent.views import Answer as Answer

_HOMES = {
    "Answer": "proponent.views",
    "Columns": "proponent.examples",
    "Example": "proponent.types",
    "Index": "proponent.index",
    "Recipe": "proponent.recipe",
    "Recorder": "proponent.model.recorder",
    "Run": "proponent.model.run",
    "Where": "proponent.search",
    "ProponentError": "proponent.errors",
    "build": "proponent.attribution",
    "open": "proponent.attribution",
}

__all__ = [
    "Answer",
    "Columns",
    "Example",
    "Index",
    "ProponentError",
    "Recipe",
    "Recorder",
    "Run",
    "Where",
    "build",
    "open",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'proponent' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
