"""Pages of one question: the form and the answer, its progress, the list of all questions."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from proponent.errors import InputError
from proponent.views import Explanation, Hit
from proponent.views.frames import AnswerLinks, Link, Screen
from proponent.views.text_marks import clip
from proponent.web.layout import (
    FILES,
    Form,
    PageRequest,
    PastQuestion,
    answer_links,
    file_links,
    form,
    past_questions,
)
from proponent.web.model_worker import ModelWorker, QuestionJob
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.questions import StoredAnswer
from proponent.web.states import ExampleState, QuestionState

RECENT = 8
LISTED = 200
ANSWER_FILES = ("html", "json", "csv", "jsonl", "parquet", "pair")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskScreen(Screen):
    """Ask about a text; the answer when there is one."""

    template: ClassVar[str] = "explorer/ask.html.j2"

    form: Annotated[Form, "the question"]
    answer: Annotated[Explanation | None, "the answer; None when the question was not asked yet"]
    answer_links: Annotated[AnswerLinks, "ways out of the answer"]
    all_hits: Annotated[int, "hits of the answer before the word filter"] = 0
    exports: Annotated[tuple[Link, ...], "files of this answer"] = ()
    groups: Annotated[str, "URL of the sums by label; empty without an answer"] = ""
    problem: Annotated[str, "why new texts cannot be asked; empty when they can"] = ""
    recent: Annotated[tuple[PastQuestion, ...], "questions that were asked before, latest first"] = ()
    n_examples: Annotated[int, "training examples of the index"] = 0
    seconds: Annotated[float, "what the answer took; 0 when it is not known"] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScreen(Screen):
    """A question on its way."""

    template: ClassVar[str] = "explorer/job.html.j2"

    url: Annotated[str, "this page"]
    text: Annotated[str, "what is asked"]
    stage: Annotated[str, "what is being done"]
    ahead: Annotated[int, "questions that are answered before it"]
    seconds: Annotated[float, "how long it has been under way"]
    error: Annotated[str, "why it failed; empty while it has not"] = ""
    again: Annotated[str, "URL of the form, filled in"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScreen(Screen):
    """All questions that were asked of an index."""

    template: ClassVar[str] = "explorer/asked.html.j2"

    questions: Annotated[tuple[PastQuestion, ...], "latest first"]
    total: Annotated[int, "how many there are"]
    file: Annotated[str, "name of the folder in which they are kept"]
    exports: Annotated[tuple[Link, ...], "files of all answers"] = ()


def ask_screen(request: PageRequest, open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> AskScreen:
    """Show a question, and its answer if there is one."""
    kept = stored_of(shown, state)
    filled, links = form(open_indexes, shown, state), answer_links(request, shown, state)
    if kept is None:
        return AskScreen(
            form=filled,
            answer=None,
            answer_links=links,
            problem=_missing(shown),
            recent=past_questions(shown, RECENT),
            n_examples=shown.store.counts.examples,
        )
    return AskScreen(
        form=filled,
        answer=sharing(kept.answer, state.word),
        answer_links=links,
        all_hits=len(kept.answer.proponents) + len(kept.answer.opponents),
        exports=file_links(state, "answer", ANSWER_FILES),
        groups=state.url("/groups", word=""),
        n_examples=shown.store.counts.examples,
        seconds=kept.seconds,
    )


def sharing(answer: Explanation, word: str) -> Explanation:
    """Keep the hits that share a word; all of them without one."""
    if not word:
        return answer
    wanted = word.casefold()

    def kept(hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        shared = (
            {name.casefold() for pair in hit.words for name in (pair.query_word, pair.train_word)} for hit in hits
        )
        return tuple(hit for hit, words in zip(hits, shared, strict=True) if wanted in words)

    return replace(answer, proponents=kept(answer.proponents), opponents=kept(answer.opponents))


def job_screen(asker: ModelWorker, job: QuestionJob, index: str) -> JobScreen:
    """Show the progress of a question."""
    return JobScreen(
        url=ExampleState(index=index, id=job.id).url("/job"),
        text=clip(job.question.text, 600),
        stage=job.stage,
        ahead=asker.ahead(job),
        seconds=job.seconds,
        error=job.error,
        again=QuestionState.of(job.question, index).url("/ask"),
    )


def asked_screen(shown: OpenIndex) -> AskedScreen:
    """List the questions that were asked."""
    export = ExampleState(index=shown.name).url
    titles = FILES | {"html": "one page (HTML)", "json": "JSON Lines"}
    return AskedScreen(
        questions=past_questions(shown, LISTED),
        total=len(shown.questions.list()),
        file=shown.questions.folder.name,
        exports=tuple(Link(titles[kind], export(f"/export/answers.{kind}")) for kind in ("html", "pair", "json")),
    )


def stored_of(shown: OpenIndex, state: QuestionState) -> StoredAnswer | None:
    """Find the answer to a question, if it was asked."""
    shown.check_filters(state.question)
    return shown.questions.get(state.question) if state.given else None


def kept_of(shown: OpenIndex, state: QuestionState) -> StoredAnswer:
    """Find an answer that must be there."""
    kept = shown.questions.get(state.question)
    if kept is None:
        raise InputError("this question was not asked of this index yet: ask it first")
    return kept


def _missing(shown: OpenIndex) -> str:
    folder = shown.run_folder
    if folder.exists():
        return ""
    return (
        f"New texts cannot be asked: model folder {folder} is missing. Stored answers and everything else work. "
        "If the folder has moved, start again with --run FOLDER."
    )
