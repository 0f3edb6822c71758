"""Pages: a frozen context plus one set of templates. The only file that imports jinja2.

The return value of a method *is* a Page, so a notebook, a saved report and the explorer show the same object through
the same template. A fragment is one page inside another document (a notebook, the explorer); a document is a complete
file that needs no network and no script.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, cast

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from proponent.disk import write_bytes
from proponent.errors import DataError, InputError
from proponent.views import axes, text_marks, turns

TEMPLATES = Path(__file__).parent / "templates"
NOTEBOOK_BYTES = 200_000
_BARE = frozenset({str, int, float, bool, type(None)})


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the parts of a page in one view; omitted parts are always counted in the view."""

    rows: Annotated[int | None, "hits or rows shown per list; None shows all"] = None
    chars: Annotated[int | None, "characters shown per text; None shows all"] = None


_NOTEBOOK_LIMITS = (Limits(), Limits(20, 4000), Limits(10, 2000), Limits(5, 1000), Limits(3, 400), Limits(1, 200))


def optional() -> Any:
    """A field that is None by default, and then omitted from the JSON."""
    return field(default=None, metadata={"optional": True})


class Page:
    """The base of all pages: a frozen dataclass whose fields are the contract of its template."""

    # Field metadata: `json` renames the field in JSON (None omits it); `optional` omits it while it is None.

    __slots__ = ()
    template: ClassVar[str]

    @property
    def headline(self) -> str:
        """Title of the page if it stands alone."""
        raise NotImplementedError

    def to_dict(self, *, whole: bool = False) -> dict[str, Any]:
        """The page as plain dicts, lists, texts and numbers, with a stable order of keys; `whole`: with every word."""
        return cast("dict[str, Any]", _plain(self, whole))

    def to_json(self, indent: int | None = None) -> str:
        """The page as JSON."""
        content = self.to_dict()
        for where, value in _numbers(content, ""):
            if not math.isfinite(value):
                raise DataError(
                    f"{where.lstrip('.')} is {value}, which JSON cannot represent: a loss or gradient overflowed; "
                    "score again in float32 or leave that row out"
                )
        return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent)

    def save(self, path: str | Path) -> None:
        """Write the page to one file: JSON for the suffix .json, else a self-contained HTML page."""
        target = Path(path)
        write(target, self.to_json(indent=2) + "\n" if target.suffix.lower() == ".json" else document(self))

    def _repr_html_(self) -> str:
        """What a notebook asks for."""
        return self.notebook()

    def notebook(self) -> str:
        """The page for a notebook.

        Returns:
            A heading and a fragment with its own style, no script, at most 200 KB.
        """
        # notebooks typeset $...$ in any HTML; these class names, from MathJax 3 and 2, prevent that for prices
        around = Markup(
            '<style>{}</style><div class="wh-cell mathjax_ignore tex2jax_ignore">'
            '<div class="wh-root wh-title"><h2 class="wh-part">{}</h2></div>{}</div>'
        )
        for limits in _NOTEBOOK_LIMITS:
            shown = around.format(css(), text_marks.clip(self.headline, 300), fragment(self, limits))
            if len(shown.encode("utf-8", "replace")) <= NOTEBOOK_BYTES:
                return str(shown)
        # Label names can have megabytes: the plain text is clipped to 100 columns per line, so it always fits.
        return f"<pre>{html.escape(repr(self))}</pre>"


def fragment(page: Page, limits: Limits = Limits()) -> Markup:
    """Render one page without a document around it and without its style."""
    return Markup(environment().get_template(page.template).render(page=page, limits=limits, answer_links=None))


def screen(frame: object, shown: Any) -> str:
    """Render a whole page of the explorer: a screen and the layout around it."""
    template = environment().get_template(shown.template)
    return template.render(frame=frame, page=shown, answer_links=shown.answer_links, limits=shown.limits)


