"""Pages: the view of an explanation in a notebook, a file and a terminal; rendering needs no model."""

from proponent.views.evaluation import EvaluationReport, MethodFigures
from proponent.views.explanation import CAVEAT, BaselineHit, CheckpointView, Explanation, Hit, QueryView, WordPair
from proponent.views.page import Page, document, fragment
from proponent.views.reports import Report
from proponent.views.suspects import LabelReport, RankingRecall, Story, Suspect

__all__ = [
    "CAVEAT",
    "BaselineHit",
    "CheckpointView",
    "EvaluationReport",
    "Explanation",
    "Hit",
    "LabelReport",
    "MethodFigures",
    "Page",
    "QueryView",
    "RankingRecall",
    "Report",
    "Story",
    "Suspect",
    "WordPair",
    "document",
    "fragment",
]
