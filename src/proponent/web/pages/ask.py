"""Pages of one question: the form and the answer, its progress, the list of all questions."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Annotated, ClassVar, Literal

from proponent.errors import InputError
from proponent.views import Explanation
from proponent.views.frames import AnswerLinks, Link, Screen
from proponent.views.text_marks import clip
from proponent.web.layout import FILES, Form, PageRequest, decision_words, file_links, form
from proponent.web.model_worker import ModelWorker, QuestionJob
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.pages.example_map import answer_on_map
from proponent.web.pages.pick import Pick, pick, written
from proponent.web.questions import StoredAnswer, Summary
from proponent.web.states import ExampleState, JobState, Question, QuestionState

RECENT = 8
LISTED = 200
CAME_WITH = "came with the folder, not computed by you"
"""How an answer is marked in lists that this user did not compute."""

ANSWER_FILES = ("html", "json", "csv", "jsonl", "parquet", "pair")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastQuestion:
    """A question that was answered before."""

    text: Annotated[str, "the text, or its beginning"]
    label: Annotated[str, "class that was explained; empty for a language model"]
    predicted: Annotated[str, "class that the model predicts; empty for a language model"]
    when: Annotated[str, "date and time, UTC"]
    url: Annotated[str, "where its answer is"]
    only: Annotated[str, "labels and sources that could be found; empty for all"]
    how: Annotated[str, "how a language model was asked, and whose answer it is if not one's own; or empty"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AskScreen(Screen):
    """A form for a question, and its answer if there is one."""

    template: ClassVar[str] = "explorer/ask.html.j2"

    form: Annotated[Form, "the question"]
    answer: Annotated[Explanation | None, "the answer; None when the question was not asked yet"] = None
    sharing: Annotated[int, "hits that share the word of the filter"] = 0
    groups: Annotated[str, "URL of the sums by label; empty without an answer"] = ""
    located: Annotated[Link | None, "the map on which the hits of the answer stand out; None without one"] = None
    problem: Annotated[str, "why new texts cannot be asked; empty when they can"] = ""
    recent: Annotated[tuple[PastQuestion, ...], "questions that were asked before, latest first"] = ()
    n_examples: Annotated[int, "training examples of the index"] = 0
    seconds: Annotated[float, "what the answer took; 0 when it is not known"] = 0.0
    error: Annotated[str, "why the question cannot be asked; empty when it can"] = ""
    pick: Annotated[Pick | None, "the answer, to choose a piece of it; None of a classifier"] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobScreen(Screen):
    """The progress of a question."""

    template: ClassVar[str] = "explorer/job.html.j2"

    url: Annotated[str, "this page"]
    job: Annotated[str, "id of the job, to cancel it"]
    text: Annotated[str, "what is asked"]
    stage: Annotated[str, "what is being done"]
    ahead: Annotated[int, "questions that are answered before it"]
    seconds: Annotated[float, "how long it has been under way"]
    form: Annotated[Form, "the question, to change it when it failed"]
    to: Annotated[str, "path of the page that shows the answer"]
    error: Annotated[str, "why it failed; empty while it has not"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScreen(Screen):
    """All answered questions of an index."""

    template: ClassVar[str] = "explorer/asked.html.j2"

    questions: Annotated[tuple[PastQuestion, ...], "latest first"]
    total: Annotated[int, "how many there are"]
    file: Annotated[str, "name of the folder in which they are kept"]


def ask_screen(
    request: PageRequest, open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState, error: str = ""
) -> AskScreen:
    """Show a question, and its answer if there is one; or why it cannot be asked."""
    kept = None if error else find_answer(shown, state)
    asked = state if kept is None else written(state, kept.answer)
    screen = AskScreen(
        title="Ask",
        warnings=provenance(kept),
        form=form(open_indexes, shown, asked),
        answer_links=AnswerLinks(
            index=shown.name,
            state=tuple(state.pairs),
            token=request.token,
            back=request.back,
            names=tuple(shown.plan.label_names or ()),
            decided={name: decision_words(one) for name, one in shown.decisions.current.items()},
            word=state.word,
            switch="" if kept is None else state.url("/ask", words="" if state.words else "content"),
        ),
        n_examples=shown.store.counts.examples,
    )
    if kept is None:
        return replace(screen, problem=shown.missing, recent=latest(shown, RECENT), error=error)
    return replace(
        screen,
        title=kept.answer.headline,
        answer=shown_words(kept.answer, state),
        sharing=sum(hit.shares(state.word) for hit in (*kept.answer.proponents, *kept.answer.opponents)),
        exports=file_links(state, "answer", ANSWER_FILES),
        groups=state.url("/groups", word=""),
        located=Link("These examples on the map", answer_on_map(state)),
        seconds=kept.seconds,
        pick=pick(kept.answer, asked, shown.name) if shown.language else None,
    )


def provenance(*answers: StoredAnswer | None) -> tuple[str, ...]:
    """Warnings about answers that were not computed by this user, or are not kept."""
    kept = [one for one in answers if one is not None]
    lines = [f"This answer is not kept: {one.unkept}. It is gone when the explorer ends." for one in kept if one.unkept]
    if not all(one.own for one in kept):
        lines.append(
            "This answer came with the folder of the index: it was not computed by you on this machine, and nothing "
            "proves that it is the index's own. Press Ask to compute it again."
        )
    return tuple(dict.fromkeys(lines))


def shown_words(answer: Explanation, state: QuestionState) -> Explanation:
    """The answer with all words, or without function words."""
    return answer.without_function_words() if state.words == "content" else answer


def past_question(index: str, one: Summary) -> PastQuestion:
    """An entry of the list of questions."""
    return PastQuestion(
        text=clip(one.question.summary, 160),
        only=clip(one.question.filters, 160),
        how=clip(", ".join(filter(None, (_how(one.question), "" if one.own else CAME_WITH))), 160),
        label=(one.explained or "") + (f" and not {one.question.against}" if one.question.against else ""),
        predicted=one.predicted or "",
        when=one.when.replace("T", " ").removesuffix("+00:00")[:16],
        url=QuestionState.of(one.question, index).url("/ask"),
    )


def _how(question: Question) -> str:
    """How a question to a language model differs from others with the same text."""
    said = "the answer of the model" if question.generate else f"“{question.answer}”" if question.answer else ""
    piece = f"only “{question.span}”" if question.span else ""
    other = f"against “{question.other}”" if question.other else ""
    return ", ".join(filter(None, (piece, said, other)))


def latest(shown: OpenIndex, most: int) -> tuple[PastQuestion, ...]:
    """The latest questions of an index."""
    return tuple(past_question(shown.name, one) for one in islice(shown.questions.list().values(), most))


def sharing(answer: Explanation, word: str) -> Explanation:
    """Keep the hits that share a word; all of them if no word is given."""
    if not word:
        return answer
    kept = (tuple(hit for hit in some if hit.shares(word)) for some in (answer.proponents, answer.opponents))
    proponents, opponents = kept
    return replace(answer, proponents=proponents, opponents=opponents)


def job_screen(
    open_indexes: OpenIndexes, asker: ModelWorker, job: QuestionJob, shown: OpenIndex, to: Literal["/ask", "/groups"]
) -> JobScreen:
    """Show the progress of a question; of one that failed, the form as it was filled in."""
    index = shown.name
    return JobScreen(
        title="Asking",
        index=index,
        job=job.id,
        refresh=0.0 if job.error else 1.0,
        url=JobState(index=index, id=job.id, to=to).url("/job"),
        to=to,
        text=clip(job.question.summary, 600),
        stage=job.stage,
        ahead=asker.ahead(job),
        seconds=job.seconds,
        error=job.error,
        form=form(open_indexes, shown, QuestionState.of(job.question, index)),
    )


def asked_screen(shown: OpenIndex) -> AskedScreen:
    """List the answered questions."""
    export = ExampleState(index=shown.name).url
    titles = FILES | {"html": "one page (HTML)", "json": "JSON Lines"}
    return AskedScreen(
        title="Questions asked",
        questions=latest(shown, LISTED),
        total=len(shown.questions.list()),
        file=shown.questions.folder.name,
        exports=tuple(Link(titles[kind], export(f"/export/answers.{kind}")) for kind in ("html", "pair", "json")),
    )


def find_answer(shown: OpenIndex, state: QuestionState) -> StoredAnswer | None:
    """Find the stored answer to a question, if there is one."""
    shown.check_filters(state.question)
    return shown.questions.get(state.question) if state.given else None


def require_answer(shown: OpenIndex, state: QuestionState) -> StoredAnswer:
    """Find an answer that must exist."""
    kept = shown.questions.get(state.question)
    if kept is None:
        raise InputError("this index has no answer to this question yet: ask it first")
    return kept
