"""Write gradients to disk and read them back; independent of models and torch."""

from proponent.store.bucket_changes import building, plan_folder
from proponent.store.build_progress import BuildProgress, watch
from proponent.store.checksums import Checksums
from proponent.store.deletion import delete
from proponent.store.layout import array_name
from proponent.store.manifest import (
    FORMAT,
    Manifest,
    Plan,
    PlannedBlock,
    PlannedCheckpoint,
    PlannedSegment,
    PlannedTerm,
    SkippedRow,
    Source,
)
from proponent.store.merge import merge
from proponent.store.mirror import beside, latest, local
from proponent.store.postings import Postings
from proponent.store.reader import Store
from proponent.store.rows import RowKind
from proponent.store.segment import Segment
from proponent.store.verify import Verdict, verify
from proponent.store.writer import Writer

__all__ = [
    "FORMAT",
    "BuildProgress",
    "Checksums",
    "Manifest",
    "Plan",
    "PlannedBlock",
    "PlannedCheckpoint",
    "PlannedSegment",
    "PlannedTerm",
    "Postings",
    "RowKind",
    "Segment",
    "SkippedRow",
    "Source",
    "Store",
    "Verdict",
    "Writer",
    "array_name",
    "beside",
    "building",
    "delete",
    "latest",
    "local",
    "merge",
    "plan_folder",
    "verify",
    "watch",
]
