"""The demos, from training to a page: docstrings with planted label errors; a chat model with a planted fact."""

from proponent.demo.chat_story import chat_demo
from proponent.demo.story import demo

__all__ = ["chat_demo", "demo"]
