"""The demo: docstrings of the standard library with planted label errors, from training to a page."""

from proponent.demo.story import demo

__all__ = ["demo"]
