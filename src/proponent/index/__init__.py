"""Build and ask: the one place where model meets disk."""

from proponent.index.ask import Index
from proponent.index.build import build
from proponent.index.default import default_method
from proponent.index.options import Options

__all__ = ["Index", "Options", "build", "default_method"]
