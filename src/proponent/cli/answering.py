"""Who answers a question: a running `proponent serve` of the index, or this process, which then loads the model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proponent.cli.options import AggregateOptions, filters_of
from proponent.web.running import NotAnsweredError, RunningExplorer

if TYPE_CHECKING:
    from proponent.index import Index
    from proponent.types import Example
    from proponent.views import Explanation

Alone = Annotated[
    bool,
    typer.Option("--alone", help="Load the model here, even if a running `proponent serve` of the index has it."),
]
NUMPY = "numpy"


class Answers:
    """Answers questions about one index.

    A running explorer is asked first, where it would answer as this process does; once it does not answer, this
    process goes on alone.
    """

    def __init__(
        self,
        folder: Path,
        opening: Mapping[str, Any],
        filters: tuple[Sequence[str] | None, list[str] | None],  # of --where, and ids
        together: AggregateOptions,
        say: Callable[[str], None],
        *,
        alone: bool,
    ) -> None:
        self._folder, self._opening, self._filters, self._together = folder, opening, filters, together
        self._say, self._said = say, False
        same = together == AggregateOptions() and opening["kernel"] == NUMPY and opening["words"] is None
        asks = same and not alone and not opening["partial"]
        self._running = RunningExplorer(folder, opening) if asks else None
        self._filtered: dict[str, Any] | None = None

    def open(self) -> None:
        """Open the index here, unless a running explorer has it: what is wrong with it is said before any question."""
        if self._running is not None:
            try:
                self._where_there(self._running)
            except NotAnsweredError as error:
                self._go_on_alone(error)
            else:
                return
        _ = self._how_here

    def explain(self, text: str | None = None, **how: Any) -> "Explanation":
        """Answer a question: arguments of `Index.explain`, besides filters and aggregation."""
        if self._running is not None:
            try:
                return self._asked(self._running, {"text": text, **how})
            except NotAnsweredError as error:
                self._go_on_alone(error)
        return self._index.explain(text, **how, **self._how_here)

    def explain_file(self, asked: "Sequence[Example]", **how: Any) -> "Iterable[Explanation]":
        """Answer the questions of a file, one by one or as a group: always here, where their passes are shared."""
        if self._together.group:
            return [self._index.explain_group(asked, **how, **self._how_here)]
        return self._index.explain_many(asked, **how, **self._how_here)

    def check_label(self, label: str) -> None:
        """Refuse a class that the index does not have."""
        if self._running is not None:
            try:
                self._running.check_label(label)
            except NotAnsweredError as error:
                self._go_on_alone(error)
            else:
                return
        self._index.store.plan.labels.number(label)

    def _asked(self, running: RunningExplorer, question: dict[str, Any]) -> "Explanation":
        from proponent.views import Explanation

        found = running.explain(question | {"where": self._where_there(running)})
        if not self._said:
            self._said = True
            self._say("answered by the running `proponent serve` of this index; --alone loads the model here")
        return replace(Explanation.from_dict(found["answer"]), n_examples=int(found["n_examples"]))

    def _where_there(self, running: RunningExplorer) -> dict[str, Any]:
        """The filters for a running explorer."""
        if self._filtered is None:
            filters, ids = self._filters
            self._filtered = {"ids": ids, **filters_of(filters, running.names())}
        return self._filtered

    @cached_property
    def _how_here(self) -> dict[str, Any]:
        """Aggregation and filters for the index that is open here."""
        rule = self._together.rule()
        from proponent.search import Where

        filters, ids = self._filters
        return {"aggregate": rule, "where": Where(ids=ids, **filters_of(filters, self._index.store.plan.label_names))}

    def _go_on_alone(self, why: NotAnsweredError) -> None:
        self._running = None
        if str(why):
            self._say(f"{why}: the model is loaded here")

    @cached_property
    def _index(self) -> "Index":
        from proponent.api import open as open_index

        return open_index(self._folder, **self._opening)
