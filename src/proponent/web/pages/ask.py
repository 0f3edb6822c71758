"""Screens about one question: the form and the answer, the question on its way, all questions, sums over groups."""

from collections.abc import Sequence
from dataclasses import replace

from proponent.errors import InputError
from proponent.views import Explanation, Hit
from proponent.views.frames import Link, PastQuestion
from proponent.views.screens import AskedScreen, AskScreen, GroupScreen, GroupSum, JobScreen
from proponent.views.text_marks import clip
from proponent.web.layout import PageRequest, answer_links, form, method_line
from proponent.web.model_worker import ModelWorker, QuestionJob
from proponent.web.open_indexes import OpenIndex, OpenIndexes
from proponent.web.questions import Question, StoredAnswer, Summary
from proponent.web.states import ExampleState, QuestionState, TableState

RECENT = 8
LISTED = 200
ANSWER_FILES = ("html", "json", "csv", "jsonl", "parquet", "pair")
GROUP_FILES = ("csv", "jsonl", "parquet")


def question_of(state: QuestionState) -> Question:
    """Take the question out of a state."""
    return Question(
        state.text,
        state.pair,
        state.target,
        state.label,
        state.against,
        state.k,
        only_label=tuple(sorted(state.only_label)),
        only_source=tuple(sorted(state.only_source)),
    )


def state_of(index: str, question: Question) -> QuestionState:
    """Make the state that shows the answer to a question."""
    return QuestionState(
        index=(index,) if index else (),
        text=question.text,
        pair=question.pair,
        target=question.target,
        label=question.label,
        against=question.against,
        k=question.k,
        only_label=question.only_label,
        only_source=question.only_source,
    )


def ask_screen(request: PageRequest, open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> AskScreen:
    """Show a question, and its answer if there is one."""
    shown.check_filters(question_of(state))
    kept = shown.questions.get(question_of(state)) if _given(state) else None
    filled = form(open_indexes, shown, state)
    ways = answer_links(request, shown, state)
    if kept is None:
        recent = tuple(_asked(shown, one) for one in list(shown.questions.list().values())[:RECENT])
        return AskScreen(
            form=filled,
            answer=None,
            answer_links=ways,
            problem=_missing(shown),
            recent=recent,
            n_examples=shown.store.counts.examples,
        )
    answer = kept.answer
    whole = len(answer.proponents) + len(answer.opponents)
    return AskScreen(
        form=filled,
        answer=filter_options(answer, state.word),
        answer_links=ways,
        all_hits=whole,
        exports=tuple(Link(_file_words(kind), state.url("/export/answer." + kind)) for kind in ANSWER_FILES),
        groups=state.url("/groups", word=""),
        n_examples=shown.store.counts.examples,
        seconds=kept.seconds,
    )


def filter_options(answer: Explanation, word: str) -> Explanation:
    """Leave the hits that share a word."""
    if not word:
        return answer
    wanted = word.casefold()

    def kept(hits: tuple[Hit, ...]) -> tuple[Hit, ...]:
        return tuple(
            hit
            for hit in hits
            if any(wanted in {pair.query_word.casefold(), pair.train_word.casefold()} for pair in hit.words)
        )

    return replace(answer, proponents=kept(answer.proponents), opponents=kept(answer.opponents))


def job_screen(asker: ModelWorker, job: QuestionJob, index: str) -> JobScreen:
    """Show a question on its way."""
    return JobScreen(
        id=job.id,
        url=ExampleState(index=index, id=job.id).url("/job"),
        text=clip(job.question.text, 600),
        stage=job.stage,
        ahead=asker.ahead(job),
        seconds=job.seconds,
        error=job.error,
        again=state_of(index, job.question).url("/ask"),
    )


def asked_screen(shown: OpenIndex) -> AskedScreen:
    """List the questions that were asked."""
    found = list(shown.questions.list().values())
    looking = ExampleState(index=shown.name)
    return AskedScreen(
        index=shown.name,
        questions=tuple(_asked(shown, one) for one in found[:LISTED]),
        total=len(found),
        file=shown.questions.folder.name,
        exports=(
            Link("one page (HTML)", looking.url("/export/answers.html")),
            Link("PAIR viewer (JSONL)", looking.url("/export/answers.pair")),
            Link("JSON Lines", looking.url("/export/answers.json")),
        ),
    )


def group_screen(open_indexes: OpenIndexes, shown: OpenIndex, state: QuestionState) -> GroupScreen:
    """Show sums over groups."""
    shown.check_filters(question_of(state))
    kept = shown.questions.get(question_of(state)) if _given(state) else None
    known = tuple(kept.groups) if kept is not None else ()
    by = state.by if state.by in known else next(iter(known), "label")
    return GroupScreen(
        form=form(open_indexes, shown, state),
        headline=kept.answer.headline if kept is not None else "",
        by=tuple(Link(one, state.url("/groups", by=one), one == by) for one in known),
        sums=sums(shown, kept, by) if kept is not None else (),
        answer=state.url("/ask"),
        exports=tuple(Link(_file_words(kind), state.url("/export/groups." + kind)) for kind in GROUP_FILES),
        method=method_line(shown.plan),
    )


def sums(shown: OpenIndex, kept: StoredAnswer, by: str) -> tuple[GroupSum, ...]:
    """The sums over the values of a column."""
    made = [
        GroupSum(
            name=one.name,
            n=one.n,
            total=one.proponents + one.opponents,
            proponents=one.proponents,
            opponents=one.opponents,
            mean=(one.proponents + one.opponents) / max(1, one.n),
            url=TableState(index=shown.name).url("/table", **{by: (one.name,)}),
        )
        for one in kept.groups.get(by, ())
    ]
    return tuple(sorted(made, key=lambda one: (-one.total, one.name)))


def kept_of(shown: OpenIndex, state: QuestionState) -> StoredAnswer:
    """Find an answer that must be there."""
    kept = shown.questions.get(question_of(state))
    if kept is None:
        raise InputError("this question was not asked of this index yet: ask it first")
    return kept


def _given(state: QuestionState) -> bool:
    return bool((state.text + state.pair + state.target).strip())


def _missing(shown: OpenIndex) -> str:
    folder = shown.run_folder
    if folder.exists():
        return ""
    return (
        f"New texts cannot be asked: the model's folder {folder} is not there. Everything else works, answers that "
        "were asked before too. If the folder has moved, start again with --run FOLDER."
    )


def _asked(shown: OpenIndex, one: Summary) -> PastQuestion:
    return PastQuestion(
        text=clip(one.question.text, 160),
        only=clip(one.question.filters, 160),
        label=(one.explained or "") + (f" and not {one.question.against}" if one.question.against else ""),
        predicted=one.predicted or "",
        when=one.when.replace("T", " ").removesuffix("+00:00")[:16],
        url=state_of(shown.name, one.question).url("/ask"),
    )


_WORDS = {
    "html": "page (HTML)",
    "json": "JSON",
    "csv": "CSV",
    "jsonl": "JSON Lines",
    "parquet": "Parquet",
    "pair": "PAIR viewer (JSONL)",
    "cleanlab": "cleanlab (CSV)",
}


def _file_words(kind: str) -> str:
    return _WORDS[kind]


def file_links(state: QuestionState | TableState, what: str, kinds: Sequence[str]) -> tuple[Link, ...]:
    """Link the files of what is seen."""
    return tuple(Link(_WORDS[kind], state.url(f"/export/{what}.{kind}")) for kind in kinds)
