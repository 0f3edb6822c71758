"""Page of what is behind the wrong predictions of a test set."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from proponent.views import ErrorReport
from proponent.views.frames import AnswerLinks, Link, Screen
from proponent.views.page import Limits
from proponent.views.text_marks import clip
from proponent.web.error_tasks import MOST_ERRORS, K, report_of, stored_errors, task_name
from proponent.web.layout import file_links, method_line
from proponent.web.model_worker import ModelWorker
from proponent.web.open_indexes import OpenIndex
from proponent.web.pages.test_set_frame import ROW_FILES
from proponent.web.states import ErrorsState, PredictedState
from proponent.web.test_sets import OpenTestSets, no_test_set

NO_TEST_SET = "There is no test set: choose a file first."
NO_CLASSES = (
    "A language model predicts no classes, so none of its rows is wrong: the page of the test set lists them by loss. "
    "What recurs behind many rows stands in `proponent report INDEX FILE --out page.html`."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorsScreen(Screen):
    """Training examples and words that recur behind the wrong predictions of a test set."""

    template: ClassVar[str] = "explorer/errors.html.j2"
    limits: ClassVar[Limits] = Limits()

    url: Annotated[str, "this page"]
    set: Annotated[str, "identity of the test set; empty without one"] = ""
    name: Annotated[str, "its name"] = ""
    back: Annotated[Link, "the page of the test set"]
    problem: Annotated[str, "why there is nothing to show; or empty"] = ""
    wrong: Annotated[int, "wrong predictions"] = 0
    most: Annotated[int, "wrong predictions that are explained at most"] = MOST_ERRORS
    k: Annotated[int, "proponents of each that count"] = K
    job: Annotated[str, "id of the work under way; empty if there is none"] = ""
    stage: Annotated[str, "how far it is"] = ""
    done: Annotated[int, "wrong predictions that are explained so far"] = 0
    total: Annotated[int, "wrong predictions to explain"] = 0
    report: Annotated[ErrorReport | None, "what was found; None if it was not computed yet"] = None


def errors_screen(test_sets: OpenTestSets, asker: ModelWorker, shown: OpenIndex, state: ErrorsState) -> ErrorsScreen:
    """Show what is behind the wrong predictions, the progress, or the button that begins."""
    back = PredictedState(index=state.index, set=state.set)
    screen = ErrorsScreen(
        title="Behind the wrong predictions",
        index=shown.name,
        url=state.url("/errors"),
        back=Link("the test set", back.url("/test")),
        method=method_line(shown.plan),
    )
    test_set = test_sets.get(state.set, shown) if shown.classifier else None
    if test_set is None:
        return replace(screen, problem=NO_TEST_SET if shown.classifier else no_test_set(shown) or NO_CLASSES)
    judged = test_sets.judged(shown, test_set)
    found = judged.predictions
    screen = replace(screen, set=test_set.id, name=clip(test_set.name, 60))
    if found is None or not found.wrong.any():
        why = (
            "The test set is not predicted yet."
            if found is None
            else "No prediction is wrong, as far as rows are judged."
        )
        return replace(screen, problem=why)
    screen = replace(screen, wrong=int(found.wrong.sum()))
    stored = stored_errors(judged)
    errors = stored.get()
    if errors is not None:
        links = AnswerLinks(index=shown.name, state=(), token="", back="", names=(), decided={})
        warnings = (f"This is not kept: {stored.unkept}. It is gone when the explorer ends.",) if stored.unkept else ()
        if not stored.own:
            warnings = (
                *warnings,
                "This came with the folder of the index: it was not computed by you. Compute it again.",
            )
        report = report_of(judged, found, errors)
        files = file_links(state, "errors", ("html", "json", *ROW_FILES))
        return replace(screen, report=report, answer_links=links, warnings=warnings, exports=files)
    job = asker.rows_job(task_name(judged), shown.folder)
    if job is None or job.state == "done":
        return replace(screen, problem=shown.missing)
    if job.state == "failed":
        return replace(screen, problem=job.error)
    return replace(
        screen, job=job.id, stage=f"{job.progress}; {job.stage}", done=job.done, total=job.task.total, refresh=3.0
    )
