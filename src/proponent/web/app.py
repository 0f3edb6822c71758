"""The routes of the explorer: each reads a state, makes one screen and renders it."""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import Request as WebRequest
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from proponent.errors import InputError, ProponentError
from proponent.views.frames import AnswerLinks, Link, Screen
from proponent.views.page import css, screen
from proponent.web import exports
from proponent.web.layout import PageRequest, frame
from proponent.web.model_worker import ModelWorker, QuestionJob
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages import ask, index
from proponent.web.pages.comparison import compare_screen
from proponent.web.pages.example import example_screen
from proponent.web.pages.groups import group_screen
from proponent.web.pages.table import table_screen
from proponent.web.states import ExampleState, PageState, QuestionState, TableState

S = TypeVar("S", bound=PageState)

STATIC = Path(__file__).parent / "static"
THEMES = ("", "light", "dark")
PART = 256 * 1024
"""Bytes of a file that are sent at a time."""
THEME_COOKIE = "proponent-theme"
_FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "proponent.css": ("text/css; charset=utf-8", lambda: f"{css()}\n{css('explorer/explorer.css')}\n".encode()),
    "htmx.js": ("text/javascript; charset=utf-8", lambda: (STATIC / "htmx.min.js").read_bytes()),
    "explorer.js": ("text/javascript; charset=utf-8", lambda: (STATIC / "explorer.js").read_bytes()),
}


