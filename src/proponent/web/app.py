"""The routes of the explorer: each reads a state, builds one screen and renders it."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as WebRequest
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from proponent.errors import DiskFullError, InputError, ProponentError
from proponent.views.frames import Link, Screen
from proponent.views.page import css, screen
from proponent.web import exports, test_set_files
from proponent.web.bulk import decide_selected
from proponent.web.conversation import from_form
from proponent.web.downloads import Download, FileResponse
from proponent.web.layout import PageRequest, frame
from proponent.web.model_worker import ModelWorker, QuestionJob
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages import ask, index
from proponent.web.pages.comparison import compare_screen
from proponent.web.pages.errors import errors_screen
from proponent.web.pages.example import example_screen
from proponent.web.pages.example_map import map_screen
from proponent.web.pages.groups import group_screen
from proponent.web.pages.home import home_screen
from proponent.web.pages.table import table_screen
from proponent.web.pages.test_set import screen_of_set
from proponent.web.safety import URL_BYTES
from proponent.web.slots import PAGES_AT_WORK, BusyError
from proponent.web.states import (
    ErrorsState,
    ExampleState,
    JobState,
    ListedState,
    MapState,
    PageState,
    PredictedState,
    QuestionState,
    TableState,
)
from proponent.web.test_set_requests import asked_row, start_explaining, start_predicting, take_file
from proponent.web.test_sets import OpenTestSet, OpenTestSets

S = TypeVar("S", bound=PageState)
Endpoint = Callable[[WebRequest], Response | FileResponse]

STATIC = Path(__file__).parent / "static"
THEMES = ("", "light", "dark")
THEME_COOKIE = "proponent-theme"
_FILES: dict[str, Callable[[], bytes]] = {
    "proponent.css": lambda: f"{css()}\n{css('explorer/explorer.css')}\n".encode(),
    "htmx.js": (STATIC / "htmx.min.js").read_bytes,
    "explorer.js": (STATIC / "explorer.js").read_bytes,
    "pick.js": (STATIC / "pick.js").read_bytes,
}


class Explorer:
    """The pages of some indexes; every form contains the token of this run."""

    def __init__(self, open_indexes: OpenIndexes, token: str, test_sets: Sequence[OpenTestSet] = ()) -> None:
        self.open_indexes, self.token, self.asker = open_indexes, token, ModelWorker()
        self.test_sets = OpenTestSets(test_sets)
        self._files = {**exports.MAKERS, **test_set_files.makers(self.test_sets)}

    def predict_all(self) -> None:
        """Predict the test sets of the command with every index that takes them, unless that is stored."""
        for shown in self.open_indexes.shown.values():
            with suppress(ProponentError):  # its pages show the error
                for test_set in self.test_sets.read_by(shown).values():
                    start_predicting(self.test_sets, self.asker, shown, test_set)

    @property
    def application(self) -> Starlette:
        """The routes."""
        indexes = self.open_indexes
        reads: dict[str, Endpoint] = {
            "/": self._screen(ExampleState, lambda shown, _: home_screen(self.test_sets, shown)),
            "/test": self._screen(
                PredictedState, lambda shown, state: screen_of_set(self.test_sets, self.asker, shown, state)
            ),
            "/ask": self._ask,
            "/job": self._job,
            "/table": self._screen(TableState, table_screen),
            "/example": self._screen(ListedState, example_screen),
            "/map": self._screen(MapState, map_screen),
            "/errors": self._screen(
                ErrorsState, lambda shown, state: errors_screen(self.test_sets, self.asker, shown, state)
            ),
            "/compare": self._screen(QuestionState, lambda _, state: compare_screen(indexes, state, self.asker)),
            "/groups": self._screen(QuestionState, lambda shown, state: group_screen(indexes, shown, state)),
            "/asked": self._screen(ExampleState, lambda shown, _: ask.asked_screen(shown)),
            "/action": self._screen(ExampleState, index.action_screen),
            "/changes": self._screen(ExampleState, lambda shown, _: index.changes_screen(shown)),
            "/about": self._screen(ExampleState, lambda shown, _: index.about_screen(shown)),
            "/export/{file:path}": self._export,
            "/static/{name}": self._static,
        }
        writes = {
            "/ask": self._post_ask,
            "/compare": self._post_ask,
            "/groups": self._post_ask,
            "/upload": self._upload,
            "/predict": self._predict,
            "/why": self._why,
            "/errors": self._explain_errors,
            "/decide": self._decide,
            "/selected": self._decide_all,
            "/undo": self._undo,
            "/cancel": self._cancel,
            "/theme": self._theme,
        }
        routes = [Route(path, make, methods=["GET"]) for path, make in reads.items()]
        routes += [Route(path, make, methods=["POST"]) for path, make in writes.items()]
        handled = (HTTPException, ProponentError, OSError, MemoryError)
        made = Starlette(routes=routes, exception_handlers=dict.fromkeys(handled, self._problem))
        made.router.redirect_slashes = False
        return made

    def _screen(self, kind: type[S], make: Callable[[OpenIndex, S], Screen]) -> Endpoint:
        """Read a state of an index and show its screen."""

        def endpoint(request: WebRequest) -> Response:
            if request.scope.get("proponent.long"):
                PAGES_AT_WORK.let_go_first()
            state = _read(kind, request)
            shown = self.open_indexes.get(state.first)
            if shown.building and not shown.readable:
                return self._page(request, shown, index.build_screen(shown))
            return self._page(request, shown, make(shown, state))

        return endpoint

    def _ask(self, request: WebRequest) -> Response:
        """Show a question and its answer; for an unfinished index, the progress of its build."""
        state = _read(QuestionState, request)
        shown = self.open_indexes.get(state.first)
        if shown.building and not state.text:
            return self._page(request, shown, index.build_screen(shown))
        return self._page(request, shown, ask.ask_screen(self._of(request), self.open_indexes, shown, state))

    def _post_ask(self, request: WebRequest) -> Response:
        """Answer a question, or put it into the queue; one that cannot be asked stays in its form."""
        fields = _form(request)
        state = QuestionState.unchecked(from_form(fields))
        shown = self.open_indexes.get(state.first)
        try:
            state = QuestionState.read(from_form(fields))
            if any(name == "edit" for name, _ in fields):
                return _see(_short(state.url(request.url.path)))
            _short(state.url("/ask"))
            summed = request.url.path == "/groups"
            names = state.index[:1] if summed else state.index
            jobs = [self._asked(self.open_indexes.get(name), state) for name in names or ("",)]
        except InputError as error:
            screen = ask.ask_screen(self._of(request), self.open_indexes, shown, state, str(error))
            return self._page(request, shown, screen, 400)
        if request.url.path == "/compare" or len(names) > 1:
            return _see(state.url("/compare", word=""))
        to = "/groups" if summed else "/ask"
        if jobs[0] is None:
            return _see(QuestionState.of(state.question, state.first).url(to))
        return _see(JobState(index=state.first, id=jobs[0].id, to=to).url("/job"))

    def _asked(self, shown: OpenIndex, state: QuestionState) -> QuestionJob | None:
        """The job of a question; None if its answer is stored."""
        shown.check(state.question)
        kept = shown.questions.get(state.question)
        if kept is not None and (kept.own or not shown.run_folder.exists()):
            return None  # one that came with the folder is computed again where that is possible
        return self.asker.ask(state.question, shown.source, shown.questions.put)

    def _upload(self, request: WebRequest) -> Response:
        """Take the file of a test set, and begin to predict it."""
        fields, sent = dict(_form(request)), request.scope["proponent.upload"]
        shown = self.open_indexes.get(fields.get("in", ""))
        state = PredictedState(index=shown.name)
        try:
            test_set = take_file(self.test_sets, shown, sent, fields)
        except InputError as error:
            screen = screen_of_set(self.test_sets, self.asker, shown, state, str(error))
            return self._page(request, shown, screen, 400)
        start_predicting(self.test_sets, self.asker, shown, test_set)
        return _see(replace(state, set=test_set.id).url("/test"))

    def _predict(self, request: WebRequest) -> Response:
        """Begin to predict a test set; perhaps again."""
        fields = dict(_form(request))
        shown = self.open_indexes.get(fields.get("in", ""))
        test_set = self.test_sets.get(fields.get("set", ""), shown)
        if test_set is None:
            raise InputError("there is no test set: choose a file first")
        start_predicting(self.test_sets, self.asker, shown, test_set, again=fields.get("again") == "yes")
        return _see(PredictedState(index=shown.name, set=test_set.id).url("/test"))

    def _explain_errors(self, request: WebRequest) -> Response:
        """Begin to explain the wrong predictions of a test set."""
        fields = dict(_form(request))
        shown = self.open_indexes.get(fields.get("in", ""))
        test_set = self.test_sets.get(fields.get("set", ""), shown)
        start_explaining(self.test_sets, self.asker, shown, test_set)
        return _see(ErrorsState(index=shown.name, set=fields.get("set", "")).url("/errors"))

    def _why(self, request: WebRequest) -> Response:
        """Ask why a row of a test set is predicted as it is, and not as its label says."""
        fields = dict(_form(request))
        shown = self.open_indexes.get(fields.get("in", ""))
        state = QuestionState.of(asked_row(self.test_sets, shown, fields), shown.name)
        answer = _short(state.url("/ask"))
        job = self._asked(shown, state)
        if job is None:
            return _see(answer)
        return _see(JobState(index=shown.name, id=job.id).url("/job"))

    def _job(self, request: WebRequest) -> Response:
        """Show the progress of a question."""
        state = _read(JobState, request)
        shown = self.open_indexes.get(state.index)
        job = self.asker.job(state.id)
        if job is None:
            raise InputError("this question is no longer in progress: look in the list of questions, or ask again")
        if job.state == "done":
            url = QuestionState.of(job.question, state.index).url(state.to)
            if "hx-request" in request.headers:
                return Response(status_code=204, headers={"HX-Redirect": url})
            return _see(url)
        return self._page(request, shown, ask.job_screen(self.open_indexes, self.asker, job, shown, state.to))

    def _cancel(self, request: WebRequest) -> Response:
        """End a question; its form stays."""
        fields = dict(_form(request))
        self.asker.cancel(fields.get("id", ""))
        if "back" in fields:
            return _see(_back(fields))
        return _see(ExampleState(index=fields.get("in", ""), id=fields.get("id", "")).url("/job"))

    def _export(self, request: WebRequest) -> FileResponse:
        """Send a file of the current view."""
        what, _, kind = request.path_params["file"].partition(".")
        if kind not in exports.TYPES or what not in self._files:
            raise HTTPException(404)
        state, make = self._files[what]
        asked = _read(state, request)
        shown = self.open_indexes.get(asked.first)
        name = f"proponent-{what}.{exports.SUFFIXES.get(kind, kind)}"
        download = Download(lambda path: make(shown, asked, kind)(path), name)
        headers = {"content-disposition": f'attachment; filename="{name}"', "content-type": exports.TYPES[kind]}
        return FileResponse(download, headers)

    def _static(self, request: WebRequest) -> Response:
        """Send a style sheet or a script."""
        name = request.path_params["name"]
        if name not in _FILES:
            return Response("there is no such file\n", 404, media_type="text/plain")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        kind = "text/css" if name.endswith(".css") else "text/javascript"
        return Response(_file(name)[0], media_type=kind, headers=headers)

    def _decide(self, request: WebRequest) -> Response:
        """Record a decision; then show the page that it was made on, or the next example of a list."""
        fields = dict(_form(request))
        shown = self.open_indexes.get(fields.get("in", ""))
        identity, act = fields.get("id", ""), fields.get("act", "")
        if identity not in shown.table.whole.numbers:
            raise InputError(f"no training example has the id {identity[:80]!r}")
        note = fields["note"].strip() if "note" in fields else None
        if act == "note":
            shown.decisions.annotate(identity, note or "")
            return _see(_back(fields))
        shown.decisions.decide([identity], act, [fields.get("label")], note)
        following = act != "clear" and fields.get("next")
        return _see(_back({"back": following} if following else fields))

    def _decide_all(self, request: WebRequest) -> Response:
        """Record one decision about all examples that the table selects."""
        fields = dict(_form(request))
        decide_selected(self.open_indexes.get(fields.get("in", "")), fields)
        return _see(_back(fields))

    def _undo(self, request: WebRequest) -> Response:
        """Undo the decision that the page named as the last one."""
        fields = dict(_form(request))
        back, step = _back(fields), fields.get("step", "")
        if not (step.isascii() and step.isdecimal() and len(step) < 19):
            raise InputError("this form does not say which decision to undo: reload the page")
        pairs = dict(reversed(parse_qsl(back.partition("?")[2])))
        self.open_indexes.get(pairs.get("in", "")).decisions.undo(int(step))
        return _see(back)

    def _theme(self, request: WebRequest) -> Response:
        """Choose light, dark, or the preference of the system."""
        fields = dict(_form(request))
        response = _see(_back(fields))
        theme = fields.get("theme", "")
        if theme in THEMES:
            response.set_cookie(THEME_COOKIE, theme, max_age=31_536_000, httponly=True, samesite="strict")
        return response

    def _page(
        self,
        request: WebRequest,
        shown: OpenIndex,
        seen: Screen,
        status: int = 200,
        notices: tuple[str, ...] | None = None,
    ) -> Response:
        around = frame(self._of(request), self.open_indexes, shown, notices)
        around = replace(around, notices=(*around.notices, *seen.warnings))
        text = screen(around, seen).encode("utf-8", "backslashreplace")
        return Response(text, status, media_type="text/html")

    def _of(self, request: WebRequest) -> PageRequest:
        query = request.url.query
        theme = request.cookies.get(THEME_COOKIE, "")
        style, *scripts = (f"/static/{name}?v={_file(name)[1]}" for name in _FILES)
        return PageRequest(
            path=request.url.path,
            back=f"{request.url.path}?{query}" if query else request.url.path,
            token=self.token,
            theme=theme if theme in THEMES else "",
            style=style,
            scripts=tuple(scripts),
        )

    def _problem(self, request: WebRequest, error: Exception) -> Response:
        """Show an error, with links to pages that still work."""
        if isinstance(error, HTTPException):
            status, error = error.status_code, InputError("there is no page at this address")
        else:
            if isinstance(error, MemoryError):
                error = InputError("the memory did not suffice: ask for less, or bring a smaller file")
            if isinstance(error, OSError):
                error = InputError(f"{error.filename or 'a file'} cannot be read or written: {error.strerror or error}")
            kinds = {BusyError: 503, InputError: 400, DiskFullError: 507}
            status = next((code for kind, code in kinds.items() if isinstance(error, kind)), 500)
        links = tuple(
            Link(f"{text} {name}", ExampleState(index=name).url(path))
            for name in self.open_indexes.shown
            for text, path in (("ask", "/ask"), ("all training examples of", "/table"))
        )
        return self._page(request, self.open_indexes.first, index.problem_screen(error, links), status, notices=())


@cache
def _file(name: str) -> tuple[bytes, str]:
    """Content and version of a style sheet or a script."""
    content = _FILES[name]()
    return content, hashlib.sha256(content).hexdigest()[:12]


def _read(kind: type[S], request: WebRequest) -> S:
    return kind.read(request.query_params.multi_items())


def _form(request: WebRequest) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = request.scope.get("proponent.fields", [])
    return [(name, value.replace("\r\n", "\n")) for name, value in fields]


def _short(url: str) -> str:
    """Refuse a question that no address can hold."""
    if len(url) > URL_BYTES:
        raise InputError(f"the question takes {len(url):,} bytes in an address: shorten it to {URL_BYTES:,}")
    return url


def _see(url: str) -> RedirectResponse:
    return RedirectResponse(url, 303)


def _back(fields: dict[str, str]) -> str:
    """The page of origin of a form; always a path on this server, even for forged input."""
    back = fields.get("back", "")
    inside = back.startswith("/") and not back.startswith("//") and "\\" not in back and back.isprintable()
    return back if inside else "/table"
