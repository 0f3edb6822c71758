"""Context of the page of an action: figures beside controls, and the rows that they stand on."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from proponent.views.data_frames import data_frame
from proponent.views.evaluation import EvaluationReport


@dataclass(frozen=True, slots=True)
class EvidenceRow:
    """One example, and what the action says of it."""

    id: Annotated[str, "id of the example"]
    label: Annotated[str, "its class"]
    value: Annotated[float, "what the column is named after"]
    text: Annotated[str, "its text"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Some examples in order."""

    title: Annotated[str, "what they are"]
    value_name: Annotated[str, "name of the column of values"]
    rows: Annotated[tuple[EvidenceRow, ...], "examples, in order"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ActionReport(EvaluationReport):
    """The results of an action beside its controls, with evidence."""

    template: ClassVar[str] = "action_fragment.html.j2"

    evidence: Annotated[tuple[Evidence, ...], "examples that the figures stand on"] = ()

    @property
    def goes_on(self) -> bool:
        """Whether other tables follow, and the notes after them."""
        return True

    def evidence_to_pandas(self) -> Any:
        """One row per example of the evidence.

        Returns:
            A pandas DataFrame: title of the list, rank from 1, id, label, what the value is, value, text.

        Raises:
            MissingExtraError: if pandas is not installed.
        """
        rows = [
            (some.title, rank, one.id, one.label, some.value_name, one.value, one.text)
            for some in self.evidence
            for rank, one in enumerate(some.rows, 1)
        ]
        return data_frame(rows, ["list", "rank", "id", "label", "value name", "value", "text"])
