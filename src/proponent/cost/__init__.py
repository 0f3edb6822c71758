"""Predict the cost of an index from a few real batches: seconds, memory, disk.

Batches of several lengths, including the longest, go through the model. Their forms are written and converted to
postings in a temporary folder next to the future index. The measurements are extrapolated to all batches of
the build. The figures hold for this machine at its current load.
"""

from proponent.cost.choices import Choice, choices
from proponent.cost.forecast import Forecast, Stage, forecast

__all__ = ["Choice", "Forecast", "Stage", "choices", "forecast"]
