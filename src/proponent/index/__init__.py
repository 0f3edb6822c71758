"""Build and query an index: the only package that combines models with stored indexes."""

from proponent.index.build import build
from proponent.index.default_method import default_method, summed
from proponent.index.index import Index
from proponent.index.options import Options

__all__ = ["Index", "Options", "build", "default_method", "summed"]