def document(*pages: Page, title: str | None = None) -> str:
    """Render a complete HTML file: no network, no script, works from disk and on paper."""
    if not pages:
        raise InputError("there is nothing to show: pass at least one answer or report")
    digest = base64.b64encode(hashlib.sha256(css().encode()).digest()).decode()
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            pages=pages,
            title=pages[0].headline if title is None else title,
            css=css(),
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            limits=Limits(),
            answer_links=None,
        )
    )


def write(path: Path, text: str) -> None:
    """Write a finished page or its JSON."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


@cache
def css(name: str = "proponent.css") -> Markup:
    """A style sheet without comments and indentation: that of all pages, or that of the explorer."""
    source = (TEMPLATES / name).read_text(encoding="utf-8")
    bare = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    # Our own file, without "<": the only text that reaches a page unescaped.
    return Markup("\n".join(line.strip() for line in bare.splitlines() if line.strip()))


@cache
def environment() -> Environment:
    """The Jinja environment of all pages: escaping is always on, an unknown name is an error."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(  # pyright: ignore[reportUnknownMemberType]
        bars=_bars,
        clip=text_marks.clip,
        count="{:,}".format,
        glyphs=_glyphs,
        key=axes.key,
        pieces=text_marks.pieces,
        percent=text_marks.percent,
        plain=text_marks.plain,
        runs=turns.runs,
        segments=text_marks.segments,
        sign=text_marks.sign_word,
        signed=text_marks.signed,
        spoken=text_marks.score_in_words,
        step=text_marks.step,
    )
    made.tests.update(shares=lambda hit, word: hit.shares(word))  # pyright: ignore[reportUnknownMemberType, reportUnknownLambdaType]
    return made


def _glyphs(items: tuple[text_marks.Piece, ...]) -> Markup:
    """Pieces of a text, escaped, with the name of each displayed invisible character."""
    return Markup("").join(_GLYPH.format(one.name, one.text) if one.name else one.text for one in items)


_GLYPH = Markup('<span class="wh-g" title="{}">{}</span>')


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a small chart."""

    y: Annotated[float, "top edge, 0 to 20"]
    height: Annotated[float, "0 to 20"]
    side: Annotated[str, '"up" for helped, "down" for hurt']


def _bars(values: tuple[float, ...]) -> tuple[Bar, ...]:
    largest = max((abs(value) for value in values), default=0.0) or 1.0
    heights = [round(10 * abs(value) / largest, 1) for value in values]
    return tuple(
        Bar(10 - height if value >= 0 else 10.0, height, "up" if value >= 0 else "down")
        for value, height in zip(values, heights, strict=True)
    )


def _plain(value: object, whole: bool) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        shown = cast("Any", value).bounded() if not whole and hasattr(value, "bounded") else value
        kept = [(item, getattr(shown, item.name)) for item in fields(value)]
        return {
            item.metadata.get("json", item.name): _plain(part, whole)
            for item, part in kept
            if item.metadata.get("json", item.name) is not None and not (part is None and "optional" in item.metadata)
        }
    if isinstance(value, tuple | list):
        return [_plain_part(part, whole) for part in cast("tuple[object, ...]", value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(part, whole) for key, part in cast("Mapping[object, object]", value).items()}
    return value


def _plain_part(part: Any, whole: bool) -> Any:
    """Convert one of many parts: a query of a million words has a million spans, which dominate the conversion."""
    if type(part) in _BARE:
        return part
    spans = isinstance(part, tuple) and _BARE.issuperset(map(type, cast("tuple[object, ...]", part)))
    return list(cast("tuple[object, ...]", part)) if spans else _plain(cast("object", part), whole)


def _numbers(value: object, where: str) -> list[tuple[str, float]]:
    if isinstance(value, float):
        return [(where, value)]
    if isinstance(value, Mapping):
        items = [(f"{where}.{key}", part) for key, part in cast("Mapping[str, object]", value).items()]
    elif isinstance(value, list):
        items = [(f"{where}[{at}]", part) for at, part in enumerate(cast("list[object]", value))]
    else:
        return []
    return [found for place, part in items for found in _numbers(part, place)]