class Explorer:
    """The pages of some indexes; every form carries the token of this run."""

    def __init__(self, open_indexes: OpenIndexes, token: str) -> None:
        self.open_indexes, self.token, self.asker = open_indexes, token, ModelWorker()

    @property
    def application(self) -> Starlette:
        """The routes."""
        reads = {
            "/": self.home,
            "/ask": self.ask,
            "/job": self.job,
            "/table": self.table,
            "/example": self.example,
            "/compare": self.compare,
            "/groups": self.groups,
            "/asked": self.asked,
            "/action": self.action,
            "/about": self.about,
            "/export/{file:path}": self.export,
            "/static/{name}": self.static,
        }
        writes = {
            "/ask": self.post_ask,
            "/compare": self.post_ask,
            "/decide": self.decide,
            "/undo": self.undo,
            "/theme": self.theme,
        }
        routes = [Route(path, self._caught(make), methods=["GET"]) for path, make in reads.items()]
        routes += [Route(path, self._caught(make), methods=["POST"]) for path, make in writes.items()]
        made = Starlette(routes=routes, exception_handlers={404: self._unknown, 405: self._unknown})
        made.router.redirect_slashes = False
        return made

    def home(self, _: WebRequest) -> Response:
        """Redirect to the form."""
        return _see("/ask")

    def ask(self, request: WebRequest) -> Response:
        """Show a question and its answer."""
        state = _read(QuestionState, request)
        shown = self._whole(state.first, request)
        if isinstance(shown, Response):
            return shown
        seen = ask.ask_screen(self._of(request), self.open_indexes, shown, state)
        title = seen.answer.headline if seen.answer is not None else "Ask"
        return self._page(request, shown, title, seen, seen.answer_links)

    def post_ask(self, request: WebRequest) -> Response:
        """Answer a question, or queue it."""
        state = QuestionState.read(_form(request))
        jobs = [self._asked(self.open_indexes.get(name), state) for name in state.index or ("",)]
        if request.url.path == "/compare" or len(state.index) > 1:
            return _see(state.url("/compare", word=""))
        if jobs[0] is None:
            return _see(QuestionState.of(state.question, state.first).url("/ask"))
        return _see(ExampleState(index=state.first, id=jobs[0].id).url("/job"))

    def _asked(self, shown: OpenIndex, state: QuestionState) -> QuestionJob | None:
        """The job of a question; None if its answer is stored."""
        shown.check(state.question)
        questions = shown.questions
        if questions.get(state.question) is not None:
            return None
        return self.asker.ask(state.question, shown.source, questions.put)

    def job(self, request: WebRequest) -> Response:
        """Show the progress of a question."""
        state = _read(ExampleState, request)
        shown = self.open_indexes.get(state.index)
        job = self.asker.job(state.id)
        if job is None:
            raise InputError("this question is not in progress any more: look among the questions asked, or ask again")
        if job.state == "done":
            url = QuestionState.of(job.question, state.index).url("/ask")
            if "hx-request" in request.headers:
                return Response(status_code=204, headers={"HX-Redirect": url})
            return _see(url)
        seen = ask.job_screen(self.asker, job, state.index)
        return self._page(request, shown, "Asking", seen, refresh=0.0 if job.error else 1.0)

    def table(self, request: WebRequest) -> Response:
        """Show the training examples."""
        state = _read(TableState, request)
        shown = self.open_indexes.get(state.index)
        return self._page(request, shown, "Training examples", table_screen(shown, state))

    def example(self, request: WebRequest) -> Response:
        """Show one training example."""
        state = _read(ExampleState, request)
        shown = self.open_indexes.get(state.index)
        return self._page(request, shown, f"Example {state.id}", example_screen(shown, state.id))

    def compare(self, request: WebRequest) -> Response:
        """Show rankings side by side."""
        state = _read(QuestionState, request)
        shown = self.open_indexes.get(state.first)
        seen, moving = compare_screen(self.open_indexes, state, self.asker)
        return self._page(request, shown, "Rankings side by side", seen, refresh=1.0 if moving else 0.0)

    def groups(self, request: WebRequest) -> Response:
        """Show sums over groups."""
        state = _read(QuestionState, request)
        shown = self.open_indexes.get(state.first)
        return self._page(request, shown, "Groups", group_screen(self.open_indexes, shown, state))

    def asked(self, request: WebRequest) -> Response:
        """List the questions that were asked."""
        shown = self.open_indexes.get(_read(ExampleState, request).index)
        return self._page(request, shown, "Questions asked", ask.asked_screen(shown))

    def action(self, request: WebRequest) -> Response:
        """Show the report of an action."""
        state = _read(ExampleState, request)
        shown = self.open_indexes.get(state.index)
        seen = index.action_screen(shown, state.id)
        return self._page(request, shown, seen.title, seen)

    def about(self, request: WebRequest) -> Response:
        """Show the contents of an index."""
        shown = self._whole(_read(ExampleState, request).index, request)
        if isinstance(shown, Response):
            return shown
        return self._page(request, shown, f"Index {shown.name}", index.about_screen(shown))

    def export(self, request: WebRequest) -> Response:
        """Give a file of the current view."""
        what, _, kind = request.path_params["file"].partition(".")
        asking = _read(QuestionState, request)
        shown = self.open_indexes.get(_read(ExampleState, request).index)
        makers: Mapping[str, Callable[[], bytes]] = {
            "table": lambda: exports.of_table(shown, _read(TableState, request), kind),
            "answer": lambda: exports.of_answer(shown, asking, kind),
            "answers": lambda: exports.of_answers(shown, kind),
            "groups": lambda: exports.of_groups(shown, asking, kind),
            "corrected": lambda: exports.of_corrected(shown, kind),
            "decisions": lambda: exports.of_decisions(shown),
            "action": lambda: exports.of_action(shown, _read(ExampleState, request).id, kind),
        }
        if kind not in exports.TYPES or what not in makers:
            raise _MissingError("there is no such file")
        name = f"proponent-{what}.{exports.SUFFIXES.get(kind, kind)}"
        content = makers[what]()
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Content-Length": str(len(content))}
        return StreamingResponse(_parts(content), media_type=exports.TYPES[kind], headers=headers)

    def static(self, request: WebRequest) -> Response:
        """Give a style sheet or a script."""
        name = request.path_params["name"]
        if name not in _FILES:
            raise _MissingError("there is no such file")
        kind, _ = _FILES[name]
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(_static(name)[0], media_type=kind, headers=headers)

    def decide(self, request: WebRequest) -> Response:
        """Record a decision."""
        fields = dict(_form(request))
        shown = self.open_indexes.get(fields.get("in", ""))
        identity, act = fields.get("id", ""), fields.get("act", "")
        if identity not in shown.table.whole.numbers:
            raise InputError(f"no training example has the id {identity[:80]!r}")
        shown.decisions.decide([identity], act, [fields.get("label")])
        return _see(_back(fields))

    def undo(self, request: WebRequest) -> Response:
        """Undo the last decision."""
        fields = dict(_form(request))
        pairs = dict(reversed(parse_qsl(_back(fields).partition("?")[2])))
        self.open_indexes.get(pairs.get("in", "")).decisions.undo()
        return _see(_back(fields))

    def theme(self, request: WebRequest) -> Response:
        """Choose light, dark, or the preference of the system."""
        fields = dict(_form(request))
        response = _see(_back(fields))
        theme = fields.get("theme", "")
        if theme in THEMES:
            response.set_cookie(THEME_COOKIE, theme, max_age=31_536_000, httponly=True, samesite="strict")
        return response

    def _whole(self, name: str, request: WebRequest) -> OpenIndex | Response:
        """An index that can be shown; for an unfinished one, the progress of its build."""
        shown = self.open_indexes.get(name)
        if shown.sealed or not (shown.folder / "plan.json").is_file():
            _ = shown.store
            return shown
        if request.url.path == "/ask" and request.query_params.get("text"):
            return shown
        seen = index.build_screen(shown)
        return self._page(request, shown, f"{shown.name} is being built", seen, refresh=2.0)

    def _page(
        self,
        request: WebRequest,
        shown: OpenIndex,
        title: str,
        seen: Screen,
        answer_links: AnswerLinks | None = None,
        **more: Any,
    ) -> Response:
        status: int = more.pop("status", 200)
        around = frame(self._of(request), self.open_indexes, shown, title, **more)
        text = screen(seen.template, around, seen, answer_links, seen.limits).encode("utf-8", "backslashreplace")
        return Response(text, status, media_type="text/html; charset=utf-8")

    def _of(self, request: WebRequest) -> PageRequest:
        query = request.url.query
        theme = request.cookies.get(THEME_COOKIE, "")
        return PageRequest(
            path=request.url.path,
            back=f"{request.url.path}?{query}" if query else request.url.path,
            token=self.token,
            theme=theme if theme in THEMES else "",
            style=_versioned("proponent.css"),
            scripts=(_versioned("htmx.js"), _versioned("explorer.js")),
        )

    def _caught(self, make: Callable[[WebRequest], Response]) -> Callable[[WebRequest], Response]:
        def endpoint(request: WebRequest) -> Response:
            try:
                return make(request)
            except _MissingError as error:
                return self._problem(request, error, 404)
            except ProponentError as error:
                return self._problem(request, error, 400 if isinstance(error, InputError) else 500)

        return endpoint

    def _problem(self, request: WebRequest, error: Exception, status: int) -> Response:
        links = tuple(
            Link(f"{text} {one.name}", ExampleState(index=one.name).url(path))
            for one in self.open_indexes.shown.values()
            for text, path in (("ask", "/ask"), ("all training examples of", "/table"))
        )
        seen = index.problem_screen(error, status, links)
        return self._page(request, self.open_indexes.first, seen.title, seen, status=status, notices=())

    async def _unknown(self, request: WebRequest, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        return self._problem(request, _MissingError("there is nothing at this address"), status)


class _MissingError(InputError):
    """There is nothing at this address."""


@cache
def _static(name: str) -> tuple[bytes, str]:
    content = _FILES[name][1]()
    return content, hashlib.sha256(content).hexdigest()[:12]


def _versioned(name: str) -> str:
    return f"/static/{name}?v={_static(name)[1]}"


async def _parts(content: bytes) -> AsyncIterator[memoryview]:
    """A file in parts: sent whole, a slow client would hold a second copy of it."""
    for start in range(0, len(content), PART):
        yield memoryview(content)[start : start + PART]


def _read(kind: type[S], request: WebRequest) -> S:
    return kind.read(request.query_params.multi_items())


def _form(request: WebRequest) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = request.scope.get("proponent.fields", [])
    return [(name, value.replace("\r\n", "\n")) for name, value in fields]


def _see(url: str) -> RedirectResponse:
    return RedirectResponse(url, 303)


def _back(fields: dict[str, str]) -> str:
    """Where a form came from; a path of this server, whatever was sent."""
    back = fields.get("back", "")
    inside = back.startswith("/") and not back.startswith("//") and "\\" not in back and back.isprintable()
    return back if inside else "/table"
