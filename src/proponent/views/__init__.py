"""Pages: the view of an explanation in a notebook, a file and a terminal; rendering needs no model."""

from proponent.views.acting import ActionReport, Evidence, EvidenceRow
from proponent.views.error_report import ErrorReport
from proponent.views.evaluation import EvaluationReport, Figure, MethodFigures
from proponent.views.explanation import CAVEAT, BaselineHit, CheckpointView, Explanation, QueryView
from proponent.views.hit import Hit
from proponent.views.page import Page, document, fragment
from proponent.views.reports import Report
from proponent.views.row_suspects import RowReason, RowReport, SuspectRow
from proponent.views.suspects import LabelReport, RankingRecall, Story, Suspect
from proponent.views.word_pair import WordPair

__all__ = [
    "CAVEAT",
    "ActionReport",
    "BaselineHit",
    "CheckpointView",
    "ErrorReport",
    "EvaluationReport",
    "Evidence",
    "EvidenceRow",
    "Explanation",
    "Figure",
    "Hit",
    "LabelReport",
    "MethodFigures",
    "Page",
    "QueryView",
    "RankingRecall",
    "Report",
    "RowReason",
    "RowReport",
    "Story",
    "Suspect",
    "SuspectRow",
    "WordPair",
    "document",
    "fragment",
]
