"""Keep forms on disk and read them back; knows neither model nor torch."""

from whence.store.changing import delete
from whence.store.manifest import (
    FORMAT,
    Manifest,
    Plan,
    PlannedBlock,
    PlannedCheckpoint,
    PlannedSegment,
    SkippedRow,
    Source,
)
from whence.store.merge import merge
from whence.store.postings import Postings
from whence.store.reader import Store
from whence.store.rows import RowKind
from whence.store.segment import Segment
from whence.store.sums import Sums
from whence.store.verify import Verdict, verify
from whence.store.watching import BuildProgress, watch
from whence.store.writer import Writer

__all__ = [
    "FORMAT",
    "BuildProgress",
    "Manifest",
    "Plan",
    "PlannedBlock",
    "PlannedCheckpoint",
    "PlannedSegment",
    "Postings",
    "RowKind",
    "Segment",
    "SkippedRow",
    "Source",
    "Store",
    "Sums",
    "Verdict",
    "Writer",
    "delete",
    "merge",
    "verify",
    "watch",
]
