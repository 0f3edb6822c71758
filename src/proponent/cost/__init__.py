"""What an index will cost, measured on a few real batches before anything is spent: seconds, memory, disk.

Batches of several lengths go through the model, the longest one among them; their forms are published and turned into
postings in a temporary folder beside the index-to-be; and the measurements are extrapolated to all batches of
the build. The figures are for this machine at its current load.
"""

from proponent.cost.forecast import Forecast, Stage, forecast

__all__ = ["Forecast", "Stage", "forecast"]
