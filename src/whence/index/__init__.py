"""Build and ask: the one place where model meets disk."""

from whence.index.ask import Index
from whence.index.build import build
from whence.index.default import default_method
from whence.index.options import Options

__all__ = ["Index", "Options", "build", "default_method"]
