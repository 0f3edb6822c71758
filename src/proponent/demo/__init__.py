"""The embedded default: docstrings of the standard library, planted label errors, the story told."""

from proponent.demo.story import demo

__all__ = ["demo"]
