"""What tests of HTML need: the structure that a browser would build, and pages with other texts."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from typing import Any

FIXED = {"embedding_path", "loss"}


class Structure(HTMLParser):
    """What a browser would build: tags, attributes, text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[Any, ...]] = []
        self.text: list[str] = []
        self.marks: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *attrs))
        self._open.append(tag)
        if tag == "mark":
            self.marks.append("")

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text.append(data)
        if "mark" in self._open:
            self.marks[-1] += data


def rewritten(value: Any, text: str, name: str = "") -> Any:
    """The same page with every text of its data replaced."""
    if isinstance(value, str):
        return value if name in FIXED else text
    if isinstance(value, tuple):
        return tuple(rewritten(part, text, name) for part in value)
    if isinstance(value, Mapping):
        return {f"{text}{at}": rewritten(part, text) for at, part in enumerate(value.values())}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: rewritten(getattr(value, f.name), text, f.name) for f in fields(value)})
    return value
