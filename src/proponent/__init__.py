"""Which training data caused this output? Training data attribution for language models, down to the words.

The names below are the whole public API. They are imported on first use, so that `import proponent` is fast and loads
neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from proponent.version import __version__ as __version__

if TYPE_CHECKING:
    from proponent.api import build as build
    from proponent.api import open as open  # noqa: A004
    from proponent.data import Columns as Columns
    from proponent.errors import ProponentError as ProponentError
    from proponent.index import Index as Index
    from proponent.method import EmbeddingRows as EmbeddingRows
    from proponent.method import Gradients as Gradients
    from proponent.method import Head as Head
    from proponent.method import Layers as Layers
    from proponent.method import Projection as Projection
    from proponent.models.recorder import Recorder as Recorder
    from proponent.models.run import Run as Run
    from proponent.search import Where as Where
    from proponent.training.weighted_trainer import WeightedTrainer as WeightedTrainer
    from proponent.types import Example as Example
    from proponent.views import Explanation as Explanation

_HOMES = {
    "Explanation": "proponent.views",
    "Columns": "proponent.data",
    "Example": "proponent.types",
    "Index": "proponent.index",
    "EmbeddingRows": "proponent.method",
    "Gradients": "proponent.method",
    "Head": "proponent.method",
    "Layers": "proponent.method",
    "Projection": "proponent.method",
    "Recorder": "proponent.models.recorder",
    "Run": "proponent.models.run",
    "WeightedTrainer": "proponent.training.weighted_trainer",
    "Where": "proponent.search",
    "ProponentError": "proponent.errors",
    "build": "proponent.api",
    "open": "proponent.api",
}

__all__ = [
    "Columns",
    "EmbeddingRows",
    "Example",
    "Explanation",
    "Gradients",
    "Head",
    "Index",
    "Layers",
    "Projection",
    "ProponentError",
    "Recorder",
    "Run",
    "WeightedTrainer",
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
