"""Keep forms on disk and read them back; knows neither model nor torch."""

from whence.store.manifest import FORMAT, Manifest, Plan, PlannedCheckpoint, SkippedRow
from whence.store.reader import Postings, Store
from whence.store.writer import Writer

__all__ = ["FORMAT", "Manifest", "Plan", "PlannedCheckpoint", "Postings", "SkippedRow", "Store", "Writer"]
